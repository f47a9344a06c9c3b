//! What multipathd can be told of single disks and what it cannot, without touching any other LUN.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use san_core::{DeviceManager as _, ErrorKind, Expected, Lun};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::bench::{Bench, PATIENCE, cx};
use super::files::{self, VENDOR};
use crate::guest::array::VOLUME_SIZE;
use crate::guest::{Check, Failure, Shown, daemons, direct, tools, udev};

const PAUSE: Duration = Duration::from_millis(250);
/// The file of settings that a check writes.
const FILE: &str = "sanbridge-check.conf";
/// How many looks, one each second, a map waits in the checks.
const LOOKS: u32 = 4;
/// What is written where.
const MESSAGE: &[u8; 4096] = &[0x5a; 4096];

pub(super) fn checks() -> Vec<Check<Bench>> {
    vec![
        Check {
            name: "waiting_without_paths_is_bounded_for_one_disk_alone",
            scenarios: &["45", "46"],
            done: "all paths down under two LUNs of one vendor with the vendor's settings, with a command for one map, and with a section for its WWID",
            run: |bench| Box::pin(bounded(bench)),
            bound: Duration::from_secs(90),
        },
        Check {
            name: "a_number_given_away_takes_no_waiting_write_once_paths_are_asked_again",
            scenarios: &["1"],
            done: "a LUN number passes to another volume under a map with one leg and a waiting write, without and with the optional settings for the vendor",
            run: |bench| Box::pin(given_away(bench)),
            bound: Duration::from_secs(90),
        },
        Check {
            name: "other_luns_of_the_vendor_keep_every_setting",
            scenarios: &["43", "77"],
            done: "multipathd's configuration and map, the kernel's table and udev's records of another LUN, before and after every file is installed and a disk is masked beside it",
            run: |bench| Box::pin(others(bench)),
            bound: Duration::from_secs(60),
        },
        Check {
            name: "an_administrators_allow_list_and_settings_stand",
            scenarios: &["42", "77"],
            done: "attach under an allow list of WWIDs without and with the disk, and under an administrator's section for it",
            run: |bench| Box::pin(administrator(bench)),
            bound: Duration::from_secs(60),
        },
    ]
}

/// Reads or writes in the background: it may wait for ever in the kernel.
fn in_background(
    path: PathBuf,
    work: fn(&direct::Device) -> std::io::Result<()>,
) -> JoinHandle<std::io::Result<()>> {
    tokio::task::spawn_blocking(move || work(&direct::Device::open(&path)?))
}

fn reading(path: PathBuf) -> JoinHandle<std::io::Result<()>> {
    in_background(path, |it| it.read(0, MESSAGE.len()).map(drop))
}

fn writing(path: PathBuf) -> JoinHandle<std::io::Result<()>> {
    in_background(path, |it| it.write(0, MESSAGE))
}

async fn error_of(task: JoinHandle<std::io::Result<()>>, what: &str) -> Result<(), Failure> {
    match tokio::time::timeout(PATIENCE, task).await {
        Err(_) => Err(Failure(format!("{what} waits on"))),
        Ok(ended) => match ended? {
            Ok(()) => Err(Failure(format!("{what} succeeded without a path"))),
            Err(_) => Ok(()),
        },
    }
}

async fn queueing(bench: &Bench, n: u8) -> Result<String, Failure> {
    bench.map_field(&bench.map(n), "queueing").await
}

