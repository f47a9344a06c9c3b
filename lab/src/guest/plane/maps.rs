//! Mappings: taken away under I/O, used again, different per portal, per array and per initiator.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use san_sim::ontap::Identity;

use super::bench::{Bench, MIB, SOON, SVM, attribute, blocking, delete, legs_now, rescan, within};
use crate::guest::direct::Device;
use crate::guest::network::Network;
use crate::guest::{Check, Failure, Shown};

pub(super) fn checks() -> Vec<Check<Bench>> {
    vec![
        Check {
            name: "unmap-under-io",
            scenarios: &["60"],
            done: "a LUN was unmapped while it was written through both legs; another LUN was written all the while",
            run: |bench| Box::pin(unmap_under_io(bench)),
            bound: Duration::from_secs(20),
        },
        Check {
            name: "unmap-behind-a-cut",
            scenarios: &[],
            done: "a LUN was unmapped while one link was down with writes under way on it",
            run: |bench| Box::pin(unmap_behind_a_cut(bench)),
            bound: Duration::from_secs(40),
        },
        Check {
            name: "number-used-again",
            scenarios: &["1", "2"],
            done: "a LUN number was given to another LUN in one go, with the legs of the first still there",
            run: |bench| Box::pin(number_used_again(bench)),
            bound: Duration::from_secs(15),
        },
        Check {
            name: "identities",
            scenarios: &["4", "5"],
            done: "one leg was given another serial number, then both were given none at all",
            run: |bench| Box::pin(identities(bench)),
            bound: Duration::from_secs(20),
        },
        Check {
            name: "two-arrays-and-far-numbers",
            scenarios: &["8", "13"],
            done: "a second array came with an equal LUN number, and a LUN with number 300",
            run: |bench| Box::pin(two_arrays(bench)),
            bound: Duration::from_secs(30),
        },
        Check {
            name: "large-blocks",
            scenarios: &["44"],
            done: "LUNs were made with logical blocks of 4096 bytes",
            run: |bench| Box::pin(large_blocks(bench)),
            bound: Duration::from_secs(20),
        },
    ]
}

