//! The names this node goes by: `/etc/iscsi/initiatorname.iscsi`, and what interfaces have instead.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use san_core::{Cx, Error, ErrorKind, Iqn, Result};
use san_host::Guard;

use crate::record;
use crate::transport::DEFAULT;

/// Where open-iscsi keeps it.
const FILE: &str = "/etc/iscsi/initiatorname.iscsi";
/// Where the releases in use keep interfaces, each of which may have a name of its own, newest first.
const INTERFACES: [&str; 2] = ["/var/lib/iscsi/ifaces", "/etc/iscsi/ifaces"];
const FILE_MAX: usize = 64 << 10;

const MAKE_ONE: &str = "install open-iscsi and run `systemctl restart iscsid`, which writes a unique name, or write \
                        `InitiatorName=` and the output of `iscsi-iname` to /etc/iscsi/initiatorname.iscsi";

/// The names sessions through these interfaces (the usual one, where there are none) are made under.
///
/// # Errors
/// `NotFound` naming every interface this node lacks.
pub(crate) async fn names(guard: &Guard, cx: &Cx, interfaces: &[String]) -> Result<BTreeSet<Iqn>> {
    let text = guard.read(cx, Path::new(FILE), FILE_MAX).await?;
    let usual = || parse(text.as_deref());
    if interfaces.is_empty() {
        return Ok([usual()?].into());
    }
    let (mut names, mut missing) = (BTreeSet::new(), Vec::new());
    for it in interfaces {
        let own = match find(guard, cx, it).await? {
            Some((file, text)) => {
                let own = record::parse(&text).get("iface.initiatorname").cloned();
                own.map(|own| own.parse().map_err(|error: Error| error.on(file.display()))).transpose()?
            }
            None if it == DEFAULT => None,
            None => {
                missing.push(it.as_str());
                continue;
            }
        };
        names.insert(match own {
            Some(own) => own,
            None => usual()?,
        });
    }
    if missing.is_empty() {
        return Ok(names);
    }
    let message = format!("this node has no open-iscsi interface {}", missing.join(", "));
    Err(Error::new(ErrorKind::NotFound, message).on(INTERFACES.join(", ")).with_remedy(
        "make it: iscsiadm -m iface -I NAME -o new; iscsiadm -m iface -I NAME -o update -n iface.net_ifacename -v DEVICE",
    ))
}

/// An interface's file and what it says; `None` where this node has none of that name.
async fn find(guard: &Guard, cx: &Cx, interface: &str) -> Result<Option<(PathBuf, Vec<u8>)>> {
    for folder in INTERFACES {
        let file = Path::new(folder).join(interface);
        if let Some(text) = guard.read(cx, &file, FILE_MAX).await? {
            return Ok(Some((file, text)));
        }
    }
    Ok(None)
}

/// The one name in the file's text.
fn parse(text: Option<&[u8]>) -> Result<Iqn> {
    let Some(text) = text else { return Err(none("this node has no iSCSI name yet")) };
    let text = std::str::from_utf8(text).map_err(|_| bad("it is not text".to_owned()))?;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim).filter(|it| !it.is_empty() && !it.starts_with('#')) {
        match line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
            Some(("InitiatorName", value)) => names.push(value),
            // Debian's file before the first start of iscsid.
            Some(("GenerateName", "yes")) => return Err(none("this node's iSCSI name is not generated yet")),
            _ => {}
        }
    }
    match names.as_slice() {
        [] => Err(none("this node has no iSCSI name yet")),
        [name] => name.parse().map_err(|error: Error| bad(error.message().to_owned())),
        // open-iscsi takes one of them; the array may have been told another.
        names => Err(bad(format!("it holds {} names", names.len()))),
    }
}

fn none(message: &'static str) -> Error {
    Error::new(ErrorKind::NotFound, message).on(FILE).with_remedy(MAKE_ONE)
}

fn bad(why: String) -> Error {
    Error::new(ErrorKind::InvalidInput, why)
        .on(FILE)
        .with_remedy("keep exactly one line `InitiatorName=iqn...` and run `systemctl restart iscsid`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        use ErrorKind::{InvalidInput, NotFound};
        let cases: [(&str, Result<&str, ErrorKind>); 8] = [
            ("InitiatorName=iqn.1993-08.org.debian:01:abc\n", Ok("iqn.1993-08.org.debian:01:abc")),
            ("## a comment\n\n InitiatorName = IQN.1993-08.org:X \n", Ok("iqn.1993-08.org:x")),
            ("", Err(NotFound)),
            ("GenerateName=yes\n", Err(NotFound)),
            ("#InitiatorName=iqn.1993-08.org:x\n", Err(NotFound)),
            ("InitiatorName=\n", Err(InvalidInput)),
            ("InitiatorName=host1\n", Err(InvalidInput)),
            ("InitiatorName=iqn.2000-01.a:1\nInitiatorName=iqn.2000-01.a:2\n", Err(InvalidInput)),
        ];
        for (text, expected) in cases {
            let parsed = parse(Some(text.as_bytes()));
            assert_eq!(parsed.as_ref().map(Iqn::as_str).map_err(Error::kind), expected, "{text:?}");
            assert!(parsed.is_ok() || parsed.is_err_and(|it| it.remedy().is_some()), "{text:?}");
        }
        assert_eq!(parse(None).unwrap_err().kind(), NotFound);
        assert_eq!(parse(Some(b"\xff")).unwrap_err().kind(), InvalidInput);
    }
}
