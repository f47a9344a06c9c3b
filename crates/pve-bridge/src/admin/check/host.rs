//! The node's own settings: daemons, files, names.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use san_core::{Cx, ErrorKind, Finding, Result, Severity, Transport};
use san_host::Guard;
use san_multipath::MultipathConfig;

use super::{Words, finding};
use crate::activity::{has_socket, is_program_replaced};

/// Where udev looks for rules, the strongest first.
const RULES: [&str; 4] =
    ["/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"];
/// A configuration file is shorter.
const FILE_MAX: usize = 1 << 20;
/// Where iscsid listens (open-iscsi, `mgmt_ipc.h`).
const ISCSID: &str = "@ISCSIADM_ABSTRACT_NAMESPACE";
/// One question to a daemon.
const ANSWER: Duration = Duration::from_secs(3);

pub(super) async fn findings(
    cx: &Cx,
    guard: &Guard,
    transport: &dyn Transport,
    state: &Path,
) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(multipathd(cx, guard).await);
    found.extend(initiator(cx, transport).await);
    for rule in ["55-sanbridge.rules", "57-sanbridge.rules"] {
        found.extend(udev_rule(cx, guard, rule).await);
    }
    found.extend(lvm(cx, guard).await);
    found.extend(blacklist(cx, guard).await);
    found.extend(iscsid(cx, guard).await);
    found.extend(daemon(cx, guard).await);
    found.extend(state_folder(state).await);
    found
}

async fn multipathd(cx: &Cx, guard: &Guard) -> Option<Finding> {
    let bounded = cx.at_most(ANSWER);
    let mut last = None;
    for socket in MultipathConfig::default().sockets {
        match guard.connect(&bounded, &socket).await {
            Ok(_) => return None,
            Err(error) => last = Some(error),
        }
    }
    let why = last.map(|it| it.chain().to_string()).unwrap_or_default();
    Some(finding(
        "multipathd",
        Severity::Failure,
        "multipathd",
        Words {
            what: format!("multipathd does not answer: {why}"),
            why: "no disk can be attached, detached or grown, and a path that comes back is not used again",
            fix: "apt install multipath-tools && systemctl enable --now multipathd".to_owned(),
            undo: None,
        },
    ))
}

async fn initiator(cx: &Cx, transport: &dyn Transport) -> Option<Finding> {
    let error = transport.initiators(cx).await.err()?;
    Some(finding(
        "initiator-name",
        Severity::Failure,
        "/etc/iscsi/initiatorname.iscsi",
        Words {
            what: error.chain().to_string(),
            why: "without a name of its own this node can log in to no array",
            fix: error.remedy().unwrap_or("install and start open-iscsi").to_owned(),
            undo: None,
        },
    ))
}

async fn udev_rule(cx: &Cx, guard: &Guard, rule: &str) -> Option<Finding> {
    for folder in RULES {
        // A folder that cannot be read is not one without the file.
        let names = guard.list(cx, Path::new(folder)).await.ok()?;
        if names.is_some_and(|it| it.iter().any(|name| name == rule)) {
            return None;
        }
    }
    let severity = if rule.starts_with("57") { Severity::Failure } else { Severity::Warning };
    Some(finding(
        "udev-rule",
        severity,
        rule,
        Words {
            what: format!("udev's rule {rule} is not installed"),
            why: "the host looks into guests' disks: it activates their volume groups and maps their partitions, \
              and they cannot be detached then",
            fix: format!(
                "install host/udev/{rule} as /usr/lib/udev/rules.d/{rule} && udevadm control --reload"
            ),
            undo: Some("remove the file and reload the rules"),
        },
    ))
}

async fn lvm(cx: &Cx, guard: &Guard) -> Option<Finding> {
    let mut filters = Vec::new();
    let main = text(cx, guard, "/etc/lvm/lvm.conf").await.ok()??;
    // No lvm.conf, no LVM: the other file counts beside it only.
    let local = text(cx, guard, "/etc/lvm/lvmlocal.conf").await.ok()?;
    for file in [Some(main), local].into_iter().flatten() {
        filters.extend(
            file.lines().map(str::trim).filter(|it| it.starts_with("global_filter")).map(str::to_owned),
        );
    }
    if filters.iter().any(|it| it.contains("/dev/disk/sanbridge")) {
        return None;
    }
    Some(finding(
        "lvm-filter",
        Severity::Warning,
        "/etc/lvm/lvm.conf",
        Words {
            what: "global_filter does not keep LVM from guests' disks".to_owned(),
            why: "pvs, vgs and vgchange, which people and Proxmox VE run, read guests' volume groups and may activate them",
            fix: "add the pattern \"r|^/dev/disk/sanbridge/|\" to global_filter in /etc/lvm/lvm.conf"
                .to_owned(),
            undo: Some("take the pattern out again"),
        },
    ))
}

