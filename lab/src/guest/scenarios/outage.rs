//! Outages of the data path: guests wait and lose nothing, calls end in time, other devices do not notice.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use san_core::{ByteSize, Device, DeviceManager as _, ErrorKind, Expected, KnownLegs, Transport as _, Usage};
use san_host::{Guard, Host as _};
use san_transport_iscsi::{Iscsi, IscsiConfig};

use super::bench::{Bench, SPAN, USUAL, addresses, cx, expected, iscsi_config, lun};
use super::io::{BLOCK, block, carries, holds};
use super::play::{play, refused, scenario, wrong};
use super::tools::{self, until};
use crate::guest::bystander::VerifiedIo;
use crate::guest::ledger::{legs, maps};
use crate::guest::{Check, Failure, Group, Shown};

const BOUND: Duration = Duration::from_secs(60);

/// The group.
pub(super) fn group() -> Group {
    Group::new("outage", |recorder| Box::pin(play(recorder, CHECKS)))
}

const CHECKS: &[Check<Bench>] = &[
    Check {
        name: "all paths are lost under requests and come back",
        scenarios: &["45", "79"],
        done: "both networks of a volume under verified input and output are cut until every path has failed, then mended",
        run: |bench| scenario(bench, all_paths_lost_and_back),
        bound: BOUND,
    },
    Check {
        name: "detach of an idle volume without paths",
        scenarios: &["46"],
        done: "both networks are cut until every path has failed, then the volume is detached",
        run: |bench| scenario(bench, idle_without_paths),
        bound: BOUND,
    },
    Check {
        name: "detach with unwritten pages",
        scenarios: &["47"],
        done: "a program has written through the cache when the paths are lost, and the volume is detached",
        run: |bench| scenario(bench, unwritten_pages),
        bound: BOUND,
    },
    Check {
        name: "detach while udev looks at the map",
        scenarios: &["48"],
        done: "events make udev look at a map without paths, and the volume is detached",
        run: |bench| scenario(bench, looked_at_by_udev),
        bound: BOUND,
    },
    Check {
        name: "legs hang in sessions that stay",
        scenarios: &["49", "50"],
        done: "networks fall silent unnoticed while a cache is written out; the device is asked for again, others too",
        run: |bench| scenario(bench, legs_hang),
        bound: BOUND,
    },
    Check {
        name: "the array reboots",
        scenarios: &["52"],
        done: "every target vanishes during an attach, a growth and a detach, and comes back",
        run: |bench| scenario(bench, the_array_reboots),
        bound: BOUND,
    },
    Check {
        name: "a map was left suspended",
        scenarios: &["53"],
        done: "the map of an attached volume is suspended by other means before an attach and before a detach",
        run: |bench| scenario(bench, left_suspended),
        bound: BOUND,
    },
    Check {
        name: "a path flaps",
        scenarios: &["54"],
        done: "one network goes and comes ten times while a guest works and the volume is attached again each time",
        run: |bench| scenario(bench, a_path_flaps),
        bound: BOUND,
    },
    Check {
        name: "Fibre Channel alone",
        scenarios: &["55", "56"],
        done: "nothing",
        run: |bench| scenario(bench, fibre_channel_alone),
        bound: BOUND,
    },
];

async fn cut(bench: &Bench, device: &Device) -> Result<Duration, Failure> {
    let started = Instant::now();
    bench.network.cut(1).await?;
    bench.network.cut(2).await?;
    tools::await_paths(device, 'F').await?;
    Ok(started.elapsed())
}

async fn mend(bench: &Bench) -> Result<(), Failure> {
    bench.network.mend(1).await?;
    bench.network.mend(2).await
}

