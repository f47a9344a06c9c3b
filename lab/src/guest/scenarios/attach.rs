//! Attach: late, missing, dead and stopped things, and many at once.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use san_core::{DeviceManager as _, ErrorKind, Transport as _};
use san_host::Guard;
use san_multipath::Multipath;
use tokio::task::JoinSet;

use super::bench::{Bench, SPAN, USUAL, cx, multipath_config};
use super::io::carries;
use super::play::{play, refused, scenario, wrong};
use super::tools;
use crate::guest::daemons::{self, Daemon};
use crate::guest::ledger::{legs, maps};
use crate::guest::{Check, Failure, Group, Shown, udev};

const BOUND: Duration = Duration::from_secs(50);
const LONG: Duration = Duration::from_secs(100);

/// The group.
pub(super) fn group() -> Group {
    Group::new("attach", |recorder| Box::pin(play(recorder, CHECKS)))
}

const CHECKS: &[Check<Bench>] = &[
    Check {
        name: "devices appear late on a busy machine",
        scenarios: &["16"],
        done: "a volume is attached while programs take all of the processor's time",
        run: |bench| scenario(bench, late_devices),
        bound: BOUND,
    },
    Check {
        name: "the mapping takes effect late",
        scenarios: &["17"],
        done: "the array shows the volume two seconds after the attach began",
        run: |bench| scenario(bench, late_mapping),
        bound: BOUND,
    },
    Check {
        name: "udev is stopped",
        scenarios: &["18"],
        done: "a volume is attached while udev does nothing, and again when it works",
        run: |bench| scenario(bench, udev_stopped),
        bound: BOUND,
    },
    Check {
        name: "multipathd is down, hangs, and comes back",
        scenarios: &["19", "20"],
        done: "a volume is attached while multipathd is stopped, while it hangs, and while it hangs for eight seconds",
        run: |bench| scenario(bench, multipathd_down),
        bound: LONG,
    },
    Check {
        name: "legs without a map",
        scenarios: &["21"],
        done: "the map is removed by other means, and the volume attached again",
        run: |bench| scenario(bench, legs_without_map),
        bound: BOUND,
    },
    Check {
        name: "a map with one leg",
        scenarios: &["22"],
        done: "a volume is attached while one network is cut, held open, and attached again when it is mended",
        run: |bench| scenario(bench, one_leg),
        bound: BOUND,
    },
    Check {
        name: "sixteen attaches at once",
        scenarios: &["28"],
        done: "sixteen volumes are attached at once over the same sessions, and detached at once",
        run: |bench| scenario(bench, sixteen_at_once),
        bound: Duration::from_secs(150),
    },
    Check {
        name: "one volume attached twice at once",
        scenarios: &["29"],
        done: "two device managers attach one volume at the same moment",
        run: |bench| scenario(bench, twice_at_once),
        bound: BOUND,
    },
    Check {
        name: "multipathd as others like it",
        scenarios: &["42"],
        done: "attach and detach with find_multipaths off, smart and strict, friendly names and an alias",
        run: |bench| scenario(bench, others_settings),
        bound: LONG,
    },
];

async fn late_devices(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let ends = Instant::now() + Duration::from_secs(15);
    let burn = move || while Instant::now() < ends {};
    let burners: Vec<_> = (0..3).map(|_| std::thread::spawn(burn)).collect();
    bench.show(volume, 5).await?;
    let started = Instant::now();
    let device = bench.try_attach(volume, 5).await??;
    let took = started.elapsed();
    if device.legs.len() != USUAL {
        return wrong(format!("missing {:?}", device.missing));
    }
    carries(&bench, &device, volume).await?;
    for burner in burners {
        tokio::task::spawn_blocking(move || burner.join())
            .await?
            .map_err(|_| Failure("a load failed".to_owned()))?;
    }
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!("with both legs after {} ms", took.as_millis())))
}

async fn late_mapping(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.host.forget();
    let late = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        bench.show(volume, 5).await
    };
    let (device, shown) = tokio::join!(bench.try_attach(volume, 5), late);
    shown?;
    let device = device??;
    let scans = bench.host.writes().iter().filter(|it| it.contains("/scan ")).count();
    if device.legs.len() != USUAL || scans <= USUAL {
        return wrong(format!("{} legs after {scans} scans", device.legs.len()));
    }
    carries(&bench, &device, volume).await?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!("found by {scans} scans of one LUN each")))
}

