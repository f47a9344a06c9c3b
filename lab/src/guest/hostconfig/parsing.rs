//! The host does not look into guests' disks: each file is taken away first, and the harm is seen; then it is there, and
//! nothing happens, for twice as long.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bench::{Bench, PATIENCE};
use super::{files, guests};
use crate::guest::{Check, Failure, Shown, daemons, ledger, tools, udev};

/// The least time for which nothing must happen.
const QUIET: Duration = Duration::from_secs(3);
/// The longest time in which the harm must be seen.
const HARM: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);

/// Where multipathd notes what it has made maps of.
const KNOWN: &str = "/etc/multipath/wwids";

/// Volumes, and the LUN numbers they have.
type Disks<'a> = &'a [(u8, u16)];

pub(super) fn checks() -> Vec<Check<Bench>> {
    let bound = Duration::from_secs(60);
    vec![
        Check {
            name: "a_guests_volume_group_and_its_clone_stay_inactive",
            scenarios: &["9", "74"],
            done: "a LUN with a guest's volume group, and a clone of it, appear as legs and as maps, without and with the udev rule",
            run: |bench| Box::pin(volume_group(bench)),
            bound,
        },
        Check {
            name: "a_guests_md_array_stays_stopped",
            scenarios: &["74"],
            done: "two LUNs with the members of a guest's array appear as legs and as maps, without and with the udev rule",
            run: |bench| Box::pin(md(bench)),
            bound,
        },
        Check {
            name: "a_guests_btrfs_stays_unknown",
            scenarios: &["74"],
            done: "a LUN with a guest's btrfs appears as a leg and as a map, without and with the udev rule",
            run: |bench| Box::pin(btrfs(bench)),
            bound,
        },
        Check {
            name: "a_guests_partitions_stay_unread_and_unmapped",
            scenarios: &["74"],
            done: "a LUN with a guest's partition table, swap, file system and volume group in partitions appears as a leg and as a map, without and with the udev rule",
            run: |bench| Box::pin(partitions(bench)),
            bound,
        },
        Check {
            name: "commands_of_lvm_pass_guests_disks_over",
            scenarios: &["9", "74"],
            done: "pvs and vgchange -ay over a guest's volume group on a leg and on a map, and over another LUN's, without and with the pattern in global_filter",
            run: |bench| Box::pin(lvm_by_hand(bench)),
            bound,
        },
    ]
}

async fn volume_group(bench: Arc<Bench>) -> Result<Shown, Failure> {
    bench.array.change(1, |_| ())?;
    guests::with_volume_group(&bench.array.file(1), "guestvg").await?;
    bench.array.change(2, |_| ())?;
    std::fs::copy(bench.array.file(1), bench.array.file(2))?;
    prove(&bench, &[(1, 1), (2, 2)], "logical volume guestvg-root is active").await
}

async fn md(bench: Arc<Bench>) -> Result<Shown, Failure> {
    bench.array.change(1, |_| ())?;
    bench.array.change(2, |_| ())?;
    guests::with_md(&bench.array.file(1), &bench.array.file(2)).await?;
    prove(&bench, &[(1, 1), (2, 2)], "md array").await
}

async fn btrfs(bench: Arc<Bench>) -> Result<Shown, Failure> {
    bench.array.change(1, |_| ())?;
    guests::with_btrfs(&bench.array.file(1)).await?;
    prove(&bench, &[(1, 1)], "the kernel's btrfs was told").await
}

async fn partitions(bench: Arc<Bench>) -> Result<Shown, Failure> {
    bench.array.change(1, |_| ())?;
    guests::with_partitions(&bench.array.file(1), "partvg").await?;
    prove(&bench, &[(1, 1)], "/dev/disk/by-label/swap0 leads to").await
}

/// Both ways: as legs that nothing has claimed, and as maps that multipathd makes by itself.
async fn prove(bench: &Bench, disks: Disks<'_>, telling: &str) -> Result<Shown, Failure> {
    for (n, lun) in disks {
        bench.show(*n, *lun, bench.one()).await?;
        udev::mask(&bench.array.identity(*n).wwid)?;
    }
    let mut text = Vec::new();
    for (stage, as_maps) in [("legs", false), ("maps", true)] {
        udev::remove_rules().await?;
        let started = Instant::now();
        appear(bench, disks, as_maps).await?;
        let seen = seen_harm(telling).await?;
        let took = started.elapsed();
        vanish(bench, as_maps).await?;
        udev::install_rules().await?;
        let quiet_until = Instant::now() + (took * 2).max(QUIET);
        appear(bench, disks, as_maps).await?;
        stays_quiet(quiet_until).await?;
        vanish(bench, as_maps).await?;
        text.push(format!("{stage}: without the rule {}; with it nothing", guests::in_short(&seen, telling)));
    }
    Ok(Shown::held(text.join(". ")))
}

