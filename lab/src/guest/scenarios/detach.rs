//! Detach: what is used stays, what is retired does not come back, and nothing of ours is left.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use san_core::{
    Cx, Deadline, DeviceManager as _, Effect, EffectKind, EffectObserver, Effects, ErrorKind, Holder,
    OperationId, Usage,
};

use super::bench::{Bench, SPAN, USUAL, cx};
use super::io::{block, carries, holds, write};
use super::play::{play, refused, scenario, wrong};
use super::stock::stacked;
use super::tools::{self, until};
use crate::guest::ledger::{legs, maps};
use crate::guest::scratch::SCRATCH;
use crate::guest::{Check, Failure, Group, Shown};

const BOUND: Duration = Duration::from_secs(50);
const LONG: Duration = Duration::from_secs(100);

/// The group.
pub(super) fn group() -> Group {
    Group::new("detach", |recorder| Box::pin(play(recorder, CHECKS)))
}

const CHECKS: &[Check<Bench>] = &[
    Check {
        name: "others scan between the removal and the unmap",
        scenarios: &["57"],
        done: "all sessions are scanned and udev is triggered between retire and unmap, and after it",
        run: |bench| scenario(bench, scanned_in_the_gap),
        bound: BOUND,
    },
    Check {
        name: "a session bounces between the removal and the unmap",
        scenarios: &["57b"],
        done: "both sessions break and come back between retire and unmap",
        run: |bench| scenario(bench, bounced_in_the_gap),
        bound: BOUND,
    },
    Check {
        name: "the array refuses to unmap",
        scenarios: &["58"],
        done: "the volume is retired, the array keeps its mapping, and it is taken back into use",
        run: |bench| scenario(bench, taken_back),
        bound: BOUND,
    },
    Check {
        name: "killed between any two steps",
        scenarios: &["59"],
        done: "retire and bury are stopped before each of their effects, and begun anew",
        run: |bench| scenario(bench, killed_anywhere),
        bound: LONG,
    },
    Check {
        name: "somebody unmaps on the array first",
        scenarios: &["60"],
        done: "the LUN vanishes under an attached idle volume, which is then detached",
        run: |bench| scenario(bench, unmapped_first),
        bound: BOUND,
    },
    Check {
        name: "whoever uses it is named",
        scenarios: &["61"],
        done: "the map is opened, mounted, stacked on, and its partition is mounted; each time it is detached",
        run: |bench| scenario(bench, in_use),
        bound: LONG,
    },
    Check {
        name: "writing out fails",
        scenarios: &["63"],
        done: "the array has no room for what waits in the cache when the volume is flushed and detached",
        run: |bench| scenario(bench, no_room),
        bound: LONG,
    },
    Check {
        name: "legs are blocked or gone when they are deleted",
        scenarios: &["64"],
        done: "one network is cut just before, one just after the volume is retired; then it is buried",
        run: |bench| scenario(bench, blocked_legs),
        bound: BOUND,
    },
    Check {
        name: "open for a moment",
        scenarios: &["65"],
        done: "somebody closes the map shortly after its detach began, and another one two seconds later",
        run: |bench| scenario(bench, open_for_a_moment),
        bound: BOUND,
    },
    Check {
        name: "detach from a dead array",
        scenarios: &["66"],
        done: "every target is gone for good when an idle volume is detached",
        run: |bench| scenario(bench, dead_array),
        bound: BOUND,
    },
];

async fn scan_everything() -> Result<(), Failure> {
    tools::run("iscsiadm", &["-m", "session", "--rescan"]).await?;
    tools::run("udevadm", &["trigger", "--subsystem-match=block", "--action=add"]).await?;
    tools::quiet().await
}

/// The legs at a number, and whether any map but the bystander's is there.
fn present(bench: &Bench, number: u16) -> (usize, bool) {
    let end = format!(":{number}");
    let there = legs().into_iter().filter(|it| it.address.ends_with(&end)).count();
    (there, maps().iter().any(|it| it.wwid != bench.bystander_map))
}

async fn scanned_in_the_gap(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.attach(volume, 5).await?;
    let retired = bench.try_retire(volume, 5).await??;
    scan_everything().await?;
    if present(&bench, 5) != (USUAL, false) {
        return wrong(format!("in the gap there were {:?} and {:?}", legs(), maps()));
    }
    let offline = legs().into_iter().filter(|it| it.address.ends_with(":5") && it.state == "offline").count();
    bench.hide(5).await?;
    bench.bury(&retired).await?;
    scan_everything().await?;
    if present(&bench, 5) != (0, false) {
        return wrong(format!("afterwards there were {:?} and {:?}", legs(), maps()));
    }
    Ok(Shown::held(format!(
        "{offline} legs stayed offline, no map came back, and after the unmap nothing did"
    )))
}