/// Removes what an attach that could not be finished has left on its addresses, as the engine's undo does.
async fn undo(bench: &Bench, volume: u8) -> Result<(), Failure> {
    bench.detach(volume, 5).await
}

async fn udev_stopped(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.show(volume, 5).await?;
    Daemon::Udevd.hold()?;
    let (expect, routes) = (bench.expected(volume, 5)?, bench.routes(USUAL).await?);
    let short = Duration::from_secs(6);
    let answer = bench.timed("attach", short, bench.devices.attach(&cx(short), &expect, &routes)).await;
    let told = refused(answer, &[ErrorKind::Timeout, ErrorKind::Unavailable])?;
    if !told.contains("udev") {
        return wrong(format!("udev is not named: {told}"));
    }
    Daemon::Udevd.wake()?;
    tools::quiet().await?;
    let device = bench.try_attach(volume, 5).await??;
    carries(&bench, &device, volume).await?;
    undo(&bench, volume).await?;
    Ok(Shown::held(format!("in time and by name ({told}); the repeat went well")))
}

async fn multipathd_down(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.show(volume, 5).await?;
    let (expect, routes) = (bench.expected(volume, 5)?, bench.routes(USUAL).await?);
    let mut told = Vec::new();
    Daemon::Multipathd.stop().await?;
    let answer = bench.timed("attach", SPAN, bench.devices.attach(&cx(SPAN), &expect, &routes)).await;
    told.push(refused(answer, &[ErrorKind::Unavailable])?);
    Daemon::Multipathd.start().await?;
    Daemon::Multipathd.hold()?;
    let short = Duration::from_secs(6);
    let answer = bench.timed("attach", short, bench.devices.attach(&cx(short), &expect, &routes)).await;
    told.push(refused(answer, &[ErrorKind::Timeout])?);
    if let Some(text) = told.iter().find(|it| !it.contains("multipathd")) {
        return wrong(format!("multipathd is not named: {text}"));
    }
    let waking = async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        Daemon::Multipathd.wake()
    };
    let (answer, woken) = tokio::join!(bench.try_attach(volume, 5), waking);
    woken?;
    let device = answer??;
    carries(&bench, &device, volume).await?;
    undo(&bench, volume).await?;
    Ok(Shown::held(format!(
        "named each time ({}); an attach that met it hanging for eight seconds went well",
        told.join("; ")
    )))
}

async fn legs_without_map(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let name = device.identity.wwid.multipath_name();
    daemons::remove_map(&name).await?;
    if bench.inspect(volume, 5).await??.is_some() || maps().iter().any(|it| it.wwid == name) {
        return wrong("the map is still there");
    }
    bench.host.forget();
    let device = bench.try_attach(volume, 5).await??;
    let changes = bench.host.changes();
    if device.legs.len() != USUAL {
        return wrong(format!("missing {:?}", device.missing));
    }
    carries(&bench, &device, volume).await?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!("rebuilt over the legs that were there by {}", changes.join(", "))))
}

async fn one_leg(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.network.cut(2).await?;
    tools::until("the loss of a session", SPAN, || legs().iter().any(|it| it.state != "running")).await?;
    bench.show(volume, 5).await?;
    let (expect, all) = (bench.expected(volume, 5)?, bench.array.ports()?[..USUAL].to_vec());
    let routes = bench.roads.routes(&cx(SPAN), &all).await?;
    let device = bench.timed("attach", SPAN, bench.devices.attach(&cx(SPAN), &expect, &routes)).await?;
    if device.legs.len() != 1 {
        return wrong(format!("{} legs over {routes:?}", device.legs.len()));
    }
    let guest = File::open(&device.path)?;
    carries(&bench, &device, volume).await?;
    bench.network.mend(2).await?;
    bench.await_sessions().await?;
    let whole = bench.try_attach(volume, 5).await??;
    if whole.legs.len() != USUAL || whole.number != device.number || !whole.missing.is_empty() {
        return wrong(format!("it became {whole:?}"));
    }
    carries(&bench, &whole, volume).await?;
    drop(guest);
    bench.detach(volume, 5).await?;
    Ok(Shown::held("usable with one leg, and completed under an open handle, as the same device"))
}

