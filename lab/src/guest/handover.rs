//! Group `handover`: two machines with an initiator each on one array and one cluster folder: a disk goes from one to the
//! other and back, as in a live migration and cold, and a node that lost its guest cannot write any more.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sanbridge_tests::daemons::Client;
use sanbridge_tests::site::{SPACE, SVM};
use sanbridge_tests::walk::pattern;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::check::{Check, Failure, Group, Machines, Recorder, Running, Shown, run};
use super::direct::{self, Device};
use super::ledger::{legs, links, maps};
use super::network::Network;
use super::node::{DEVICES, Form, Node, PVE};
use super::site::{NETWORKS, Site};

/// The folder both machines see.
const MEETING: &str = "/lab/share/group";
const DISK: &str = "vm-100-disk-0";
const PATH: &str = "/dev/sanbridge/san1/vm-100-disk-0";
const OTHER: &str = "lab2";
const MIB: u64 = 1 << 20;
const LENGTH: usize = 4 << 20;
/// How long the other machine may take to come up, or to do one thing.
const PATIENCE: Duration = Duration::from_secs(240);
/// A write to a disk that was taken away must have failed by then: no guest waits for what does not come back.
const STALE: Duration = Duration::from_secs(30);
const HANGS: &str = "the write does not end";
/// A disk of somebody else.
const VICTIM: &str = "/vol/victim/lun0";

/// The group.
pub(super) fn group() -> Group {
    Group::new("handover", |recorder| Box::pin(play(recorder))).on(Machines::Pair)
}

/// What node 2 is asked to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wish {
    /// Start the daemon.
    Start,
    /// Call its daemon, with the storage's options.
    Call { method: String, params: Value, options: std::collections::BTreeMap<String, Value> },
    /// Write the pattern of this seed to the disk, past the cache, and say how it ended.
    Write { seed: u8 },
    /// Hash the disk's data, past the cache.
    Hash,
    /// Say what of SCSI legs, maps and links there is.
    Stock,
    /// End the daemon and this program.
    End,
}

/// What came of it: text or JSON, or why not.
type Outcome = Result<Value, String>;

const CHECKS: [Check<Bench>; 4] = [
    Check {
        name: "live handover and back",
        scenarios: &[],
        done: "wrote a disk on node 1, attached it on node 2, moved the guest, detached it on node 1, wrote it on node 2, and \
               went back the same way",
        run: |bench| -> Running { Box::pin(live(bench)) },
        bound: Duration::from_secs(60),
    },
    Check {
        name: "cold handover and back",
        scenarios: &[],
        done: "wrote a disk on node 1, detached it, moved the guest, attached it on node 2, wrote it there, and went back the \
               same way",
        run: |bench| -> Running { Box::pin(cold(bench)) },
        bound: Duration::from_secs(60),
    },
    Check {
        name: "a node that lost its guest cannot write",
        scenarios: &[],
        done: "attached a disk on node 2, moved its guest to node 1 without a word to node 2, attached it on node 1, and wrote \
               to it on node 2",
        run: |bench| -> Running { Box::pin(exclusive(bench)) },
        bound: Duration::from_secs(60),
    },
    Check {
        name: "a write to a disk that was taken away reaches no other",
        scenarios: &["1"],
        done: "took an attached disk away on the array, wrote to it, and gave its number to another volume",
        run: |bench| -> Running { Box::pin(given_away(bench)) },
        bound: Duration::from_secs(60),
    },
];

async fn play(recorder: Recorder) -> Result<(), Failure> {
    // Both have the cluster's folder where the daemon expects it.
    let shared = Path::new(MEETING).join("pve");
    std::fs::create_dir_all(&shared)?;
    std::os::unix::fs::symlink(&shared, PVE)?;
    if recorder.node() == 2 { serve_wishes().await } else { lead(recorder).await }
}

// ---- node 2 ----

/// Does what node 1 asks for until it asks for the end.
async fn serve_wishes() -> Result<(), Failure> {
    Network::join(NETWORKS, 3).await?;
    let node = Node::of_this_machine(Path::new("/var/lib/sanbridge-lab")).await?;
    for number in 0_u32.. {
        let wish: Wish = serde_json::from_value(awaited(&meeting("wish", number)).await?)?;
        let is_end = matches!(wish, Wish::End);
        let outcome: Outcome = fulfil(&node, wish).await.map_err(|it| it.0);
        put(&meeting("outcome", number), &serde_json::to_value(outcome)?)?;
        if is_end {
            break;
        }
    }
    Ok(())
}

async fn fulfil(node: &Node, wish: Wish) -> Result<Value, Failure> {
    match wish {
        Wish::Start => node.start(Form::Inside).await.map(|()| Value::Null),
        Wish::Call { method, params, options } => {
            let client = Client { socket: node.socket().to_owned(), storage: SPACE.to_owned(), options };
            Ok(client.call(&method, params).await?.ok)
        }
        Wish::Write { seed } => write(seed).await.map(|()| Value::Null),
        Wish::Hash => Ok(hash().await?.into()),
        Wish::Stock => Ok(json!(stock())),
        Wish::End => node.stop().await.map(|()| Value::Null),
    }
}