async fn bounced_in_the_gap(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.attach(volume, 5).await?;
    bench.try_retire(volume, 5).await??;
    for network in [1, 2] {
        bench.network.cut(network).await?;
    }
    until("the loss of the sessions", SPAN, || legs().iter().any(|it| it.state != "running")).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    for network in [1, 2] {
        bench.network.mend(network).await?;
    }
    bench.await_sessions().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let states: Vec<String> =
        legs().into_iter().filter(|it| it.address.ends_with(":5")).map(|it| it.state).collect();
    if present(&bench, 5) != (USUAL, false) {
        return wrong(format!("after the bounce there were {:?} and {:?}", legs(), maps()));
    }
    let retired = bench.try_retire(volume, 5).await??;
    let running = legs().into_iter().any(|it| it.address.ends_with(":5") && it.state == "running");
    if running || retired.legs.len() != USUAL {
        return wrong(format!("retired again there are {:?}", legs()));
    }
    bench.hide(5).await?;
    bench.bury(&retired).await?;
    Ok(Shown::held(format!(
        "the legs came back {}; retired again they were offline, and no map came",
        states.join(" and ")
    )))
}

async fn taken_back(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    carries(&bench, &device, volume).await?;
    bench.try_retire(volume, 5).await??;
    // udev takes the link away a little after the map has gone.
    until("the end of its link", SPAN, || !device.path.is_symlink()).await?;
    let (expect, routes) = (bench.expected(volume, 5)?, bench.routes(USUAL).await?);
    let back = bench.timed("revive", SPAN, bench.devices.revive(&cx(SPAN), &expect, &routes)).await?;
    if back.legs.len() != USUAL || back.path != device.path {
        return wrong(format!("it came back as {back:?}"));
    }
    carries(&bench, &back, volume).await?;
    // The repeat, which the array lets through.
    bench.detach(volume, 5).await?;
    Ok(Shown::held(
        "it stayed offline until it was taken back, with all legs, and the repeated detach went through",
    ))
}

/// Lets so many effects pass and dies before the next.
#[derive(Debug)]
struct Mortal {
    lives: AtomicUsize,
}

#[async_trait]
impl EffectObserver for Mortal {
    async fn before(&self, effect: &Effect) -> san_core::Result<()> {
        if effect.kind != EffectKind::Host
            || self.lives.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |it| it.checked_sub(1)).is_ok()
        {
            return Ok(());
        }
        std::future::pending().await
    }

    async fn after(&self, _: &Effect) -> san_core::Result<()> {
        Ok(())
    }
}

fn mortal(lives: usize) -> Cx {
    let effects = Effects::observed(Arc::new(Mortal { lives: AtomicUsize::new(lives) }));
    Cx::new(Deadline::after(SPAN), OperationId::random(), effects)
}

/// How long an operation is given before it counts as dead: what it does takes a second or two.
const DEATH: Duration = Duration::from_secs(6);

/// More effects than a retirement or a burial has.
const EFFECTS: usize = 12;

async fn killed_anywhere(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let (known, bytes) = (bench.known(volume, 5)?, block("before any death"));
    write(&device.path, bytes.clone()).await?;
    let mut deaths = 0;
    for lives in 0..EFFECTS {
        let cx = mortal(lives);
        // Given up, it is dropped where it stands, as by a kill.
        let ended = tokio::time::timeout(DEATH, bench.devices.retire(&cx, &known)).await;
        bench.try_retire(volume, 5).await??;
        let running = legs().into_iter().any(|it| it.address.ends_with(":5") && it.state == "running");
        if running || present(&bench, 5) != (USUAL, false) {
            return wrong(format!("killed after {lives} effects and repeated: {:?}, {:?}", legs(), maps()));
        }
        if ended.is_ok() {
            break;
        }
        deaths += 1;
        bench.try_attach(volume, 5).await??;
    }
    let retired = bench.try_retire(volume, 5).await??;
    bench.hide(5).await?;
    for lives in 0..EFFECTS {
        let cx = mortal(lives);
        if tokio::time::timeout(DEATH, bench.devices.bury(&cx, &retired)).await.is_ok() {
            break;
        }
        deaths += 1;
    }
    bench.bury(&retired).await?;
    holds(&bench, volume, &bytes)?;
    if deaths < 4 {
        return wrong(format!("only {deaths} deaths"));
    }
    Ok(Shown::held(format!(
        "{deaths} deaths, each followed by a repeat that left nothing; every byte was there"
    )))
}