async fn sixteen_at_once(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volumes: Vec<(u8, u16)> = (20..36).map(|number| (bench.volume(), number)).collect();
    for (volume, number) in &volumes {
        udev::mask(&bench.array.identity(*volume).wwid)?;
        bench.array.show(*volume, *number, &bench.array.addresses()[..USUAL])?;
    }
    bench.sync().await?;
    bench.host.forget();
    let started = Instant::now();
    let attach =
        |bench: Arc<Bench>, volume, number| async move { (volume, bench.try_attach(volume, number).await) };
    let mut attaching: JoinSet<_> =
        volumes.iter().map(|(volume, number)| attach(Arc::clone(&bench), *volume, *number)).collect();
    let mut devices = Vec::new();
    while let Some(attached) = attaching.join_next().await {
        devices.push(attached?);
    }
    let took = started.elapsed();
    let scans = bench.host.writes().iter().filter(|it| it.contains("/scan ")).count();
    // On a machine this busy a leg may be seconds behind the other: then it is told as missing, and the next attach has it.
    let mut completed = 0;
    for (volume, device) in devices {
        let mut device = device??;
        let number = volumes.iter().find(|it| it.0 == volume).map_or(0, |it| it.1);
        if device.legs.len() != USUAL {
            device = bench.try_attach(volume, number).await??;
            completed += 1;
        }
        if device.legs.len() != USUAL {
            return wrong(format!("volume {volume}: missing {:?}", device.missing));
        }
        carries(&bench, &device, volume).await?;
    }
    if !bench.host.programs().is_empty() {
        return wrong(format!("programs: {:?}", bench.host.programs()));
    }
    let detach = |bench: Arc<Bench>, volume, number| async move { bench.detach(volume, number).await };
    let mut detaching: JoinSet<_> =
        volumes.iter().map(|(volume, number)| detach(Arc::clone(&bench), *volume, *number)).collect();
    while let Some(detached) = detaching.join_next().await {
        detached??;
    }
    Ok(Shown::held(format!(
        "each has its own bytes; {scans} scans of one LUN each, no program, {} ms for all; {completed} were completed by a \
         second attach",
        took.as_millis()
    )))
}

async fn twice_at_once(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.show(volume, 5).await?;
    let other = Multipath::new(Guard::new(Arc::new(bench.host.clone())), multipath_config());
    let (expect, routes) = (bench.expected(volume, 5)?, bench.routes(USUAL).await?);
    let bound = cx(SPAN);
    let theirs = bench.timed("attach", SPAN, other.attach(&bound, &expect, &routes));
    let (one, two) = tokio::join!(bench.try_attach(volume, 5), theirs);
    let (one, two) = (one??, two?);
    if one.number != two.number || one.legs.len() != USUAL || two.legs.len() != USUAL {
        return wrong(format!("{one:?} and {two:?}"));
    }
    carries(&bench, &one, volume).await?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held("one map with both legs, and both have it"))
}

async fn others_settings(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let name = bench.array.identity(volume).wwid.multipath_name();
    let file = Path::new("/etc/multipath/conf.d/zzz-admin.conf");
    let mut shown = Vec::new();
    let mut first = None;
    for (find, extra) in [
        ("off", String::new()),
        ("smart", String::new()),
        ("strict", format!("multipaths {{\n\tmultipath {{\n\t\twwid {name}\n\t\talias guest\n\t}}\n}}\n")),
    ] {
        let text = format!("defaults {{\n\tfind_multipaths {find}\n\tuser_friendly_names yes\n}}\n{extra}");
        std::fs::write(file, &text)?;
        tools::run("multipathd", &["reconfigure"]).await?;
        let device = bench.attach(volume, 5).await?;
        carries(&bench, &device, volume).await?;
        let mapper = tools::run(
            "dmsetup",
            &[
                "info",
                "-c",
                "--noheadings",
                "-o",
                "name",
                "-j",
                &device.number.major.to_string(),
                "-m",
                &device.number.minor.to_string(),
            ],
        )
        .await?;
        let path = first.get_or_insert_with(|| device.path.clone());
        if *path != device.path || std::fs::read_to_string(file)? != text {
            return wrong(format!("{find}: {}", device.path.display()));
        }
        shown.push(format!("{find} as {}", mapper.trim()));
        bench.detach(volume, 5).await?;
        if maps().len() != 1 || maps()[0].wwid != bench.bystander_map {
            return wrong(format!("{find}: {:?}", maps()));
        }
    }
    std::fs::remove_file(file)?;
    tools::run("multipathd", &["reconfigure"]).await?;
    Ok(Shown::held(format!("one path whatever the map is called: {}", shown.join(", "))))
}
