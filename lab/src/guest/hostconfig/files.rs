//! The host configuration of this repository, put where it belongs and taken away again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::guest::{Failure, tools};

const PATIENCE: Duration = Duration::from_secs(60);

/// How long new settings may take to show.
const NOTICED: Duration = Duration::from_secs(15);

/// The optional settings for a whole vendor.
pub(super) const VENDOR: &str = include_str!("../../../../host/multipath/sanbridge-vendor.conf");

/// The pattern for LVM, with comments.
const FILTER: &str = include_str!("../../../../host/lvm/global_filter");
const FILTER_PLACE: &str = "/etc/lvm/lvmlocal.conf";
/// What the machine itself needs there: the inside of the array is not the host's to see.
const FILTER_OF_THE_MACHINE: &str = "\"r|^/dev/loop|\", \"r|^/dev/block/7:|\"";

/// Where administrators put settings of multipathd.
const MULTIPATH: &str = "/etc/multipath/conf.d";

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// LVM's filter with our pattern.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn install_filter() -> Result<(), Failure> {
    let pattern = FILTER.lines().find(|it| it.starts_with('"')).unwrap_or_default();
    write_filter(&format!("{FILTER_OF_THE_MACHINE}, {pattern}"))
}

/// LVM's filter without our pattern.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn remove_filter() -> Result<(), Failure> {
    write_filter(FILTER_OF_THE_MACHINE)
}

fn write_filter(patterns: &str) -> Result<(), Failure> {
    Ok(fs::write(FILTER_PLACE, format!("devices {{\n\tglobal_filter = [ {patterns} ]\n}}\n"))?)
}

/// Gives multipathd a file of settings, or takes it away, and has it read all of them again.
///
/// # Errors
/// Where it does not.
pub(super) async fn multipath_settings(name: &str, text: Option<&str>) -> Result<(), Failure> {
    fs::create_dir_all(MULTIPATH)?;
    let place = Path::new(MULTIPATH).join(name);
    let before = configuration().await?;
    match text {
        Some(text) => fs::write(place, text)?,
        None => remove(&place)?,
    }
    reconfigure().await?;
    // It may not have begun yet. What it does not show (a section that fits no map) cannot be waited for.
    let ended = tokio::time::Instant::now() + NOTICED;
    while configuration().await? == before && tokio::time::Instant::now() < ended {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    reconfigure().await
}

async fn configuration() -> Result<String, Failure> {
    tools::run("multipathd", &["show", "config", "local"], PATIENCE).await
}

/// Has multipathd read its settings and look at every path anew, and waits until it has.
///
/// # Errors
/// Where it does not.
pub(super) async fn reconfigure() -> Result<(), Failure> {
    tools::run("multipathd", &["reconfigure"], PATIENCE).await?;
    // It answers at once, and reads in the background.
    let ended = tokio::time::Instant::now() + PATIENCE;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let daemon = tools::output("multipathd", &["show", "daemon"], PATIENCE).await?;
        if daemon.stdout.contains("idle") || daemon.stdout.contains("running") {
            return Ok(());
        }
        if tokio::time::Instant::now() > ended {
            return Err(Failure(format!("multipathd does not come to rest: {}", daemon.stdout.trim())));
        }
    }
}