async fn all_paths_lost_and_back(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let guest = VerifiedIo::start(&device.path, Duration::from_millis(20))?;
    guest.another_round(SPAN).await?;
    let noticed = cut(&bench, &device).await?;
    let Some(seen) = bench.inspect(volume, 5).await?? else { return wrong("no device any more") };
    let usage = bench.devices.usage(&cx(SPAN), &seen).await?;
    if !seen.legs.is_empty() || !matches!(usage, Usage::InUse(_)) {
        return wrong(format!("{seen:?} is {usage:?}"));
    }
    let name = device.identity.wwid.multipath_name();
    let json = tools::run("multipathd", &["show", "map", &name, "json"]).await?;
    if !json.contains("\"paths\" : 0") {
        return wrong(format!("multipathd counts paths: {json}"));
    }
    refused(bench.try_retire(volume, 5).await?, &[ErrorKind::InUse])?;
    mend(&bench).await?;
    guest.another_round(SPAN).await?;
    let report = guest.end().await?;
    carries(&bench, &bench.try_attach(volume, 5).await??, volume).await?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!(
        "not one error in {} rounds, the longest pause {:.1} s ({:.1} s until the last path failed); a map with no \
         active path stayed a device in use",
        report.rounds,
        report.longest_gap.as_secs_f64(),
        noticed.as_secs_f64()
    )))
}

async fn idle_without_paths(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    cut(&bench, &device).await?;
    let started = Instant::now();
    let retired = bench.try_retire(volume, 5).await??;
    let took = started.elapsed();
    // A bound of work, not a deadline: emulation on a loaded machine takes five times as long.
    if took > Duration::from_secs(2) * 5 {
        return wrong(format!("it took {took:?}"));
    }
    bench.hide(5).await?;
    bench.bury(&retired).await?;
    mend(&bench).await?;
    Ok(Shown::held(format!("the map was gone and the legs offline after {} ms", took.as_millis())))
}

async fn unwritten_pages(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    cut(&bench, &device).await?;
    let (path, bytes) = (device.path.clone(), block("written through the cache"));
    let pages = bytes.clone();
    let mut file = OpenOptions::new().write(true).open(path)?;
    // Closing writes them out, and that waits for a path.
    let closing = tokio::task::spawn_blocking(move || file.write_all(&pages).map(|()| drop(file)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = (legs(), maps());
    let told = refused(bench.try_retire(volume, 5).await?, &[ErrorKind::InUse, ErrorKind::Unavailable])?;
    if (legs(), maps()) != before || closing.is_finished() {
        return wrong("the refused detach changed something");
    }
    mend(&bench).await?;
    tokio::time::timeout(SPAN, closing)
        .await
        .map_err(|_| Failure("the close does not end".to_owned()))???;
    holds(&bench, volume, &bytes)?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!(
        "refused ({told}), nothing changed, and the bytes arrived when the paths were back"
    )))
}

async fn looked_at_by_udev(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let map = std::fs::canonicalize(&device.path)?;
    cut(&bench, &device).await?;
    tools::run("udevadm", &["trigger", "--action=change", &map.to_string_lossy()]).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let started = Instant::now();
    let said = match bench.try_retire(volume, 5).await? {
        Ok(_) => "udev left it alone".to_owned(),
        Err(error) if error.kind() == ErrorKind::InUse => {
            let name = device.identity.wwid.multipath_name();
            tools::run("multipathd", &["disablequeueing", "map", &name]).await?;
            format!("udev's worker was told as an opener ({}), and ended with the queueing", error.chain())
        }
        Err(error) => return Err(error.into()),
    };
    let took = started.elapsed();
    let retired = bench.try_retire(volume, 5).await??;
    bench.hide(5).await?;
    bench.bury(&retired).await?;
    mend(&bench).await?;
    Ok(Shown::held(format!("{said}; the first answer came after {} ms", took.as_millis())))
}