fn meeting(what: &str, number: u32) -> PathBuf {
    Path::new(MEETING).join(format!("{what}-{number}"))
}

/// Puts a file there in one piece.
fn put(path: &Path, value: &Value) -> Result<(), Failure> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, value.to_string())?;
    Ok(std::fs::rename(draft, path)?)
}

/// Waits for a file of the other machine's: the shared folder has no events.
async fn awaited(path: &Path) -> Result<Value, Failure> {
    let started = Instant::now();
    loop {
        match std::fs::read(path) {
            Ok(bytes) => return Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        if started.elapsed() > PATIENCE {
            return Err(Failure(format!("the other machine never put {} there", path.display())));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// ---- what either node does with the disk ----

async fn write(seed: u8) -> Result<(), Failure> {
    let work = move || Device::open(Path::new(PATH))?.write(0, &pattern(seed, LENGTH));
    match tokio::time::timeout(STALE, tokio::task::spawn_blocking(work)).await {
        Ok(ended) => Ok(ended??),
        Err(_) => Err(Failure(HANGS.to_owned())),
    }
}

async fn hash() -> Result<String, Failure> {
    let work = || {
        direct::drop_caches()?;
        direct::hash(Path::new(PATH), 0, LENGTH)
    };
    Ok(tokio::task::spawn_blocking(work).await??)
}

fn stock() -> Vec<String> {
    let legs = legs().into_iter().map(|it| format!("leg {}", it.wwid));
    let maps = maps().into_iter().map(|it| format!("map {}", it.wwid));
    let links = links(Path::new(DEVICES)).into_iter().map(|(link, _)| format!("link {}", link.display()));
    legs.chain(maps).chain(links).collect()
}

// ---- node 1 ----

#[derive(Debug)]
struct Bench {
    site: Site,
    wishes: AtomicU32,
}

async fn lead(recorder: Recorder) -> Result<(), Failure> {
    let network = Network::start_bridged(NETWORKS).await?;
    let site = Site::over(network, Ipv4Addr::new(10, 77, 1, 1)).await?;
    site.live.plane().admit(&format!("iqn.1993-08.org.debian:01:{OTHER}"));
    site.sync().await?;
    std::fs::create_dir_all(Path::new(PVE).join("nodes").join(OTHER))?;
    site.serve(Form::Inside).await?;
    let bench = Arc::new(Bench { site, wishes: AtomicU32::new(0) });
    bench.wish(&Wish::Start).await?;
    bench.there("storage.activate", json!({})).await?;
    for check in CHECKS.iter().filter(|it| recorder.wants(it.name)) {
        run(&recorder, &bench, check).await?;
    }
    bench.wish(&Wish::End).await?;
    match Arc::into_inner(bench) {
        Some(bench) => bench.site.end().await,
        // A check that did not end in time still has it; the machine goes with it.
        None => Ok(()),
    }
}

impl Bench {
    /// Lets node 2 do something.
    async fn wish(&self, wish: &Wish) -> Result<Value, Failure> {
        let number = self.wishes.fetch_add(1, Ordering::Relaxed);
        put(&meeting("wish", number), &serde_json::to_value(wish)?)?;
        let outcome: Outcome = serde_json::from_value(awaited(&meeting("outcome", number)).await?)?;
        outcome.map_err(|it| Failure(format!("node 2: {it}")))
    }

    /// Calls node 2's daemon.
    async fn there(&self, method: &str, params: Value) -> Result<Value, Failure> {
        self.wish(&Wish::Call { method: method.to_owned(), params, options: self.site.options() }).await
    }

    async fn attach_there(&self) -> Result<(), Failure> {
        let answer = self.there("volume.attach", json!({ "name": DISK })).await?;
        if answer["path"] == PATH {
            Ok(())
        } else {
            Err(Failure(format!("node 2 has it elsewhere: {answer}")))
        }
    }

    async fn detach_there(&self) -> Result<(), Failure> {
        self.there("volume.detach", json!({ "name": DISK })).await.map(drop)
    }

    /// Detaches there as soon as what hung has failed.
    async fn released_there(&self) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            match self.detach_there().await {
                Err(failure) if failure.0.contains("in use") && started.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                other => return other,
            }
        }
    }

    async fn require_here(&self, seed: u8) -> Result<(), Failure> {
        require_hash("node 1", &hash().await?, seed)
    }

    async fn require_there(&self, seed: u8) -> Result<(), Failure> {
        let found = self.wish(&Wish::Hash).await?;
        require_hash("node 2", found.as_str().unwrap_or_default(), seed)
    }

    /// Deletes the disk; nothing is left on either node, on the array and in the kernel's targets.
    async fn ends_as(&self, before: &san_contract::audit::Audit) -> Result<(), Failure> {
        self.site.delete(DISK).await?;
        self.site.require_as(before).await?;
        let started = Instant::now();
        loop {
            let left = self.wish(&Wish::Stock).await?;
            if left == json!([]) {
                return Ok(());
            }
            if started.elapsed() > Duration::from_secs(60) {
                return Err(Failure(format!("left on node 2: {left}")));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

fn require_hash(node: &str, found: &str, seed: u8) -> Result<(), Failure> {
    if found == direct::hash_of(&pattern(seed, LENGTH)) {
        Ok(())
    } else {
        Err(Failure(format!("{node} reads other data than {seed}")))
    }
}

async fn live(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let site = &bench.site;
    let before = site.settled_audit().await?;
    site.create(DISK, 8 * MIB).await?;
    site.attach(DISK).await?;
    write(1).await?;
    bench.attach_there().await?;
    bench.require_there(1).await?;
    site.place_guest(DISK, OTHER)?;
    site.detach(DISK).await?;
    bench.wish(&Wish::Write { seed: 2 }).await?;
    site.attach(DISK).await?;
    bench.require_here(2).await?;
    site.place_guest(DISK, site.node.name.as_str())?;
    bench.detach_there().await?;
    write(3).await?;
    bench.require_here(3).await?;
    site.detach(DISK).await?;
    bench.ends_as(&before).await?;
    Ok(Shown::held("each node read what the other had written; both audits are empty"))
}

async fn cold(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let site = &bench.site;
    let before = site.settled_audit().await?;
    site.create(DISK, 8 * MIB).await?;
    site.attach(DISK).await?;
    write(4).await?;
    site.detach(DISK).await?;
    site.place_guest(DISK, OTHER)?;
    bench.attach_there().await?;
    bench.require_there(4).await?;
    bench.wish(&Wish::Write { seed: 5 }).await?;
    bench.detach_there().await?;
    site.place_guest(DISK, site.node.name.as_str())?;
    site.attach(DISK).await?;
    bench.require_here(5).await?;
    site.detach(DISK).await?;
    bench.ends_as(&before).await?;
    Ok(Shown::held("each node read what the other had written; both audits are empty"))
}

async fn exclusive(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let site = &bench.site;
    let before = site.settled_audit().await?;
    site.create(DISK, 8 * MIB).await?;
    site.place_guest(DISK, OTHER)?;
    bench.attach_there().await?;
    bench.wish(&Wish::Write { seed: 6 }).await?;
    site.place_guest(DISK, site.node.name.as_str())?;
    site.attach(DISK).await?;
    bench.require_here(6).await?;
    let stale = failed(bench.wish(&Wish::Write { seed: 7 }).await.map(drop))?;
    bench.require_here(6).await?;
    bench.released_there().await?;
    bench.require_here(6).await?;
    site.detach(DISK).await?;
    bench.ends_as(&before).await?;
    Ok(Shown::held(format!("the stale write failed ({stale}) and the data stayed; both audits are empty")))
}

/// What a write that had to fail said.
fn failed(write: Result<(), Failure>) -> Result<String, Failure> {
    match write {
        Ok(()) => Err(Failure("a node wrote to a disk that it has no longer".to_owned())),
        Err(Failure(said)) if said.contains(HANGS) => Err(Failure(said)),
        Err(Failure(said)) => Ok(said),
    }
}

async fn given_away(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let site = &bench.site;
    let array = site.array();
    array.add_volume(SVM, "victim", 1 << 30, "")?;
    array.add_lun(SVM, VICTIM, 8 * MIB, "")?;
    let before = site.settled_audit().await?;
    site.create(DISK, 8 * MIB).await?;
    site.attach(DISK).await?;
    write(8).await?;
    let map = array.maps().into_iter().find(|it| it.lun != VICTIM);
    let map = map.ok_or_else(|| Failure("the array has no mapping of the disk".to_owned()))?;
    array.remove_map(SVM, &map.lun, &map.igroup)?;
    site.sync().await?;
    let started = Instant::now();
    let said = failed(write(9).await)?;
    let took = started.elapsed();
    array.add_map(SVM, VICTIM, &map.igroup, Some(map.number))?;
    site.sync().await?;
    // Several rounds of multipathd's checkers pass over the new volume.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let file = array.lun_file(SVM, VICTIM)?;
    if std::fs::read(file)?.iter().any(|it| *it != 0) {
        return Err(Failure("a write to the one disk has reached the other".to_owned()));
    }
    array.remove_map(SVM, VICTIM, &map.igroup)?;
    site.sync().await?;
    site.detach(DISK).await?;
    bench.ends_as(&before).await?;
    array.destroy_volume(SVM, "victim")?;
    site.sync().await?;
    Ok(Shown::held(format!(
        "the write failed after {:.1} s ({said}), before the number passed on, and nothing of it reached the other volume",
        took.as_secs_f64()
    )))
}
