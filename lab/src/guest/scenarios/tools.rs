//! What an administrator, another tool or udev does on the node, and what they see.

use std::path::Path;
use std::time::{Duration, Instant};

use san_core::Device;

use super::bench::Bench;
use crate::guest::ledger::legs;
use crate::guest::{Failure, tools};

/// Longer than any of these programs takes, also under emulation.
const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(50);

/// Runs a program that must succeed and returns what it printed.
pub(super) async fn run(name: &str, arguments: &[&str]) -> Result<String, Failure> {
    tools::run(name, arguments, PATIENCE).await
}

/// The same, whatever comes of it.
pub(super) async fn attempt(name: &str, arguments: &[&str]) {
    if let Err(failure) = run(name, arguments).await {
        tracing::info!(%failure, "as it may");
    }
}

/// The name this node goes by.
pub(super) fn initiator() -> Result<String, Failure> {
    let text = std::fs::read_to_string("/etc/iscsi/initiatorname.iscsi")?;
    let name = text.lines().find_map(|it| it.trim().strip_prefix("InitiatorName="));
    name.map(str::to_owned).ok_or_else(|| Failure("this node has no iSCSI name".to_owned()))
}

/// Waits until udev has nothing to do.
pub(super) async fn quiet() -> Result<(), Failure> {
    run("udevadm", &["settle", "-t", "150"]).await.map(drop)
}

/// Looks every 50 ms until `look` says so, at most `span`; how long it took.
pub(super) async fn until(
    what: &str,
    span: Duration,
    mut look: impl FnMut() -> bool,
) -> Result<Duration, Failure> {
    let started = Instant::now();
    while !look() {
        if started.elapsed() > span {
            return Err(Failure(format!("{what} did not come about within {span:?}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(started.elapsed())
}

/// Waits until device-mapper says of each path of a device that it is `A`ctive or `F`ailed, as `wanted`.
pub(super) async fn await_paths(device: &Device, wanted: char) -> Result<Duration, Failure> {
    let started = Instant::now();
    let span = Duration::from_secs(30);
    let name = device.identity.wwid.multipath_name();
    loop {
        let status = run("dmsetup", &["status", &name]).await?;
        let paths = device.legs.iter().filter_map(|leg| {
            let mut words = status.split_whitespace().skip_while(|it| *it != leg.number.to_string());
            words.nth(1).and_then(|it| it.chars().next())
        });
        let paths: Vec<char> = paths.collect();
        if paths.len() == device.legs.len() && paths.iter().all(|it| *it == wanted) {
            return Ok(started.elapsed());
        }
        if started.elapsed() > span {
            return Err(Failure(format!("the paths are not {wanted} within {span:?}: {status}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until multipathd's own checkers have found every path of a device faulty.
pub(super) async fn await_faulty(device: &Device) -> Result<(), Failure> {
    let started = Instant::now();
    let name = device.identity.wwid.multipath_name();
    loop {
        let json = run("multipathd", &["show", "map", &name, "json"]).await?;
        if json.matches("\"chk_st\" : \"faulty\"").count() == device.legs.len() {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            return Err(Failure(format!("multipathd finds no fault: {json}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Deletes legs that others scanned in at a number, as those others would.
pub(super) async fn remove_strangers(bench: &Bench, number: u16) -> Result<(), Failure> {
    let ends = [format!(":{number}"), format!(":{}", number + 0x4000)];
    for leg in legs().into_iter().filter(|it| ends.iter().any(|end| it.address.ends_with(end))) {
        if leg.wwid == bench.bystander_map {
            continue;
        }
        let delete = Path::new("/sys/class/scsi_device").join(leg.address).join("device/delete");
        tokio::task::spawn_blocking(move || std::fs::write(delete, "1")).await??;
    }
    Ok(())
}
