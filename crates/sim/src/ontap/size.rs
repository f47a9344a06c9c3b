//! Sizes as the API takes them: bytes, or a number with a suffix in powers of 1024.

/// Bytes, or `None` when the text is not a size.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let shift = match suffix.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "KB" | "K" => 10,
        "MB" | "M" => 20,
        "GB" | "G" => 30,
        "TB" | "T" => 40,
        "PB" | "P" => 50,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024_in_any_case() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("100mb", Some(100 << 20)),
            ("300G", Some(300 << 30)),
            ("1 TB", Some(1 << 40)),
            ("-1", None),
            ("1.5GB", None),
            ("1XB", None),
            ("", None),
            ("99999999999PB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
