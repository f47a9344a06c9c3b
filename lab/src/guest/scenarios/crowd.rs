//! Others on the same node: many of them, busy ones, and an admin who wants none of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use san_core::{DeviceManager as _, ErrorKind};
use san_host::Host as _;

use super::bench::{Bench, SPAN, USUAL, cx};
use super::io::{block, carries, write};
use super::play::{refused, wrong};
use super::tools;
use crate::guest::ledger::{legs, maps};
use crate::guest::{Failure, Shown};

/// What one attach and one detach were made of.
#[derive(Debug, PartialEq, Eq)]
struct Work {
    changes: usize,
    programs: usize,
    jobs: u64,
    millis: u128,
}

async fn work_of_one(bench: &Bench) -> Result<Work, Failure> {
    let volume = bench.volume();
    bench.show(volume, 5).await?;
    tools::quiet().await?;
    bench.host.forget();
    let before = bench.host.counters();
    let started = Instant::now();
    let device = bench.try_attach(volume, 5).await??;
    let millis = started.elapsed().as_millis();
    let after = bench.host.counters();
    // multipathd is asked again for what it had not heard of yet: that is waiting, not work.
    let changes: BTreeSet<String> = bench.host.changes().into_iter().collect();
    let work = Work {
        changes: changes.len(),
        programs: bench.host.programs().len(),
        jobs: after.helper_jobs - before.helper_jobs,
        millis,
    };
    carries(bench, &device, volume).await?;
    bench.detach(volume, 5).await?;
    Ok(work)
}

pub(super) async fn one_more_beside_many(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let few = work_of_one(&bench).await?;
    let strangers: Vec<u16> = (40..50).collect();
    for number in &strangers {
        bench.array.show(bench.volume(), *number, &bench.array.addresses()[..USUAL])?;
    }
    bench.sync().await?;
    tools::run("iscsiadm", &["-m", "session", "--rescan"]).await?;
    tools::quiet().await?;
    let all = legs().len();
    let count = bench.array.addresses().len() + strangers.len() * USUAL;
    if all != count {
        return wrong(format!("{all} legs where {count} were due"));
    }
    let theirs = legs();
    let many = work_of_one(&bench).await?;
    if legs() != theirs {
        return wrong("strangers' legs are not as they were");
    }
    for number in &strangers {
        tools::remove_strangers(&bench, *number).await?;
        bench.array.hide(*number, bench.array.addresses());
    }
    bench.sync().await?;
    if (many.changes, many.programs) != (few.changes, few.programs) || many.jobs > few.jobs + 4 {
        return wrong(format!("{few:?} became {many:?}"));
    }
    Ok(Shown::held(format!(
        "beside one LUN {few:?}, beside {all} legs {many:?}; the strangers' legs stayed as they were"
    )))
}

pub(super) async fn scans_all_the_time(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (goes_on, scans) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let scanning = {
        let (goes_on, scans) = (Arc::clone(&goes_on), Arc::clone(&scans));
        tokio::spawn(async move {
            while goes_on.load(Ordering::Relaxed) {
                tools::attempt("iscsiadm", &["-m", "session", "--rescan"]).await;
                scans.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let played = async {
        for number in [5, 6] {
            let volume = bench.volume();
            let device = bench.attach(volume, number).await?;
            carries(&bench, &device, volume).await?;
            bench.detach(volume, number).await?;
            if maps().len() != 1 {
                return wrong(format!("{:?}", maps()));
            }
        }
        Ok(())
    };
    let played = played.await;
    goes_on.store(false, Ordering::Relaxed);
    scanning.await?;
    played?;
    Ok(Shown::held(format!("two lives of a volume under {} full scans", scans.load(Ordering::Relaxed))))
}

pub(super) async fn excluded(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let file = Path::new("/etc/multipath/conf.d/zzz-admin.conf");
    let text = format!(
        "blacklist {{\n\twwid \".*\"\n}}\nblacklist_exceptions {{\n\twwid \"{}\"\n}}\n",
        bench.bystander_map
    );
    std::fs::write(file, &text)?;
    tools::run("multipathd", &["reconfigure"]).await?;
    let volume = bench.volume();
    bench.show(volume, 5).await?;
    let answer = bench.try_attach(volume, 5).await?;
    let remedy =
        answer.as_ref().err().and_then(|it| it.remedy()).map(ToString::to_string).unwrap_or_default();
    let told = refused(answer, &[ErrorKind::Conflict])?;
    let untouched = std::fs::read_to_string(file)? == text;
    bench.detach(volume, 5).await?;
    std::fs::remove_file(file)?;
    tools::run("multipathd", &["reconfigure"]).await?;
    if !untouched || !remedy.contains("blacklist_exceptions") {
        return wrong(format!("the file is as it was: {untouched}; remedy: {remedy}"));
    }
    bench.attach(volume, 5).await?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!("refused with what to do ({told}; {remedy}); the admin's file was not touched")))
}

pub(super) async fn sysfs_changes(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (seen, moving) = (bench.volume(), bench.volume());
    bench.attach(seen, 5).await?;
    let goes_on = Arc::new(AtomicBool::new(true));
    let looking = {
        let (bench, goes_on) = (Arc::clone(&bench), Arc::clone(&goes_on));
        tokio::spawn(async move {
            let mut looks = 0;
            while goes_on.load(Ordering::Relaxed) {
                let routes = bench.routes(USUAL).await?;
                bench.devices.occupied(&cx(SPAN), &routes).await?;
                match bench.inspect(seen, 5).await?? {
                    Some(device) if device.legs.len() == USUAL => {}
                    other => return wrong(format!("{other:?}")),
                }
                // What comes and goes is looked at too: it is there or it is not.
                if let Some(device) = bench.inspect(moving, 6).await?? {
                    let _ = bench.devices.usage(&cx(SPAN), &device).await;
                }
                looks += 1;
            }
            Ok::<u32, Failure>(looks)
        })
    };
    let mut moved = Ok(());
    for _ in 0..3 {
        moved = async {
            bench.attach(moving, 6).await?;
            // A look may have it open for a moment: the retirement waits.
            bench.detach(moving, 6).await
        }
        .await;
        if moved.is_err() {
            break;
        }
    }
    goes_on.store(false, Ordering::Relaxed);
    let looks = looking.await??;
    moved?;
    bench.detach(seen, 5).await?;
    Ok(Shown::held(format!("{looks} looks without an error while another volume came and went three times")))
}

pub(super) async fn the_clock_jumps(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.array.resize(volume, bench.expected(volume, 5)?.size)?;
    let (expect, routes) = (bench.expected(volume, 5)?, bench.routes(USUAL).await?);
    let short = Duration::from_secs(8);
    let waiting = async {
        let started = Instant::now();
        let answer = bench.timed("attach", short, bench.devices.attach(&cx(short), &expect, &routes)).await;
        (answer, started.elapsed())
    };
    let jumping = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        tools::run("date", &["-s", "+1 hour"]).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        tools::run("date", &["-s", "-1 hour"]).await
    };
    let ((answer, took), jumped) = tokio::join!(waiting, jumping);
    jumped?;
    let told = refused(answer, &[ErrorKind::Timeout, ErrorKind::NotFound])?;
    if took < short / 2 {
        return wrong(format!("it ended after {took:?}"));
    }
    bench.show(volume, 5).await?;
    let device = bench.try_attach(volume, 5).await??;
    write(&device.path, block("after the jump")).await?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!(
        "it ended after {:.1} of its 8 s ({told}), and everything worked on",
        took.as_secs_f64()
    )))
}