async fn blacklist(cx: &Cx, guard: &Guard) -> Option<Finding> {
    let mut files = vec!["/etc/multipath.conf".to_owned()];
    let parts = guard.list(cx, Path::new("/etc/multipath/conf.d")).await.ok()?.unwrap_or_default();
    files.extend(
        parts
            .iter()
            .filter(|it| Path::new(it).extension().is_some_and(|it| it == "conf"))
            .map(|it| format!("/etc/multipath/conf.d/{it}")),
    );
    for file in files {
        let Some(text) = text(cx, guard, &file).await.ok()? else { continue };
        if let Some(line) = excludes_all(&text) {
            return Some(finding(
                "multipath-blacklist",
                Severity::Warning,
                &file,
                Words {
                    what: format!("multipathd takes no disk that is not allowed by name ({line})"),
                    why: "attaching a disk is refused until its WWID is allowed",
                    fix: format!(
                        "take the line out of blacklist in {file}, or allow the disks of the array in \
                              blacklist_exceptions; then systemctl reload multipathd"
                    ),
                    undo: Some("put the line back and reload multipathd"),
                },
            ));
        }
    }
    None
}

/// Whoever wants to be served by iscsid speaks to its socket, at which systemd listens as long as iscsid rests.
async fn iscsid(cx: &Cx, guard: &Guard) -> Option<Finding> {
    if has_socket(cx, guard, ISCSID).await.ok()? != Some(false) {
        return None;
    }
    Some(finding(
        "iscsid",
        Severity::Failure,
        "iscsid",
        Words {
            what: "nobody listens at the socket of iscsid".to_owned(),
            why: "no session can be made, and one that breaks is not mended: disks lose their paths one after the other",
            fix: "systemctl enable --now iscsid.socket iscsid".to_owned(),
            undo: None,
        },
    ))
}

/// An upgrade replaces the program, and leaves it to somebody to restart the daemon.
async fn daemon(cx: &Cx, guard: &Guard) -> Option<Finding> {
    if is_program_replaced(cx, guard).await.ok()? != Some(true) {
        return None;
    }
    Some(finding(
        "daemon-outdated",
        Severity::Warning,
        "sanbridge.service",
        Words {
            what: format!(
                "the program was replaced, and this daemon is the former one ({})",
                env!("CARGO_PKG_VERSION")
            ),
            why: "what the newer one mends is not mended, and the plugin may ask for what this one cannot do",
            fix: "systemctl restart sanbridge.service".to_owned(),
            undo: None,
        },
    ))
}

/// What lies there names volumes and who has them.
async fn state_folder(state: &Path) -> Option<Finding> {
    let path = state.to_owned();
    let looked = tokio::task::spawn_blocking(move || std::fs::metadata(path)).await.ok()?;
    let what = match looked.map(|it| it.permissions().mode() & 0o7777) {
        Ok(mode) if mode == mode & 0o700 => return None,
        Ok(mode) => format!("others than root may look into it (mode {mode:o})"),
        Err(error) => format!("it cannot be looked at: {error}"),
    };
    let shown = state.display().to_string();
    Some(finding(
        "state-folder",
        Severity::Warning,
        &shown,
        Words {
            what,
            why: "what is under way and which devices may be touched is on record there: nobody else may read or change it",
            fix: format!("chmod 700 {shown}; systemctl restart sanbridge does the same"),
            undo: None,
        },
    ))
}

/// The line of a section `blacklist` that fits every disk.
fn excludes_all(text: &str) -> Option<String> {
    let mut section = String::new();
    for line in text.lines().map(|it| it.split(['#', '!']).next().unwrap_or_default().trim()) {
        if let Some(name) = line.strip_suffix('{') {
            name.trim().clone_into(&mut section);
        } else if line.starts_with('}') {
            section.clear();
        } else if section == "blacklist" {
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let value = value.trim().trim_matches('"');
            let every = [".*", "*", "^.*", ".*$"].contains(&value);
            let every_disk = ["^sd", "^sd[a-z]", "^sd[a-z]+", "sd*", "^(sd)"].contains(&value);
            if (["wwid", "devnode"].contains(&key) && every) || (key == "devnode" && every_disk) {
                return Some(line.to_owned());
            }
        }
    }
    None
}

async fn text(cx: &Cx, guard: &Guard, path: &str) -> Result<Option<String>> {
    match guard.read(cx, Path::new(path), FILE_MAX).await {
        Ok(bytes) => Ok(bytes.map(|it| String::from_utf8_lossy(&it).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blacklist_of_everything_is_told_from_others() {
        let all = [
            "blacklist {\n wwid .*\n}",
            "blacklist {\n\tdevnode \"^sd\"\n}",
            "defaults {\n}\nblacklist {\n wwid \".*\"\n}",
        ];
        for text in all {
            assert!(excludes_all(text).is_some(), "{text}");
        }
        let others = [
            "",
            "blacklist {\n wwid 3600508b1001c5a\n devnode \"^loop\"\n}",
            "# blacklist {\n# wwid .*\n# }",
            "blacklist_exceptions {\n wwid .*\n}",
            "blacklist {\n}\ndefaults {\n wwid .*\n}",
        ];
        for text in others {
            assert_eq!(excludes_all(text), None, "{text}");
        }
    }
}