/// Whether multipathd knows the disks already decides what becomes of their legs.
async fn appear(bench: &Bench, disks: Disks<'_>, as_maps: bool) -> Result<(), Failure> {
    if as_maps {
        let known: Vec<String> = disks.iter().map(|(n, _)| format!("/{}/\n", bench.map(*n))).collect();
        std::fs::write(KNOWN, known.concat())?;
    }
    for (_, lun) in disks {
        bench.scan(*lun).await?;
    }
    if as_maps {
        daemons::until("multipathd makes no maps", || {
            Ok(disks.iter().all(|(n, _)| bench.map_path(*n).try_exists().is_ok_and(|it| it)))
        })
        .await?;
    }
    daemons::udev_rests().await
}

async fn vanish(bench: &Bench, as_maps: bool) -> Result<(), Failure> {
    guests::release().await?;
    crate::guest::machine::sweep().await?;
    daemons::udev_rests().await?;
    let left = guests::harm();
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure(format!(
        "after {}: {left:?} of {}",
        if as_maps { "maps" } else { "legs" },
        bench.array.target()
    )))
}

async fn seen_harm(telling: &str) -> Result<BTreeSet<String>, Failure> {
    let started = Instant::now();
    loop {
        let found = guests::harm();
        if found.iter().any(|it| it.contains(telling)) {
            daemons::udev_rests().await?;
            return Ok(guests::harm());
        }
        if started.elapsed() > HARM {
            let message =
                format!("without the file no {telling:?} is seen, only {found:?}: this proves nothing");
            return Err(Failure(message));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Nothing comes in twice the time that the harm took.
async fn stays_quiet(until: Instant) -> Result<(), Failure> {
    loop {
        let found = guests::harm();
        if !found.is_empty() {
            return Err(Failure(format!("with the file all the same: {found:?}; {}", legs_now())));
        }
        if Instant::now() > until {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The legs, by the identifiers that the kernel and udev have for them.
fn legs_now() -> String {
    let mut text = String::new();
    for disk in ledger::names(Path::new("/sys/block")).into_iter().filter(|it| it.starts_with("sd")) {
        let block = Path::new("/sys/block").join(&disk);
        let read = |it: &str| std::fs::read_to_string(block.join(it)).unwrap_or_else(|it| it.to_string());
        let record = format!("/run/udev/data/b{}", read("dev").trim());
        let record = std::fs::read_to_string(record).unwrap_or_default();
        let kept = |it: &&str| it.contains("ID_SERIAL=") || it.contains("SANBRIDGE") || it.contains("ID_FS");
        let kept: Vec<&str> = record.lines().filter(kept).collect();
        text.extend([&disk, " ", read("device/wwid").trim(), " ", &kept.join(" "), "; "]);
    }
    text
}

/// What `pvs` lists and what `vgchange -ay` activates.
async fn commands() -> Result<(BTreeSet<String>, BTreeSet<String>), Failure> {
    let listed = tools::run("pvs", &["--noheadings", "-o", "vg_name"], PATIENCE).await?;
    let listed = listed.split_whitespace().map(str::to_owned).collect();
    tools::run("vgchange", &["-ay"], PATIENCE).await?;
    daemons::udev_rests().await?;
    Ok((listed, guests::harm().into_iter().filter(|it| it.contains("is active")).collect()))
}

async fn lvm_by_hand(bench: Arc<Bench>) -> Result<Shown, Failure> {
    udev::install_rules().await?;
    for (n, group) in [(1, "guestvg"), (2, "hostvg")] {
        bench.array.change(n, |_| ())?;
        guests::with_volume_group(&bench.array.file(n), group).await?;
        bench.show(n, n.into(), bench.one()).await?;
    }
    udev::mask(&bench.array.identity(1).wwid)?;
    let groups = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|it| (*it).to_owned()).collect() };
    let active = |name: &str| format!("logical volume {name}-root is active");
    for as_map in [false, true] {
        for n in [1, 2] {
            bench.scan(n.into()).await?;
            if as_map {
                guests::release().await?;
                bench.add_map(n).await?;
            }
        }
        guests::release().await?;
        files::remove_filter()?;
        let (listed, activated) = commands().await?;
        if listed != groups(&["guestvg", "hostvg"]) || !activated.contains(&active("guestvg")) {
            return Err(Failure(format!(
                "without the pattern only {listed:?}, {activated:?}: this proves nothing"
            )));
        }
        guests::release().await?;
        files::install_filter()?;
        let (listed, activated) = commands().await?;
        if listed != groups(&["hostvg"]) || activated != BTreeSet::from([active("hostvg")]) {
            return Err(Failure(format!("with the pattern {listed:?}, {activated:?}")));
        }
        guests::release().await?;
        crate::guest::machine::sweep().await?;
    }
    Ok(Shown::held(
        "on legs and on maps: without the pattern both groups are listed and activated, with it only the other LUN's",
    ))
}