async fn legs_hang(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (hanging, lively) = (bench.volume(), bench.volume());
    // Sessions that do not ping do not notice.
    let config = IscsiConfig { ping: Duration::from_secs(60), ..iscsi_config() };
    let roads = Iscsi::new(Guard::new(Arc::new(bench.host.clone())), config);
    let ports = bench.second.ports()?[..USUAL].to_vec();
    bench.second.show(hanging, 5, &bench.second.addresses()[..USUAL])?;
    bench.sync().await?;
    roads.connect(&cx(SPAN), &ports).await?;
    let routes = roads.routes(&cx(SPAN), &ports).await?;
    let expect = expected(&bench.second, hanging, 5)?;
    let device = bench.timed("attach", SPAN, bench.devices.attach(&cx(SPAN), &expect, &routes)).await?;
    let mut file = OpenOptions::new().write(true).open(&device.path)?;
    let bytes = block("not on the array yet");
    file.write_all(&bytes)?;
    bench.network.cut(1).await?;
    bench.network.cut(2).await?;

    let short = Duration::from_secs(3);
    let flushed = bench.timed("flush", short, bench.devices.flush(&cx(short), &device)).await;
    let first = refused(flushed, &[ErrorKind::Timeout])?;
    until("an abandoned helper", SPAN, || bench.system.counters().abandoned > 0).await?;
    let started = Instant::now();
    let flushed = bench.timed("flush", SPAN, bench.devices.flush(&cx(SPAN), &device)).await;
    let (second, took) = (refused(flushed, &[ErrorKind::Busy])?, started.elapsed());
    // A bound of work, not a deadline: emulation on a loaded machine takes five times as long.
    if took > Duration::from_secs(1) * 5 {
        return wrong(format!("the device was refused only after {took:?}"));
    }
    let seen = bench.timed("inspect", SPAN, bench.devices.inspect(&cx(SPAN), &expect, &routes)).await;

    // Another volume, over the other networks.
    bench.array.show(lively, 7, &bench.array.addresses()[2..])?;
    bench.sync().await?;
    let others = bench.roads.routes(&cx(SPAN), &bench.array.ports()?[USUAL..]).await?;
    let wanted = bench.expected(lively, 7)?;
    let other = bench.timed("attach", SPAN, bench.devices.attach(&cx(SPAN), &wanted, &others)).await?;
    carries(&bench, &other, lively).await?;
    let stuck = bench.system.counters().abandoned;

    mend(&bench).await?;
    until("the end of the helper", SPAN, || bench.system.counters().abandoned == 0).await?;
    tokio::task::spawn_blocking(move || file.sync_all().map(|()| drop(file))).await??;
    if bench.second.bytes(hanging, BLOCK)? != bytes {
        return wrong("what was in the cache is not on the array");
    }
    take_down(&bench, &other, 7, &addresses(&others, lun(7)?)).await?;
    take_down(&bench, &device, 5, &addresses(&routes, lun(5)?)).await?;
    roads.disconnect(&cx(SPAN), &ports).await?;
    Ok(Shown::held(format!(
        "the flush ended at its deadline ({first}); {stuck} helpers were stuck, and the next call was refused after {} ms \
         ({second}); a look {}; another volume came up meanwhile; all helpers ended with the outage",
        took.as_millis(),
        match seen {
            Ok(Some(device)) => format!("found {} legs answering", device.legs.len()),
            Ok(None) => "found nothing".to_owned(),
            Err(error) => format!("was refused: {}", error.chain()),
        }
    )))
}

async fn take_down(
    bench: &Bench,
    device: &Device,
    number: u16,
    addresses: &[san_core::Hctl],
) -> Result<(), Failure> {
    let known =
        KnownLegs { identity: device.identity.clone(), lun: lun(number)?, addresses: addresses.to_vec() };
    let retired = bench.timed("retire", SPAN, bench.devices.retire(&cx(SPAN), &known)).await?;
    bench.array.hide(number, bench.array.addresses());
    bench.second.hide(number, bench.second.addresses());
    bench.sync().await?;
    bench.bury(&retired).await
}

