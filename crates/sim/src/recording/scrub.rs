//! Takes out of a transcript what differs from run to run.

/// Numbers after these texts say nothing: counters, process ids, times.
const NUMBERS: [&str; 7] = [
    "DISKSEQ=",
    "by-diskseq/",
    "pid ",
    "diskseq: ",
    "USEC_INITIALIZED=",
    "\"map_loads\" : ",
    "\"path_faults\" : ",
];

/// Parts of multipathd's JSON that depend on when it learns the paths' priorities and when the kernel has to do with a
/// map: the state of a group, and what was done last.
const MOMENTS: [&str; 2] = ["|          \"dm_st\" : ", "|       \"action\" : "];

/// Attributes whose values say nothing: counters, ports, times.
const VALUES: [&str; 11] = [
    "stat",
    "creator",
    "exp_statsn",
    "local_port",
    "iodone_cnt",
    "ioerr_cnt",
    "iorequest_cnt",
    "iotmo_cnt",
    "device_busy",
    "host_busy",
    "diskseq",
];

/// What stands for something left out.
pub(super) const BLANK: &str = "~";

/// Whether an attribute's value says nothing.
pub(super) fn is_volatile(attribute: &str) -> bool {
    VALUES.contains(&attribute.rsplit('/').next().unwrap_or(attribute))
}

/// One line of a transcript. Sessions are counted from the first one of the scene.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    first_session: Option<u32>,
}

impl Scrub {
    pub(super) fn line(&mut self, line: &str) -> String {
        if let Some(it) = MOMENTS.iter().find(|it| line.starts_with(**it)) {
            return format!("{it}{BLANK}");
        }
        let mut text = line.to_owned();
        for after in NUMBERS {
            text = each_number(&text, after, |_| BLANK.to_owned());
        }
        for after in ["session", "connection", "[sid: ", "tcp: ["] {
            text = each_number(&text, after, |number| {
                let first = *self.first_session.get_or_insert(number);
                (i64::from(number) - i64::from(first) + 1).to_string()
            });
        }
        text
    }
}

/// Replaces every decimal number that follows `after`.
fn each_number(text: &str, after: &str, mut change: impl FnMut(u32) -> String) -> String {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(after) {
        let (head, tail) = rest.split_at(at + after.len());
        done.push_str(head);
        let digits = tail.len() - tail.trim_start_matches(|it: char| it.is_ascii_digit()).len();
        let (number, tail) = tail.split_at(digits);
        match number.parse() {
            Ok(number) => done.push_str(&change(number)),
            Err(_) => done.push_str(number),
        }
        rest = tail;
    }
    done.push_str(rest);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_goes_and_sessions_are_counted_anew() {
        let mut scrub = Scrub::default();
        let mut line = |text: &str| scrub.line(text);
        assert_eq!(
            line("/devices/platform/host0/session7/target0:0:0"),
            "/devices/platform/host0/session1/target0:0:0"
        );
        assert_eq!(line("session8 -> ../host1/session8"), "session2 -> ../host1/session2");
        assert_eq!(line("Logout of [sid: 8, target"), "Logout of [sid: 2, target");
        assert_eq!(line("connection7:0"), "connection1:0");
        assert_eq!(line("S:disk/by-diskseq/14"), "S:disk/by-diskseq/~");
        assert_eq!(line("pid 214 idle"), "pid ~ idle");
        assert_eq!(line("iscsi_session"), "iscsi_session");
        assert_eq!(line("|          \"dm_st\" : \"enabled\","), "|          \"dm_st\" : ~");
        assert_eq!(line("|       \"map_loads\" : 3,"), "|       \"map_loads\" : ~,");
        assert!(is_volatile("block/sda/stat") && !is_volatile("state"));
    }
}
