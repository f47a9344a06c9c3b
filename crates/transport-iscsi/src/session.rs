//! The kernel's iSCSI sessions, as sysfs shows them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use san_core::{Cx, Error, ErrorKind, Iqn, Result, TargetPort};
use san_host::{Attr, Guard};

const SESSIONS: &str = "/sys/class/iscsi_session";
const CONNECTIONS: &str = "/sys/class/iscsi_connection";

/// One session of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// The SCSI host it brings.
    pub(crate) host: u32,
    /// The SCSI target id behind the host; `None` before the first login completed.
    pub(crate) target_id: Option<u32>,
    pub(crate) portal: SocketAddr,
    pub(crate) target: Iqn,
    /// `LOGGED_IN`, `FAILED` (being repaired by iscsid) or `FREE` (given up for the moment).
    pub(crate) state: String,
    /// The open-iscsi interface it is bound to.
    pub(crate) interface: String,
    /// The group of portals it leads to.
    pub(crate) group: Option<u16>,
}

impl Session {
    /// Whether it carries commands.
    pub(crate) fn is_live(&self) -> bool {
        self.state == "LOGGED_IN" && self.target_id.is_some()
    }

    /// Whether it leads to `port`: the same address as a number, the same port, the same name.
    pub(crate) fn leads_to(&self, port: &TargetPort) -> bool {
        match port {
            TargetPort::Iscsi { portal, target, .. } => {
                self.target == *target
                    && self.portal.port() == portal.port()
                    && self.portal.ip().to_canonical() == portal.ip().to_canonical()
            }
            _ => false,
        }
    }
}

/// The sessions that lead to one of `ports`. A session that vanishes while it is read is none.
pub(crate) async fn sessions(guard: &Guard, cx: &Cx, ports: &[TargetPort]) -> Result<Vec<Session>> {
    // No such class: the kernel module is not loaded, hence no session.
    let names = guard.list(cx, Path::new(SESSIONS)).await?.unwrap_or_default();
    let mut found = Vec::new();
    for name in names {
        if let Some(session) = read(guard, cx, &name, ports).await? {
            found.push(session);
        }
    }
    Ok(found)
}

async fn read(guard: &Guard, cx: &Cx, name: &str, ports: &[TargetPort]) -> Result<Option<Session>> {
    let Some(number) = name.strip_prefix("session").and_then(|it| it.parse::<u32>().ok()) else {
        return Ok(None);
    };
    let directory = Path::new(SESSIONS).join(name);
    let Some(target) = text(guard, cx, &directory, "targetname").await? else { return Ok(None) };
    // Other people's sessions are not looked at any further: one of them may hang.
    let is_wanted = |it: &&TargetPort| matches!(it, TargetPort::Iscsi { target: wanted, .. } if wanted.as_str().eq_ignore_ascii_case(&target));
    if !ports.iter().any(|it| is_wanted(&it)) {
        return Ok(None);
    }
    let Some(portal) = portal(guard, cx, number).await? else { return Ok(None) };
    let Some(state) = text(guard, cx, &directory, "state").await? else { return Ok(None) };
    let target_id = text(guard, cx, &directory, "target_id").await?.and_then(|it| it.parse().ok());
    let Some(link) = guard.read_link(cx, &directory).await? else { return Ok(None) };
    let host = host_of(&link).ok_or_else(|| {
        Error::new(ErrorKind::Protocol, format!("the link {} names no SCSI host", link.display())).on(name)
    })?;
    let session = Session {
        host,
        // The kernel shows "none yet" as the largest number.
        target_id: target_id.filter(|it| *it != u32::MAX),
        portal,
        target: target.parse()?,
        state,
        interface: text(guard, cx, &directory, "ifacename").await?.unwrap_or_default(),
        group: text(guard, cx, &directory, "tpgt").await?.and_then(|it| it.parse().ok()),
    };
    Ok(ports.iter().any(|it| session.leads_to(it)).then_some(session))
}