async fn the_array_reboots(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (old, new) = (bench.volume(), bench.volume());
    let device = bench.attach(old, 5).await?;
    let guest = VerifiedIo::start(&device.path, Duration::from_millis(20))?;
    bench.array.show(new, 6, &bench.array.addresses()[..USUAL])?;
    let routes = bench.routes(USUAL).await?;
    let (old_expect, new_expect) = (bench.expected(old, 5)?, bench.expected(new, 6)?);
    let short = Duration::from_secs(10);
    let mut told = Vec::new();

    bench.fall().await?;
    let attaching =
        bench.timed("attach", short, bench.devices.attach(&cx(short), &new_expect, &routes)).await;
    told.push(refused(attaching, &[ErrorKind::NotFound, ErrorKind::Unavailable, ErrorKind::Timeout])?);
    bench.sync().await?;
    bench.await_sessions().await?;
    carries(&bench, &bench.try_attach(new, 6).await??, new).await?;

    let size = ByteSize::from_mib(96);
    bench.array.resize(old, size)?;
    bench.fall().await?;
    let larger = Expected { size, ..old_expect };
    let growing = bench.timed("grow", short, bench.devices.grow(&cx(short), &larger, &routes)).await;
    told.push(refused(growing, &[ErrorKind::Busy, ErrorKind::Unavailable, ErrorKind::Timeout])?);
    bench.sync().await?;
    bench.await_sessions().await?;
    let grown = bench.timed("grow", SPAN, bench.devices.grow(&cx(SPAN), &larger, &routes)).await?;
    guest.another_round(SPAN).await?;
    guest.end().await?;

    bench.fall().await?;
    let known = bench.known(new, 6)?;
    let retiring = bench.timed("retire", short, bench.devices.retire(&cx(short), &known)).await;
    told.push(retiring.map_or_else(|error| error.chain().to_string(), |_| "retired at once".to_owned()));
    bench.sync().await?;
    bench.await_sessions().await?;
    bench.detach(new, 6).await?;
    bench.detach(old, 5).await?;
    Ok(Shown::held(format!(
        "each ended in its 10 s ({}), and repeated went well; size {}",
        told.join("; "),
        grown.size
    )))
}

async fn left_suspended(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let name = device.identity.wwid.multipath_name();
    let kernel = std::fs::canonicalize(&device.path)?;
    let suspended = Path::new("/sys/block").join(kernel.file_name().unwrap_or_default()).join("dm/suspended");
    let suspend = ["suspend", "--noflush", "--nolockfs", &name];
    tools::run("dmsetup", &suspend).await?;
    if std::fs::read_to_string(&suspended)?.trim() != "1" {
        return wrong("it is not suspended");
    }
    let device = bench.try_attach(volume, 5).await??;
    if std::fs::read_to_string(&suspended)?.trim() != "0" {
        return wrong("the attach handed out a suspended map");
    }
    carries(&bench, &device, volume).await?;
    tools::run("dmsetup", &suspend).await?;
    let retired = bench.try_retire(volume, 5).await?;
    let said = match &retired {
        Ok(_) => "went well".to_owned(),
        Err(error) => format!("was refused ({})", error.chain()),
    };
    if retired.is_err() {
        tools::run("dmsetup", &["resume", &name]).await?;
    }
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!("an attach found it suspended and resumed it; a detach of it {said}")))
}

async fn a_path_flaps(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let guest = VerifiedIo::start(&device.path, Duration::from_millis(20))?;
    let ports = bench.array.ports()?[..USUAL].to_vec();
    bench.host.forget();
    for flap in 0..10_u64 {
        bench.network.cut(2).await?;
        tokio::time::sleep(Duration::from_millis(100 + 50 * flap)).await;
        bench.network.mend(2).await?;
        bench.timed("connect", SPAN, bench.roads.connect(&cx(SPAN), &ports)).await?;
        bench.try_attach(volume, 5).await??;
    }
    let programs = bench.host.programs().len();
    let scans = bench.host.writes().iter().filter(|it| it.contains("/scan ")).count();
    if programs > 0 || scans > 0 {
        return wrong(format!("{programs} programs and {scans} scans: {:?}", bench.host.programs()));
    }
    guest.another_round(SPAN).await?;
    let report = guest.end().await?;
    bench.await_sessions().await?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!(
        "ten flaps cost no program and no scan, and {} rounds of the guest not one error",
        report.rounds
    )))
}

async fn fibre_channel_alone(_bench: Arc<Bench>) -> Result<Shown, Failure> {
    let reason = "a LIP and dev_loss are events of Fibre Channel; iSCSI knows neither, and there is no Fibre Channel \
                  transport yet";
    Ok(Shown::Cannot(reason.to_owned()))
}
