//! HTTP Basic authentication: the header a client must send.

use std::fmt::Write as _;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The value of the `Authorization` header.
pub(crate) fn basic(user: &str, password: &str) -> String {
    let mut header = String::from("Basic ");
    for chunk in format!("{user}:{password}").as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let six = (bits >> (18 - 6 * place)) & 63;
            let symbol = ALPHABET.get(six as usize).filter(|_| place <= chunk.len());
            let _ = write!(header, "{}", char::from(symbol.copied().unwrap_or(b'=')));
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(basic("admin", "netapp1!"), "Basic YWRtaW46bmV0YXBwMSE=");
        assert_eq!(basic("a", "b"), "Basic YTpi");
        assert_eq!(basic("a", "bc"), "Basic YTpiYw==");
    }
}