async fn unmapped_first(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.attach(volume, 5).await?;
    bench.hide(5).await?;
    let started = Instant::now();
    let retired = bench.try_retire(volume, 5).await??;
    bench.bury(&retired).await?;
    let took = started.elapsed();
    // A bound of work, not a deadline: emulation on a loaded machine takes five times as long.
    if took > Duration::from_secs(5) * 5 {
        return wrong(format!("it took {took:?}"));
    }
    Ok(Shown::held(format!("cleared away in {} ms, and nothing hung", took.as_millis())))
}

/// What is expected of the one holder that is named.
type IsNamed = fn(&Holder) -> bool;

async fn refuse_while(bench: &Bench, volume: u8, is_named: IsNamed) -> Result<String, Failure> {
    let Some(device) = bench.inspect(volume, 5).await?? else { return wrong("it is not attached") };
    let before = (legs(), maps());
    bench.host.forget();
    let usage = bench.devices.usage(&cx(SPAN), &device).await?;
    let Usage::InUse(holders) = &usage else { return wrong("it counts as idle") };
    if !holders.iter().any(is_named) {
        return wrong(format!("named were {holders:?}"));
    }
    let told = refused(bench.try_retire(volume, 5).await?, &[ErrorKind::InUse])?;
    if (legs(), maps()) != before || !bench.host.changes().is_empty() {
        return wrong(format!("the refused detach changed {:?}", bench.host.changes()));
    }
    Ok(told)
}

async fn in_use(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let (path, name) = (device.path.to_string_lossy().into_owned(), device.identity.wwid.multipath_name());
    let mut told = Vec::new();

    let guest = File::open(&device.path)?;
    told.push(refuse_while(&bench, volume, |it| *it == Holder::Openers(1)).await?);
    drop(guest);

    tools::run("mkfs.ext4", &["-q", "-F", &path]).await?;
    let folder = tempfile::tempdir()?;
    tools::run("mount", &[&path, &folder.path().to_string_lossy()]).await?;
    told.push(refuse_while(&bench, volume, |it| matches!(it, Holder::Mount(_))).await?);
    tools::run("umount", &[&folder.path().to_string_lossy()]).await?;

    let table = format!("0 8192 linear {path} 0");
    tools::run("dmsetup", &["create", "upon", "--table", &table]).await?;
    told.push(
        refuse_while(&bench, volume, |it| matches!(it, Holder::Device(name) if name.starts_with("dm-")))
            .await?,
    );
    tools::run("dmsetup", &["remove", "--retry", "upon"]).await?;

    tools::run("mkswap", &["-q", &path]).await?;
    tools::run("swapon", &[&path]).await?;
    told.push(refuse_while(&bench, volume, |it| *it == Holder::Swap).await?);
    tools::run("swapoff", &[&path]).await?;

    // A partition in use as a file system, as kpartx makes it.
    let sectors = format!("0 65536 linear {path} 2048");
    let uuid = format!("part1-mpath-{name}");
    tools::run("dmsetup", &["create", "part", "--uuid", &uuid, "--table", &sectors]).await?;
    tools::run("mkfs.ext4", &["-q", "-F", "/dev/mapper/part"]).await?;
    tools::run("mount", &["/dev/mapper/part", &folder.path().to_string_lossy()]).await?;
    told.push(refuse_while(&bench, volume, |it| matches!(it, Holder::Mount(_))).await?);
    tools::run("umount", &[&folder.path().to_string_lossy()]).await?;
    tools::quiet().await?;
    // Unused it does not count, and goes with the map.
    bench.detach(volume, 5).await?;
    if !stacked().is_empty() {
        return wrong(format!("left stacked: {:?}", stacked()));
    }
    Ok(Shown::held(format!("refused each time without a change: {}", told.join("; "))))
}

const SMALL: &str = "small";

/// A file system too small for what is written to it, as a thin array that is full.
async fn small_file_system() -> Result<(tempfile::TempDir, File), Failure> {
    let image = Path::new(SCRATCH).join(SMALL);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&image)?;
    file.set_len(24 << 20)?;
    let text = image.to_string_lossy().into_owned();
    tools::run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", &text]).await?;
    let folder = tempfile::tempdir()?;
    tools::run("mount", &["-o", "loop", &text, &folder.path().to_string_lossy()]).await?;
    Ok((folder, file))
}