/// Where the session was asked to go. `address` is where it went, which a redirecting target may have changed.
async fn portal(guard: &Guard, cx: &Cx, number: u32) -> Result<Option<SocketAddr>> {
    let directory = Path::new(CONNECTIONS).join(format!("connection{number}:0"));
    for (address, port) in [("persistent_address", "persistent_port"), ("address", "port")] {
        let address = text(guard, cx, &directory, address).await?;
        let port = text(guard, cx, &directory, port).await?;
        if let (Some(address), Some(port)) = (address.as_deref().and_then(parse_ip), port)
            && let Ok(port) = port.parse()
        {
            return Ok(Some(SocketAddr::new(address, port)));
        }
    }
    Ok(None)
}

/// An attribute's text; `None` where it, its device or a value is not there.
async fn text(guard: &Guard, cx: &Cx, directory: &Path, attribute: &str) -> Result<Option<String>> {
    let value = guard.attr(cx, directory, attribute).await?;
    Ok(match &value {
        Attr::Value(_) => value.text().filter(|it| !it.is_empty() && *it != "(null)").map(str::to_owned),
        Attr::Missing | Attr::DeviceGone => None,
    })
}

/// An address as sysfs prints it: version 6 with or without brackets, a link-local one with its interface.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_start_matches('[').trim_end_matches(']');
    text.split('%').next()?.parse().ok()
}

/// The host number in a link such as `../../devices/platform/host0/session1/iscsi_session/session1`.
fn host_of(link: &Path) -> Option<u32> {
    let parts = link.iter().filter_map(|it| it.to_str());
    parts.filter_map(|it| it.strip_prefix("host")).find_map(|it| it.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(portal: &str) -> Session {
        Session {
            host: 0,
            target_id: Some(0),
            portal: portal.parse().unwrap(),
            target: "iqn.1992-08.com.netapp:sn.1:vs.2".parse().unwrap(),
            state: "LOGGED_IN".into(),
            interface: "default".into(),
            group: Some(1028),
        }
    }

    fn port(portal: &str, target: &str) -> TargetPort {
        TargetPort::Iscsi { portal: portal.parse().unwrap(), target: target.parse().unwrap(), node: None }
    }

    #[test]
    fn addresses_are_compared_as_numbers_never_as_text() {
        let iqn = "iqn.1992-08.com.netapp:sn.1:vs.2";
        let cases = [
            ("10.0.0.1:3260", "10.0.0.1:3260", iqn, true),
            ("10.0.0.10:3260", "10.0.0.1:3260", iqn, false),
            ("10.0.0.1:3260", "10.0.0.1:3261", iqn, false),
            ("10.0.0.1:3260", "10.0.0.1:3260", "iqn.1992-08.com.netapp:sn.1:vs.20", false),
            ("[fd00::1]:3260", "[fd00:0:0::1]:3260", iqn, true),
            ("[::ffff:10.0.0.1]:3260", "10.0.0.1:3260", iqn, true),
            ("10.0.0.1:3260", "10.0.0.1:3260", &iqn.to_uppercase(), true),
        ];
        for (have, want, target, expected) in cases {
            assert_eq!(session(have).leads_to(&port(want, target)), expected, "{have} {want} {target}");
        }
    }

    /// Scenario 25: a session that is there but does not carry commands is not live.
    #[test]
    fn only_a_logged_in_session_is_live() {
        for (state, target_id, live) in [
            ("LOGGED_IN", Some(0), true),
            ("FAILED", Some(0), false),
            ("FREE", Some(0), false),
            ("LOGGED_IN", None, false),
        ] {
            let it = Session { state: state.into(), target_id, ..session("10.0.0.1:3260") };
            assert_eq!(it.is_live(), live, "{state}");
        }
    }

    #[test]
    fn sysfs_spellings() {
        assert_eq!(parse_ip("10.77.1.2"), "10.77.1.2".parse().ok());
        assert_eq!(parse_ip("[fd00::2]"), "fd00::2".parse().ok());
        assert_eq!(parse_ip("fe80::2%eth0"), "fe80::2".parse().ok());
        assert_eq!(parse_ip(""), None);
        let link = "../../devices/platform/host12/session7/iscsi_session/session7";
        assert_eq!(host_of(Path::new(link)), Some(12));
        let card = "../../devices/pci0000:00/0000:00:01.0/host3/session1/iscsi_session/session1";
        assert_eq!(host_of(Path::new(card)), Some(3));
        assert_eq!(host_of(Path::new("../../devices/platform/session7")), None);
    }
}
