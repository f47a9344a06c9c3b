//! multipathd's socket protocol: an 8-byte native length that counts the trailing NUL, then the text.

use san_core::{Error, ErrorKind, Result, Waiting};
use san_host::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The longest reply multipathd sends, and hence the longest one believed.
pub(crate) const REPLY_MAX: usize = 32 << 20;
/// The longest command it takes.
const COMMAND_MAX: usize = 512;

/// What multipathd answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Exactly `ok`: done.
    Ok,
    /// `fail`, with the reason where the release gives one (0.9.8 and newer).
    Fail(Reason),
    /// Anything else: the text of a `show`, or a refusal such as `blacklisted`.
    Text(String),
}

/// Why it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It does not say.
    Unsaid,
    /// It could not get its own lock in time; the command may run yet.
    Timeout,
    /// The map, or a partition on it, is open.
    InUse,
    /// It knows no such map or path.
    NotFound,
    /// Something else.
    Other(String),
}

impl Reply {
    pub(crate) fn parse(text: &str) -> Self {
        let text = text.trim_end();
        let mut lines = text.lines().map(str::trim);
        match lines.next() {
            Some("ok") if text == "ok" => Self::Ok,
            // Releases before 0.9.8 answer this alone.
            Some("timeout") => Self::Fail(Reason::Timeout),
            Some("fail") => Self::Fail(match lines.next() {
                None | Some("") => Reason::Unsaid,
                Some("timeout") => Reason::Timeout,
                Some("map or partition in use") => Reason::InUse,
                Some("device not found") => Reason::NotFound,
                Some(other) => Reason::Other(shown(other)),
            }),
            _ => Self::Text(text.to_owned()),
        }
    }

    /// For messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Ok => "ok".to_owned(),
            Self::Fail(Reason::Unsaid) => "fail, without a reason".to_owned(),
            Self::Fail(Reason::Timeout) => "timeout".to_owned(),
            Self::Fail(Reason::InUse) => "map or partition in use".to_owned(),
            Self::Fail(Reason::NotFound) => "device not found".to_owned(),
            Self::Fail(Reason::Other(text)) => text.clone(),
            Self::Text(text) => shown(text),
        }
    }
}

/// A daemon's text as far as it fits a message.
fn shown(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(120).collect()
}

/// Sends one command.
pub(crate) async fn send(stream: &mut dyn Stream, command: &str) -> Result<()> {
    if command.len() >= COMMAND_MAX || command.contains('\0') {
        return Err(Error::new(ErrorKind::Internal, "a command to multipathd is malformed"));
    }
    let length = u64::try_from(command.len() + 1).unwrap_or(u64::MAX);
    let mut frame = length.to_ne_bytes().to_vec();
    frame.extend_from_slice(command.as_bytes());
    frame.push(0);
    stream.write_all(&frame).await.map_err(cut)?;
    stream.flush().await.map_err(cut)
}