async fn require_queueing(bench: &Bench, expected: &[&str]) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let mut found = Vec::new();
        for n in 1..=u8::try_from(expected.len())? {
            found.push(queueing(bench, n).await?);
        }
        if found == expected {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            return Err(Failure(format!("multipathd says {found:?} of queueing instead of {expected:?}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How many usable paths the kernel counts.
fn usable(map: &str) -> Result<usize, Failure> {
    let found = crate::guest::ledger::maps().into_iter().find(|it| it.wwid == map);
    let slaves = found.ok_or_else(|| Failure(format!("no map {map}")))?.slaves;
    let is_running = |it: &String| {
        let state = fs::read_to_string(Path::new("/sys/block").join(it).join("device/state"));
        state.is_ok_and(|it| it.trim_end() == "running")
    };
    Ok(slaves.iter().filter(|it| is_running(it)).count())
}

async fn cut(bench: &Bench, maps: &[String]) -> Result<(), Failure> {
    for n in [1, 2] {
        bench.network.cut(n).await?;
    }
    daemons::until("the paths stay up", || {
        let mut left = 0;
        for map in maps {
            left += usable(map)?;
        }
        Ok(left == 0)
    })
    .await
}

async fn mend(bench: &Bench, maps: &[String]) -> Result<(), Failure> {
    for n in [1, 2] {
        bench.network.mend(n).await?;
    }
    for map in maps {
        let started = Instant::now();
        loop {
            let said = bench.multipathd(&format!("show map {map} json")).await?;
            let json: serde_json::Value = serde_json::from_str(&said)?;
            // It counts the active ones.
            if json["map"]["paths"].as_u64() == Some(2) {
                break;
            }
            if started.elapsed() > PATIENCE {
                return Err(Failure(format!("the paths of {map} stay away")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn two_maps(bench: &Bench) -> Result<[String; 2], Failure> {
    for n in [1, 2] {
        bench.show(n, n.into(), bench.all()).await?;
        bench.scan(n.into()).await?;
        bench.add_map(n).await?;
    }
    Ok([bench.map(1), bench.map(2)])
}

/// A section for one WWID, or for what looks like many.
fn section(wwid: &str) -> String {
    format!("multipaths {{\n\tmultipath {{\n\t\twwid \"{wwid}\"\n\t\tno_path_retry {LOOKS}\n\t}}\n}}\n")
}

async fn bounded(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let maps = two_maps(&bench).await?;
    require_queueing(&bench, &["on", "on"]).await?;

    // The vendor's settings: for ever. A command ends it for one map.
    cut(&bench, &maps).await?;
    let (ours, other) = (reading(bench.map_path(1)), reading(bench.map_path(2)));
    tokio::time::sleep(Duration::from_secs(u64::from(LOOKS) * 3)).await;
    if ours.is_finished() || other.is_finished() {
        return Err(Failure(
            "a read ends by itself with the vendor's settings: this proves nothing".to_owned(),
        ));
    }
    bench.multipathd(&format!("disablequeueing map {}", maps[0])).await?;
    error_of(ours, "the read on the map that was told").await?;
    require_queueing(&bench, &["off", "on"]).await?;
    if other.is_finished() {
        return Err(Failure("the read on the other map ended too".to_owned()));
    }
    mend(&bench, &maps).await?;
    other.await??;
    bench.multipathd(&format!("restorequeueing map {}", maps[0])).await?;
    require_queueing(&bench, &["on", "on"]).await?;

    // A section that looks like many WWIDs is none; one for a WWID counts from the next reconfigure on.
    files::multipath_settings(FILE, Some(&section("3600a0980.*"))).await?;
    require_queueing(&bench, &["on", "on"]).await?;
    fs::write(Path::new("/etc/multipath/conf.d").join(FILE), section(&maps[0]))?;
    bench.multipathd(&format!("del map {}", maps[0])).await?;
    bench.add_map(1).await?;
    require_queueing(&bench, &["on", "on"]).await?;
    files::multipath_settings(FILE, Some(&section(&maps[0]))).await?;
    require_queueing(&bench, &[&format!("{LOOKS} chk"), "on"]).await?;
    cut(&bench, &maps).await?;
    let (ours, other) = (reading(bench.map_path(1)), reading(bench.map_path(2)));
    let started = Instant::now();
    error_of(ours, "the read on the map with a bound").await?;
    let took = started.elapsed();
    if other.is_finished() {
        return Err(Failure("the read on the other map ended too".to_owned()));
    }
    mend(&bench, &maps).await?;
    other.await??;
    files::multipath_settings(FILE, None).await?;
    let text = format!(
        "with the vendor's settings a read waits on; disablequeueing ends the wait of one map and the other LUN's waits on; a section with its WWID counts only after a reconfigure (then the read ended after {:.1} s), and a pattern as WWID counts for nothing",
        took.as_secs_f64()
    );
    Ok(Shown::held(text))
}

/// The write waits, the number passes to volume 2, and the time until it has arrived there, if it does.
async fn give_away(
    bench: &Bench,
    lun: u16,
    waits: &str,
    watch: Duration,
) -> Result<(Option<Duration>, JoinHandle<std::io::Result<()>>), Failure> {
    // One leg: of several, multipathd takes one after the other out of the map, and each time loads a table in which the rest
    // counts as good until it is looked at.
    bench.show(1, lun, bench.one()).await?;
    bench.scan(lun).await?;
    bench.add_map(1).await?;
    // These settings are in force, and no others.
    require_queueing_of(bench, 1, waits).await?;
    bench.hide(lun).await?;
    let started = Instant::now();
    // Its own looks have to see the paths down, not only the kernel: those are the ones it asks again.
    let is_seen = |said: &str| said.contains("\"paths\" : 0") && !said.contains("\"chk_st\" : \"ready\"");
    while !is_seen(&bench.multipathd(&format!("show map {} json", bench.map(1))).await?) {
        if started.elapsed() > PATIENCE {
            return Err(Failure("multipathd does not notice that the LUN is gone".to_owned()));
        }
        tokio::time::sleep(PAUSE).await;
    }
    let write = writing(bench.map_path(1));
    // It is in the kernel before the number passes on.
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.show(2, lun, bench.one()).await?;
    let started = Instant::now();
    while started.elapsed() < watch {
        if bench.array.bytes(2, MESSAGE.len())? == MESSAGE {
            return Ok((Some(started.elapsed()), write));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok((None, write))
}

async fn given_away(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (arrived, write) = give_away(&bench, 7, "on", PATIENCE).await?;
    let Some(arrived) = arrived else {
        return Err(Failure(
            "without the settings the write does not arrive elsewhere: this proves nothing".to_owned(),
        ));
    };
    write.await??;
    crate::guest::machine::sweep().await?;
    bench.array.hide_everything();
    bench.plane.sync().await?;
    bench.array.forget()?;

    files::multipath_settings(FILE, Some(VENDOR)).await?;
    let (wrong, write) = give_away(&bench, 8, "30 chk", arrived.max(Duration::from_secs(3)) * 3).await?;
    if wrong.is_some() {
        return Err(Failure(
            "with the settings the write arrived on the other volume all the same".to_owned(),
        ));
    }
    // Its last path is taken from the map, and the vendor's settings have it end the wait then.
    let ended_by_itself = write.is_finished();
    if !ended_by_itself {
        bench.multipathd(&format!("disablequeueing map {}", bench.map(1))).await?;
    }
    error_of(write, "the write to the volume that is gone").await?;
    if bench.array.bytes(2, MESSAGE.len())? == MESSAGE {
        return Err(Failure("the write arrived on the other volume when its wait was ended".to_owned()));
    }
    crate::guest::machine::sweep().await?;
    files::multipath_settings(FILE, None).await?;
    Ok(Shown::held(format!(
        "without the settings the write arrived on the other volume {:.1} s after the number passed to it; with them it never does, and ends with an error {}",
        arrived.as_secs_f64(),
        if ended_by_itself { "by itself" } else { "once the wait is ended" }
    )))
}

/// Everything there is to see of the map of volume `n` and of its legs.
async fn everything(bench: &Bench, n: u8, lun: u16) -> Result<Vec<String>, Failure> {
    let map = bench.map(n);
    let mut said = vec![
        bench.multipathd("show config").await?,
        bench.multipathd(&format!("show map {map} json")).await?,
        tools::run("dmsetup", &["table", &map], PATIENCE).await?,
        tools::run("dmsetup", &["info", "-c", "--noheadings", "-o", "name,uuid,attr", &map], PATIENCE)
            .await?,
    ];
    let mut devices = bench.disks(lun);
    devices.push(format!("mapper/{map}"));
    for device in devices {
        said.push(tools::run("udevadm", &["info", &format!("/dev/{device}")], PATIENCE).await?);
    }
    let lines = said.iter().flat_map(|it| it.lines());
    let mut lines: Vec<String> =
        lines.filter(|line| !COUNTED.iter().any(|it| line.contains(it))).map(in_order).collect();
    // udev lists links in no order.
    lines.sort_unstable();
    Ok(lines)
}

/// What is counted or timed, and not set.
const COUNTED: [&str; 4] = ["USEC_INITIALIZED", "map_loads", "total_q_time", "switch_grp"];

/// The links of a device in one order.
fn in_order(line: &str) -> String {
    let Some(links) = line.strip_prefix("E: DEVLINKS=") else { return line.to_owned() };
    let mut links: Vec<&str> = links.split(' ').collect();
    links.sort_unstable();
    format!("E: DEVLINKS={}", links.join(" "))
}

async fn beside(bench: &Bench) -> Result<Vec<String>, Failure> {
    // Both times what multipathd has just read: the last thing it did with a map is among what it tells.
    files::reconfigure().await?;
    bench.scan(1).await?;
    bench.add_map(1).await?;
    tools::run("udevadm", &["trigger", "--action=change", "--subsystem-match=block", "--settle"], PATIENCE)
        .await?;
    daemons::udev_rests().await?;
    let found = everything(bench, 2, 2).await?;
    bench.multipathd(&format!("del map {}", bench.map(1))).await?;
    Ok(found)
}

fn differences(one: &[String], two: &[String]) -> Vec<String> {
    let gone = one.iter().filter(|it| !two.contains(it)).map(|it| format!("-{}", it.trim()));
    let come = two.iter().filter(|it| !one.contains(it)).map(|it| format!("+{}", it.trim()));
    gone.chain(come).collect()
}

async fn others(bench: Arc<Bench>) -> Result<Shown, Failure> {
    for n in [1, 2] {
        bench.show(n, n.into(), bench.all()).await?;
    }
    bench.scan(2).await?;
    bench.add_map(2).await?;
    let before = beside(&bench).await?;
    udev::install_rules().await?;
    files::install_filter()?;
    udev::mask(&bench.array.identity(1).wwid)?;
    let after = beside(&bench).await?;
    if before != after {
        return Err(Failure(format!("of the other LUN changed: {:?}", differences(&before, &after))));
    }
    files::multipath_settings(FILE, Some(VENDOR)).await?;
    require_queueing_of(&bench, 2, "30 chk").await?;
    let optional = differences(&before, &beside(&bench).await?);
    files::multipath_settings(FILE, None).await?;
    if optional.is_empty() {
        return Err(Failure(
            "the optional settings for the vendor are not seen either: this proves nothing".to_owned(),
        ));
    }
    let lines = before.len();
    Ok(Shown::held(format!(
        "{lines} lines of configuration, map, table and udev records are equal; the optional settings for the vendor, which are not installed, do change them: {}",
        optional.join(" ")
    )))
}

async fn require_queueing_of(bench: &Bench, n: u8, expected: &str) -> Result<(), Failure> {
    let started = Instant::now();
    while queueing(bench, n).await? != expected {
        if started.elapsed() > PATIENCE {
            return Err(Failure(format!("multipathd never says {expected:?} of queueing")));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// The files that are the administrator's, with their bytes.
fn administrators() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new("/etc/multipath/conf.d");
    let names = crate::guest::ledger::names(folder).into_iter().map(|it| folder.join(it));
    let files = names.chain([PathBuf::from("/etc/multipath.conf")]);
    files.filter_map(|it| fs::read(&it).ok().map(|bytes| (it, bytes))).collect()
}

async fn administrator(bench: Arc<Bench>) -> Result<Shown, Failure> {
    bench.show(1, 1, bench.all()).await?;
    let identity = bench.array.identity(1);
    let name = identity.wwid.multipath_name();
    let lun = Lun::new(1).ok_or_else(|| Failure("no LUN 1".to_owned()))?;
    let expect = Expected { identity, size: VOLUME_SIZE, lun };
    let manager = bench.manager();

    let allow = |wwid: &str| {
        format!("blacklist {{\n\twwid \".*\"\n}}\nblacklist_exceptions {{\n\twwid \"{wwid}\"\n}}\n")
    };
    files::multipath_settings(FILE, Some(&allow("3600a0980000000000000000000000000"))).await?;
    let files_before = administrators();
    let error = match manager.attach(&cx(), &expect, &bench.routes).await {
        Ok(device) => {
            return Err(Failure(format!("attached as {} although it is not allowed", device.path.display())));
        }
        Err(error) => error,
    };
    let remedy = error.remedy().unwrap_or_default().to_owned();
    if error.kind() != ErrorKind::Conflict || !remedy.contains("blacklist_exceptions") {
        return Err(Failure(format!("the refusal is {}, remedy {remedy:?}", error.chain())));
    }
    crate::guest::machine::sweep().await?;
    let settings = format!(
        "{}multipaths {{\n\tmultipath {{\n\t\twwid \"{name}\"\n\t\talias \"of-the-administrator\"\n\t\tno_path_retry fail\n\t}}\n}}\n",
        allow(&name)
    );
    let untouched = administrators() == files_before;
    files::multipath_settings(FILE, Some(&settings)).await?;
    let files_before = administrators();
    let device = manager.attach(&cx(), &expect, &bench.routes).await?;
    let alias = bench.map_field(&name, "name").await?;
    let waits = bench.map_field(&name, "queueing").await?;
    if alias != "of-the-administrator" || waits != "off" || device.legs.len() != 2 {
        return Err(Failure(format!("the map is {alias}, queueing {waits}, {} legs", device.legs.len())));
    }
    if !untouched || administrators() != files_before {
        return Err(Failure("the administrator's files were changed".to_owned()));
    }
    crate::guest::machine::sweep().await?;
    files::multipath_settings(FILE, None).await?;
    Ok(Shown::held(format!(
        "not allowed: {}, with the remedy to {remedy}; allowed: attached by WWID under the administrator's alias and bound; no file was touched",
        error.chain()
    )))
}
