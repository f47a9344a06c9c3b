//! The way the plugins before this one bring a LUN onto a node and take it away again, with the plain tools: every
//! session rescanned, every iSCSI host scanned for everything, multipathd told to read its whole configuration again,
//! fixed pauses, and a look once a second. To be measured beside ours.

use std::path::Path;
use std::time::Duration;

use super::check::Failure;
use super::ledger::{self, names};
use super::tools;

/// The longest any of their commands may take.
const TOOL: Duration = Duration::from_secs(120);
/// The fixed pause after the scans, and between two looks for the device.
const AFTER_SCAN: Duration = Duration::from_secs(2);
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// How often they look before they give up.
const LOOKS: usize = 60;

/// What their packages put into the node's configuration of multipath. It is read by their own `reconfigure`.
const CONFIGURATION: &str = "defaults {\n\tfind_multipaths yes\n}\n";
const FILE: &str = "/etc/multipath/conf.d/prior.conf";

/// Configures multipath as their packages do.
///
/// # Errors
/// Where it cannot be.
pub(super) async fn configure() -> Result<(), Failure> {
    std::fs::write(FILE, CONFIGURATION)?;
    tool("multipathd", &["reconfigure"]).await.map(drop)
}

/// Takes that back.
///
/// # Errors
/// Where it cannot be.
pub(super) async fn leave_configuration() -> Result<(), Failure> {
    std::fs::remove_file(FILE)?;
    tool("multipathd", &["reconfigure"]).await.map(drop)
}

async fn tool(name: &str, arguments: &[&str]) -> Result<String, Failure> {
    tools::run(name, arguments, TOOL).await
}

/// Runs what may fail without consequence.
async fn attempt(name: &str, arguments: &[&str]) -> Result<(), Failure> {
    tools::output(name, arguments, TOOL).await.map(drop)
}

/// Logs in to every portal: one after the other, five commands for each.
///
/// # Errors
/// Where a login fails.
pub(super) async fn login(target: &str, portals: &[String]) -> Result<(), Failure> {
    for portal in portals {
        tool("iscsiadm", &["-m", "discovery", "-t", "sendtargets", "-p", portal]).await?;
        attempt("iscsiadm", &["-m", "session"]).await?;
        let record = ["-m", "node", "-T", target, "-p", portal];
        for (name, value) in
            [("node.startup", "automatic"), ("node.session.timeo.replacement_timeout", "120")]
        {
            let update = [record.as_slice(), &["-o", "update", "-n", name, "-v", value]].concat();
            tool("iscsiadm", &update).await?;
        }
        tool("iscsiadm", &[record.as_slice(), &["--login"]].concat()).await?;
    }
    Ok(())
}

/// Brings in the LUN with this WWID, which the array shows already.
///
/// # Errors
/// Where it does not appear.
pub(super) async fn attach(wwid: &str) -> Result<(), Failure> {
    tool("iscsiadm", &["-m", "session", "--rescan"]).await?;
    for host in names(Path::new("/sys/class/iscsi_host")) {
        std::fs::write(format!("/sys/class/scsi_host/{host}/scan"), "- - -")?;
    }
    tokio::time::sleep(AFTER_SCAN).await;
    tool("multipathd", &["reconfigure"]).await?;
    for _ in 0..LOOKS {
        if is_there(wwid).await? {
            return Ok(());
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Err(Failure(format!("{wwid} does not appear")))
}

/// A link by identifier is enough for them, even one to a single leg; or a map.
async fn is_there(wwid: &str) -> Result<bool, Failure> {
    if names(Path::new("/dev/disk/by-id")).iter().any(|it| it.starts_with("scsi-") && it.contains(wwid)) {
        return Ok(true);
    }
    // A daemon that is busy answers with a time-out, and is asked again.
    let maps = tools::output("multipathd", &["show", "maps", "raw", "format", "%n %w"], TOOL).await?;
    Ok(maps.stdout.contains(wwid))
}

/// Takes the LUN off the node. The array does not show it any more.
///
/// # Errors
/// Where its map stays.
pub(super) async fn detach(wwid: &str) -> Result<(), Failure> {
    let found = ledger::maps().into_iter().find(|it| it.wwid == wwid);
    let map = found.ok_or_else(|| Failure(format!("{wwid} is not here")))?;
    let device = format!("/dev/mapper/{wwid}");
    attempt("multipathd", &["disablequeueing", "map", wwid]).await?;
    attempt("dmsetup", &["message", wwid, "0", "fail_if_no_path"]).await?;
    tool("sync", &[]).await?;
    attempt("blockdev", &["--flushbufs", &device]).await?;
    attempt("kpartx", &["-d", &device]).await?;
    attempt("multipathd", &["remove", "map", wwid]).await?;
    attempt("multipath", &["-f", wwid]).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for leg in &map.slaves {
        tool("sync", &[]).await?;
        attempt("blockdev", &["--flushbufs", &format!("/dev/{leg}")]).await?;
        // It may have gone with the map.
        let _ = std::fs::write(format!("/sys/block/{leg}/device/delete"), "1");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    tool("multipathd", &["reconfigure"]).await?;
    if ledger::maps().iter().any(|it| it.wwid == wwid) {
        return Err(Failure(format!("the map {wwid} stays")));
    }
    Ok(())
}

/// Takes over the size the array shows now.
///
/// # Errors
/// Where the map cannot be grown.
pub(super) async fn grow(wwid: &str) -> Result<(), Failure> {
    let found = ledger::maps().into_iter().find(|it| it.wwid == wwid);
    for leg in found.map(|it| it.slaves).unwrap_or_default() {
        std::fs::write(format!("/sys/block/{leg}/device/rescan"), "1")?;
    }
    tool("multipathd", &["resize", "map", wwid]).await.map(drop)
}