async fn no_room(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (folder, _image) = small_file_system().await?;
    let volume = bench.volume();
    let file = folder.path().join("volume");
    bench.array.change(volume, |unit| unit.file.clone_from(&file))?;
    let device = bench.attach(volume, 5).await?;
    let filler = folder.path().join("filler");
    let full = File::create(&filler)?;
    let zeros = vec![1; 1 << 20];
    let mut room = 0;
    while full.write_all_at(&zeros, room).is_ok() && room < 64 << 20 {
        room += 1 << 20;
    }
    drop(full);
    let pages = block("no room for this");
    let guest = OpenOptions::new().write(true).open(&device.path)?;
    for place in 0..64 {
        guest.write_all_at(&pages, place << 20 >> 1)?;
    }
    let short = Duration::from_secs(10);
    let flushed = bench.timed("flush", short, bench.devices.flush(&cx(short), &device)).await;
    let told = match flushed {
        Err(error) => error.chain().to_string(),
        Ok(()) => return wrong("the flush says that all is well"),
    };
    let closing = tokio::task::spawn_blocking(move || drop(guest));
    let before = maps();
    let detached = bench.known(volume, 5)?;
    let detached = bench.timed("retire", short, bench.devices.retire(&cx(short), &detached)).await;
    let Err(refusal) = detached else { return wrong("it was detached with data that is nowhere") };
    if maps() != before {
        return wrong("the refused detach removed the map");
    }
    std::fs::remove_file(filler)?;
    tokio::time::timeout(SPAN, closing).await.map_err(|_| Failure("the close does not end".to_owned()))??;
    until("the end of the helpers", SPAN, || {
        use san_host::Host as _;
        bench.system.counters().abandoned == 0
    })
    .await?;
    bench.detach(volume, 5).await?;
    tools::run("umount", &["-d", &folder.path().to_string_lossy()]).await?;
    std::fs::remove_file(Path::new(SCRATCH).join(SMALL))?;
    Ok(Shown::held(format!("the flush was told ({told}), the detach refused ({})", refusal.chain())))
}

async fn blocked_legs(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.attach(volume, 5).await?;
    bench.network.cut(1).await?;
    let retired = bench.try_retire(volume, 5).await??;
    bench.network.cut(2).await?;
    bench.hide(5).await?;
    let states: Vec<String> =
        legs().into_iter().filter(|it| it.address.ends_with(":5")).map(|it| it.state).collect();
    let started = Instant::now();
    bench.bury(&retired).await?;
    let took = started.elapsed();
    if present(&bench, 5) != (0, false) {
        return wrong(format!("buried there are {:?} and {:?}", legs(), maps()));
    }
    bench.network.mend(1).await?;
    bench.network.mend(2).await?;
    Ok(Shown::held(format!(
        "legs that were {} were gone after {} ms",
        states.join(" and "),
        took.as_millis()
    )))
}

async fn open_for_a_moment(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let guest = File::open(&device.path)?;
    let closing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(guest);
    };
    let (retired, ()) = tokio::join!(bench.try_retire(volume, 5), closing);
    let retired = retired??;
    let (expect, routes) = (bench.expected(volume, 5)?, bench.routes(USUAL).await?);
    let device = bench.devices.revive(&cx(SPAN), &expect, &routes).await?;
    let guest = File::open(&device.path)?;
    let answer = bench.try_retire(volume, 5).await?;
    let told = refused(answer, &[ErrorKind::InUse])?;
    drop(guest);
    drop(retired);
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!("one that closed at once was waited for; one that stayed was named ({told})")))
}

async fn dead_array(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.attach(volume, 5).await?;
    bench.fall().await?;
    let short = Duration::from_secs(20);
    let known = bench.known(volume, 5)?;
    let started = Instant::now();
    let retired = bench.timed("retire", short, bench.devices.retire(&cx(short), &known)).await?;
    let took = started.elapsed();
    let (there, map) = present(&bench, 5);
    if there != USUAL || map {
        return wrong(format!("retired there are {:?} and {:?}", legs(), maps()));
    }
    // The array's mapping is what is owed; when it is back, that is settled first.
    bench.array.hide(5, bench.array.addresses());
    bench.sync().await?;
    bench.await_sessions().await?;
    bench.bury(&retired).await?;
    Ok(Shown::held(format!(
        "retired in {} ms; {there} offline legs kept the number until the array was back",
        took.as_millis()
    )))
}