/// Writes to a device until it is told to stop or an error comes.
#[derive(Debug)]
struct Writer {
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Writer {
    fn start(leg: PathBuf) -> Self {
        let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, count) = (Arc::clone(&stop), Arc::clone(&writes));
        let task = tokio::task::spawn_blocking(move || {
            let device = Device::open(&leg)?;
            let bytes = vec![0x5a; 256 << 10];
            while !ended.load(Ordering::Relaxed) {
                device.write(MIB, &bytes)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self { stop, writes, task }
    }

    async fn busy(&self, more: u64) -> Result<(), Failure> {
        let before = self.writes.load(Ordering::Relaxed);
        within(SOON, || Ok(self.writes.load(Ordering::Relaxed) >= before + more)).await.map(drop)
    }

    /// The error it ended with, if any.
    async fn end(self) -> Result<Option<std::io::Error>, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = tokio::time::timeout(SOON, self.task).await;
        Ok(ended.map_err(|_| Failure("a write never came back".to_owned()))??.err())
    }
}

async fn unmap_under_io(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (other, others) = bench.mapped(64 * MIB).await?;
    let (lun, legs) = bench.mapped(64 * MIB).await?;
    let bystander = Writer::start(others[0].clone());
    let writers: Vec<Writer> = legs.iter().cloned().map(Writer::start).collect();
    for writer in &writers {
        writer.busy(3).await?;
    }
    let started = Instant::now();
    bench.unmap(&lun).await?;
    let took = started.elapsed();
    for writer in writers {
        if writer.end().await?.is_none() {
            return Err(Failure("writes went on after the unmap".to_owned()));
        }
    }
    bystander.busy(3).await?;
    if let Some(error) = bystander.end().await? {
        return Err(Failure(format!("the other LUN saw an error: {error}")));
    }
    for leg in &legs {
        delete(leg)?;
    }
    bench.retire(&other).await?;
    Ok(Shown::held(format!("the unmap took {took:?}; writes ended with errors, the other LUN saw none")))
}

async fn unmap_behind_a_cut(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (lun, legs) = bench.mapped(64 * MIB).await?;
    let mut writers = Vec::new();
    for leg in &legs {
        for _ in 0..4 {
            writers.push(Writer::start(leg.clone()));
        }
    }
    for writer in &writers {
        writer.busy(2).await?;
    }
    bench.network.cut(2).await?;
    let started = Instant::now();
    bench.unmap(&lun).await?;
    let took = started.elapsed();
    bench.network.mend(2).await?;
    for writer in writers {
        writer.end().await?;
    }
    for leg in &legs {
        delete(leg)?;
    }
    if took > Duration::from_secs(30) {
        return Err(Failure(format!("the unmap took {took:?}")));
    }
    Ok(Shown::held(format!("the unmap took {took:?}")))
}

async fn number_used_again(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (first, legs) = bench.mapped(64 * MIB).await?;
    let second = bench.make(64 * MIB).await?;
    Device::open(&legs[0])?.write(0, &[1; 4096])?;
    let before = attribute(&legs[0], "wwid")?;
    bench.array.array().reuse_number(SVM, "lab", first.number, &second.path)?;
    let started = Instant::now();
    bench.follow().await?;
    let took = started.elapsed();
    // The first command after the swap may be answered with a unit attention, which the kernel repeats.
    let read = Device::open(&legs[0])?.read(0, 4096)?;
    let cached = attribute(&legs[0], "wwid")?;
    rescan(&legs[0])?;
    let after = attribute(&legs[0], "wwid")?;
    let second = super::bench::Lun { number: first.number, ..second };
    bench.retire(&second).await?;
    if read != vec![0; 4096] || cached != before || after == before {
        return Err(Failure(format!("it was {before}, then {cached}, after a rescan {after}")));
    }
    Ok(Shown::held(format!(
        "{took:?}: the old leg reads the new LUN under its old name until it is asked anew"
    )))
}

async fn identities(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (lun, legs) = bench.mapped(64 * MIB).await?;
    let sim = bench.array.array();
    let ask = || -> Result<Vec<String>, Failure> {
        for leg in &legs {
            rescan(leg)?;
        }
        legs.iter().map(|it| attribute(it, "wwid")).collect()
    };
    let own = ask()?;
    let other = Identity::Serial(b"anothernames".to_vec());
    sim.override_identity(SVM, &lun.path, Some(Network::portal(2)), Some(other))?;
    bench.follow().await?;
    let mixed = ask()?;
    sim.override_identity(SVM, &lun.path, Some(Network::portal(2)), Some(Identity::Empty))?;
    sim.override_identity(SVM, &lun.path, Some(Network::portal(1)), Some(Identity::Empty))?;
    bench.follow().await?;
    // Without an identity it lists no pages, and the kernel would keep those it knows: the legs must be new.
    for leg in &legs {
        delete(leg)?;
    }
    bench.scan().await?;
    let nameless = bench.legs(lun.number, 2).await?;
    let none: Vec<String> = nameless.iter().map(|it| attribute(it, "wwid").unwrap_or_default()).collect();
    for portal in [1, 2] {
        sim.override_identity(SVM, &lun.path, Some(Network::portal(portal)), None)?;
    }
    bench.follow().await?;
    for leg in &nameless {
        rescan(leg)?;
    }
    let again: Vec<String> = nameless.iter().map(|it| attribute(it, "wwid")).collect::<Result<_, _>>()?;
    bench.retire(&lun).await?;
    let different = mixed.iter().filter(|it| !own.contains(it)).count();
    let named = |it: &String| it.starts_with("naa.");
    if own[0] != own[1] || different != 1 || none.iter().any(named) || again != own {
        return Err(Failure(format!("own {own:?}, mixed {mixed:?}, none {none:?}, again {again:?}")));
    }
    Ok(Shown::held(format!(
        "one leg, then none, then both had the LUN's name; without one the kernel says {none:?}"
    )))
}

async fn two_arrays(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (lun, legs) = bench.mapped(64 * MIB).await?;
    let far = bench.make(64 * MIB).await?;
    bench.map(&far, 300).await?;
    let other = bench.other_array()?;
    other.add_volume(SVM, "theirs", 1 << 30, "")?;
    other.add_lun(SVM, "/vol/theirs/lun0", 32 * MIB, "")?;
    other.add_map(SVM, "/vol/theirs/lun0", "lab", Some(lun.number))?;
    bench.array.plane().add(Arc::new(other));
    bench.follow().await?;
    let mut portal = Network::portal(1);
    portal.set_port(portal.port() + 1);
    let portal = portal.to_string();
    let patience = super::bench::PATIENCE;
    crate::guest::tools::run("iscsiadm", &["-m", "discovery", "-t", "sendtargets", "-p", &portal], patience)
        .await?;
    // Those that are logged in already are no error.
    crate::guest::tools::output("iscsiadm", &["-m", "node", "--login"], patience).await?;
    bench.scan().await?;
    let all = bench.legs(lun.number, 4).await?;
    let mut names: Vec<String> = all.iter().map(|it| attribute(it, "wwid")).collect::<Result<_, _>>()?;
    names.sort();
    names.dedup();
    let numbered = bench.legs(300, 2).await?;
    for leg in all.iter().filter(|it| !legs.contains(it)).chain(&numbered) {
        delete(leg)?;
    }
    bench.retire(&lun).await?;
    bench.unmap(&far).await?;
    if names.len() != 2 {
        return Err(Failure(format!("four legs have the names {names:?}")));
    }
    Ok(Shown::held(format!(
        "two arrays under LUN {}: {names:?}; LUN 300 came with both legs, in flat addressing",
        lun.number
    )))
}

async fn large_blocks(bench: Arc<Bench>) -> Result<Shown, Failure> {
    bench.array.plane().plane().set_block_size(4096);
    bench.follow().await?;
    let (lun, legs) = bench.mapped(64 * MIB).await?;
    let mut found = Vec::new();
    for leg in &legs {
        let queue =
            std::path::Path::new("/sys/block").join(leg.file_name().unwrap_or_default()).join("queue");
        found.push(std::fs::read_to_string(queue.join("logical_block_size"))?.trim().to_owned());
        if super::bench::size(leg)? != 64 * MIB {
            return Err(Failure(format!("{} has another size", leg.display())));
        }
    }
    bench.retire(&lun).await?;
    let this = Arc::clone(&bench);
    blocking(move || {
        this.array.plane().plane().set_block_size(512);
        Ok(())
    })
    .await?;
    bench.follow().await?;
    if !legs_now(lun.number)?.is_empty() || found != ["4096", "4096"] {
        return Err(Failure(format!("the legs have blocks of {found:?} bytes")));
    }
    Ok(Shown::held("both legs have blocks of 4096 bytes and the LUN's size"))
}