/// Receives one reply, however the stream splits it.
pub(crate) async fn receive(stream: &mut dyn Stream) -> Result<String> {
    let mut length = [0; 8];
    stream.read_exact(&mut length).await.map_err(cut)?;
    let length = usize::try_from(u64::from_ne_bytes(length)).unwrap_or(usize::MAX);
    if length == 0 || length > REPLY_MAX {
        let message = format!("multipathd announces a reply of {length} bytes");
        return Err(Error::new(ErrorKind::Protocol, message));
    }
    // The announced length is not allocated before the bytes are there.
    let mut bytes = Vec::new();
    let limit = u64::try_from(length).unwrap_or(u64::MAX);
    stream.take(limit).read_to_end(&mut bytes).await.map_err(cut)?;
    if bytes.len() < length {
        return Err(Error::new(ErrorKind::Unavailable, "multipathd closed the connection within a reply"));
    }
    if bytes.pop() != Some(0) {
        return Err(Error::new(ErrorKind::Protocol, "multipathd's reply does not end with a NUL"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn cut(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the connection to multipathd broke").caused_by(error)
}

/// One path as `show paths raw format "%d|%i|%w"` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathLine {
    /// The kernel's name.
    pub(crate) name: String,
    /// The SCSI address as text.
    pub(crate) hctl: String,
    /// The WWID multipathd believes.
    pub(crate) wwid: String,
}

/// The command whose answer [`paths`] reads.
pub(crate) const SHOW_PATHS: &str = "show paths raw format \"%d|%i|%w\"";

/// The lines of the answer.
pub(crate) fn paths(reply: &Reply) -> Result<Vec<PathLine>> {
    lines(reply, "path", |[name, hctl, wwid]| {
        let [name, hctl, wwid] = [name, hctl, wwid].map(str::to_owned);
        (!name.is_empty()).then_some(PathLine { name, hctl, wwid })
    })
}

/// One map as `show maps raw format "%w|%N|%Q"` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MapLine {
    /// Its WWID.
    pub(crate) wwid: String,
    /// Its usable paths.
    pub(crate) usable: u32,
    /// Whether I/O waits where there are none.
    pub(crate) waiting: Waiting,
}

/// The command whose answer [`maps`] reads.
pub(crate) const SHOW_MAPS: &str = "show maps raw format \"%w|%N|%Q\"";

/// The lines of the answer.
pub(crate) fn maps(reply: &Reply) -> Result<Vec<MapLine>> {
    lines(reply, "map", |[wwid, usable, queueing]| {
        let waiting = if queueing == "off" { Waiting::Fails } else { Waiting::Waits };
        Some(MapLine { wwid: wwid.to_owned(), usable: usable.parse().ok()?, waiting })
    })
}

/// The lines of a list in three columns. A line of another shape is an error: half a list must not prove an absence.
fn lines<T>(reply: &Reply, what: &str, parse: impl Fn([&str; 3]) -> Option<T>) -> Result<Vec<T>> {
    let text = match reply {
        // None at all.
        Reply::Ok => return Ok(Vec::new()),
        Reply::Text(text) => text,
        Reply::Fail(_) => {
            let message = format!("multipathd does not list its {what}s: {}", reply.describe());
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
    };
    let lines = text.lines().map(str::trim).filter(|it| !it.is_empty());
    lines
        .map(|line| {
            let columns: Vec<&str> = line.split('|').map(str::trim).collect();
            <[&str; 3]>::try_from(columns).ok().and_then(&parse).ok_or_else(|| {
                let message = format!("multipathd lists a {what} as {:?}", shown(line));
                Error::new(ErrorKind::Protocol, message)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn replies() {
        let other = |text: &str| Reply::Fail(Reason::Other(text.to_owned()));
        let cases = [
            ("ok\n", Reply::Ok),
            ("ok", Reply::Ok),
            ("ok\nbut", Reply::Text("ok\nbut".into())),
            ("fail\n", Reply::Fail(Reason::Unsaid)),
            ("fail\ntimeout\n", Reply::Fail(Reason::Timeout)),
            ("timeout\n", Reply::Fail(Reason::Timeout)),
            ("fail\nmap or partition in use\n", Reply::Fail(Reason::InUse)),
            ("fail\ndevice not found\n", Reply::Fail(Reason::NotFound)),
            ("fail\nno room\n", other("no room")),
            ("blacklisted\n", Reply::Text("blacklisted".into())),
            ("", Reply::Text(String::new())),
        ];
        for (text, expected) in cases {
            assert_eq!(Reply::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn path_lists_are_complete_or_an_error() {
        let reply = Reply::parse("sda|0:0:0:1|3600a098038302d426b3f5478795a3132\nsdb|1:0:0:1|\n");
        let found = paths(&reply).unwrap();
        assert_eq!(found[0].hctl, "0:0:0:1");
        assert_eq!((found[1].name.as_str(), found[1].wwid.as_str()), ("sdb", ""));
        assert_eq!(paths(&Reply::Ok).unwrap(), []);
        assert_eq!(paths(&Reply::parse("sda|0:0:0:1\n")).unwrap_err().kind(), ErrorKind::Protocol);
        assert_eq!(paths(&Reply::parse("fail\ntimeout\n")).unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn maps_are_listed_with_what_becomes_of_their_input_and_output() {
        let reply = Reply::parse("3600a0980|2|on\n3600a0981|0|25 sec\n3600a0982|0|off\n3600a0983|1|-\n");
        let found: Vec<_> = maps(&reply).unwrap().into_iter().map(|it| (it.usable, it.waiting)).collect();
        let expected = [(2, Waiting::Waits), (0, Waiting::Waits), (0, Waiting::Fails), (1, Waiting::Waits)];
        assert_eq!(found, expected);
        assert_eq!(maps(&Reply::Ok).unwrap(), []);
        for odd in ["3600a0980|many|on", "3600a0980|1", "3600a0980|1|on|"] {
            assert_eq!(maps(&Reply::parse(odd)).unwrap_err().kind(), ErrorKind::Protocol, "{odd}");
        }
    }

    #[tokio::test]
    async fn frames_count_the_nul_and_survive_split_reads() {
        // A pipe of 3 bytes splits everything.
        let (near, mut far) = tokio::io::duplex(3);
        let mut near: Box<dyn Stream> = Box::new(near);
        let daemon = tokio::spawn(async move {
            let mut frame = [0; 8 + 12];
            far.read_exact(&mut frame).await.unwrap();
            assert_eq!(frame[..8], 12_u64.to_ne_bytes());
            assert_eq!(&frame[8..], b"show daemon\0");
            let mut reply = 4_u64.to_ne_bytes().to_vec();
            reply.extend_from_slice(b"ok\n\0");
            far.write_all(&reply).await.unwrap();
            far
        });
        send(&mut *near, "show daemon").await.unwrap();
        assert_eq!(receive(&mut *near).await.unwrap(), "ok\n");
        drop(daemon.await.unwrap());
        assert_eq!(receive(&mut *near).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn odd_frames_are_refused() {
        let frame = |length: u64, text: &[u8]| [length.to_ne_bytes().to_vec(), text.to_vec()].concat();
        let cases = [
            (frame(0, b""), ErrorKind::Protocol),
            (frame(u64::MAX, b"x"), ErrorKind::Protocol),
            (frame(3, b"ok\n"), ErrorKind::Protocol),
            (frame(9, b"ok\n\0"), ErrorKind::Unavailable),
            (vec![1, 2], ErrorKind::Unavailable),
        ];
        for (bytes, kind) in cases {
            let (near, mut far) = tokio::io::duplex(64);
            far.write_all(&bytes).await.unwrap();
            drop(far);
            let mut near: Box<dyn Stream> = Box::new(near);
            assert_eq!(receive(&mut *near).await.unwrap_err().kind(), kind, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let reply = Reply::parse(&text);
            let _ = (reply.describe(), paths(&reply), maps(&reply));
        }
    }
}
