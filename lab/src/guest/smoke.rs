//! Group `smoke`: the shortest look at everything: a disk's life over iSCSI through the plugin and the daemon, and three
//! ways in which a LUN number or a leg can lead to somebody else's bytes. A bystander works all the while.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use san_core::ErrorKind;
use san_sim::ontap::{Identity, MapInfo, Online};
use sanbridge_tests::site::SVM;
use sanbridge_tests::walk::{Beside, DISK, PATH, Walking, converse, pattern};
use serde_json::json;

use super::bystander::VerifiedIo;
use super::check::{Check, Failure, Group, Recorder, Running, Shown, run};
use super::direct::{self, Device};
use super::ledger::{legs, maps};
use super::life::lay_out;
use super::node::Form;
use super::site::{Bystander, Site, place_guest};

const SCRIPT: (&str, &str) = ("tests/perl/short.pl", include_str!("../../../tests/perl/short.pl"));
const MIB: u64 = 1 << 20;
/// How many places the script has.
const PLACES: usize = 7;
/// How much data is written and looked at.
const LENGTH: usize = 1 << 20;

/// The group.
pub(super) fn group() -> Group {
    Group::new("smoke", |recorder| Box::pin(play(recorder)))
}

/// A site, and who must not notice anything.
#[derive(Debug)]
struct Bench {
    site: Site,
    bystander: Bystander,
}

const CHECKS: [Check<Bench>; 4] = [
    Check {
        name: "a disk lives over iSCSI",
        scenarios: &["69"],
        done: "added a storage through the plugin, made a disk, logged in and attached it, wrote, took a snapshot, grew it \
               under input and output, overwrote it, rolled it back, freed and removed everything",
        run: |bench| -> Running { Box::pin(lives(bench)) },
        bound: Duration::from_secs(40),
    },
    Check {
        name: "a LUN number that passes on at once, under a holder",
        scenarios: &["2", "3"],
        done: "gave the number of an attached, opened disk to another volume in one step, and asked for attach and detach",
        run: |bench| -> Running { Box::pin(number_passes_on_at_once(bench)) },
        bound: Duration::from_secs(20),
    },
    Check {
        name: "a LUN number that passes on after a gap",
        scenarios: &["1"],
        done: "took an attached disk's LUN away, waited, gave its number to another volume, and asked for the disk",
        run: |bench| -> Running { Box::pin(number_passes_on_later(bench)) },
        bound: Duration::from_secs(20),
    },
    Check {
        name: "one leg that leads to another volume",
        scenarios: &["7"],
        done: "let one of two portals show another identity at the disk's number, and attached the disk",
        run: |bench| -> Running { Box::pin(one_wrong_leg(bench)) },
        bound: Duration::from_secs(20),
    },
];

async fn play(recorder: Recorder) -> Result<(), Failure> {
    let site = Site::new().await?;
    let bystander = site.bystander().await?;
    site.node.start(Form::Inside).await?;
    let bench = Arc::new(Bench { site, bystander });
    let (life, identity) = CHECKS.split_at(1);
    for check in life.iter().filter(|it| recorder.wants(it.name)) {
        run(&recorder, &bench, check).await?;
    }
    // The plugin removed the storage at the end of the life.
    bench.site.client().add().await?;
    for check in identity.iter().filter(|it| recorder.wants(it.name)) {
        run(&recorder, &bench, check).await?;
    }
    match Arc::into_inner(bench) {
        Some(bench) => {
            bench.bystander.end().await?;
            bench.site.end().await
        }
        // A check that did not end in time still has it; the machine goes with it.
        None => Ok(()),
    }
}

fn wrong<T>(what: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(what.into()))
}

// ---- the life ----

async fn lives(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let before = bench.site.settled_audit().await?;
    let folder = tempfile::tempdir()?;
    let script = lay_out(folder.path(), SCRIPT)?;
    let socket = [bench.site.node.socket().to_owned()];
    let mut life = Life { bench: Arc::clone(&bench), io: None };
    let (text, places) =
        converse(&script, &socket, bench.site.options(), &mut life).await.map_err(Failure)?;
    if places != PLACES {
        return wrong(format!("{places} places: {text}"));
    }
    bench.site.require_as(&before).await?;
    let seen = bench.bystander.io.require_well()?;
    Ok(Shown::held(format!(
        "the data was as written at every look, the audit is empty, the bystander went round {} times without an error",
        seen.rounds
    )))
}

struct Life {
    bench: Arc<Bench>,
    io: Option<VerifiedIo>,
}

impl Life {
    fn require_present(&self, size: u64) -> Walking<()> {
        let wwid = self.bench.site.wwid(DISK).map_err(said)?;
        let found: Vec<u64> = maps().into_iter().filter(|it| it.wwid == wwid).map(|it| it.size).collect();
        let legs = legs().into_iter().filter(|it| it.wwid == wwid).count();
        if found == [size] && legs == self.bench.site.legs_expected() {
            Ok(())
        } else {
            Err(format!("{legs} legs and maps of {found:?} bytes"))
        }
    }
}

fn said(failure: Failure) -> String {
    failure.0
}

#[async_trait]
impl Beside for Life {
    async fn at(&mut self, place: &str) -> Walking<()> {
        let path = Path::new(PATH);
        match place {
            "allocated" => place_guest(100, &[DISK], self.bench.site.node.name.as_str()).map_err(said),
            "attached" => {
                self.require_present(8 * MIB)?;
                write(path, 1).await.map_err(said)
            }
            "snapshotted" => {
                write(path, 2).await.map_err(said)?;
                self.io = Some(VerifiedIo::start(path, Duration::from_millis(10)).map_err(said)?);
                Ok(())
            }
            "grown" => {
                let io = self.io.take().ok_or("no input and output was begun")?;
                io.another_round(Duration::from_secs(60)).await.map_err(said)?;
                io.end().await.map_err(said)?;
                self.require_present(16 * MIB)?;
                require_data(path, 2).await.map_err(said)
            }
            "detached" => self.require_absent(),
            "rolled back" => {
                // The snapshot is older than the growth.
                self.require_present(8 * MIB)?;
                require_data(path, 1).await.map_err(said)
            }
            "removed" => super::site::remove_guest(100).map_err(said),
            other => Err(format!("nobody knows the place {other:?}")),
        }
    }
}

impl Life {
    fn require_absent(&self) -> Walking<()> {
        let wwid = self.bench.site.wwid(DISK).map_err(said)?;
        let left = maps().iter().any(|it| it.wwid == wwid) || legs().iter().any(|it| it.wwid == wwid);
        if left { Err("something of it is left on the node".to_owned()) } else { Ok(()) }
    }
}

/// Where the data lies: beside what is under input and output.
const DATA: u64 = MIB;

async fn write(path: &Path, seed: u8) -> Result<(), Failure> {
    let path = path.to_owned();
    let work = move || Device::open(&path)?.write(DATA, &pattern(seed, LENGTH));
    Ok(tokio::task::spawn_blocking(work).await??)
}

async fn require_data(path: &Path, seed: u8) -> Result<(), Failure> {
    let path = path.to_owned();
    let work = move || {
        direct::drop_caches()?;
        direct::hash(&path, DATA, LENGTH)
    };
    let found = tokio::task::spawn_blocking(work).await??;
    if found == direct::hash_of(&pattern(seed, LENGTH)) {
        Ok(())
    } else {
        wrong(format!("other data: {found}"))
    }
}

// ---- right disk or no disk ----

const VICTIM: &str = "/vol/foreign_victim/lun0";

/// An attached disk with data, beside a volume of somebody else's.
async fn beside_a_victim(bench: &Bench) -> Result<(PathBuf, MapInfo), Failure> {
    let site = &bench.site;
    site.create(DISK, 8 * MIB).await?;
    let path = site.attach(DISK).await?;
    write(&path, 1).await?;
    site.array().add_volume(SVM, "foreign_victim", 1 << 30, "")?;
    site.array().add_lun(SVM, VICTIM, 8 * MIB, "")?;
    let map = site.array().maps().into_iter().find(|it| !it.lun.contains("foreign"));
    Ok((path, map.ok_or_else(|| Failure("the disk is not mapped".to_owned()))?))
}

/// Attach heals the disk or refuses; what it hands out carries the disk's own bytes.
async fn asked_again(site: &Site) -> Result<String, Failure> {
    match site.client().call("volume.attach", json!({ "name": DISK })).await {
        Ok(_) => {
            require_data(Path::new(PATH), 1).await?;
            Ok("came back with its own bytes".to_owned())
        }
        Err(error) => {
            let due =
                [ErrorKind::IdentityMismatch, ErrorKind::Unavailable, ErrorKind::InUse, ErrorKind::Conflict];
            if due.contains(&error.kind()) {
                Ok(format!("was refused ({})", error.chain()))
            } else {
                wrong(format!("attach ended with {:?}: {}", error.kind(), error.chain()))
            }
        }
    }
}

/// Nothing was written to the victim, and everything can be cleared away.
async fn cleared_away(bench: &Bench, before: &san_contract::audit::Audit) -> Result<(), Failure> {
    let site = &bench.site;
    let file = site.array().lun_file(SVM, VICTIM)?;
    let bytes = std::fs::read(file)?;
    if bytes.iter().any(|it| *it != 0) {
        return wrong("something was written to the other volume");
    }
    site.array().destroy_volume(SVM, "foreign_victim")?;
    site.sync().await?;
    site.detach(DISK).await?;
    site.delete(DISK).await?;
    site.require_as(before).await?;
    bench.bystander.io.require_well().map(drop)
}

async fn number_passes_on_at_once(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let before = bench.site.settled_audit().await?;
    let (path, map) = beside_a_victim(&bench).await?;
    let site = &bench.site;
    let guest = Device::open(&path)?;
    site.array().reuse_number(SVM, &map.igroup, map.number, VICTIM)?;
    site.sync().await?;
    let held = asked_again(site).await?;
    drop(guest);
    let free = asked_again(site).await?;
    cleared_away(&bench, &before).await?;
    Ok(Shown::held(format!(
        "not a byte of the other volume changed; the disk {held} while it was open, and {free} after"
    )))
}

async fn number_passes_on_later(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let before = bench.site.settled_audit().await?;
    let (_, map) = beside_a_victim(&bench).await?;
    let site = &bench.site;
    site.array().set_lun_online(SVM, &map.lun, Online::No)?;
    site.sync().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    site.array().reuse_number(SVM, &map.igroup, map.number, VICTIM)?;
    site.array().set_lun_online(SVM, &map.lun, Online::Yes)?;
    site.sync().await?;
    let told = asked_again(site).await?;
    cleared_away(&bench, &before).await?;
    Ok(Shown::held(format!("not a byte of the other volume changed; the disk {told}")))
}

async fn one_wrong_leg(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let before = bench.site.settled_audit().await?;
    let (_, map) = beside_a_victim(&bench).await?;
    let site = &bench.site;
    site.detach(DISK).await?;
    let portal = super::network::Network::portal(2);
    let another = Identity::Serial(b"not-this-one".to_vec());
    site.array().override_identity(SVM, &map.lun, Some(portal), Some(another))?;
    site.sync().await?;
    let told = asked_again(site).await?;
    let wwid = site.wwid(DISK)?;
    let in_map = maps().into_iter().find(|it| it.wwid == wwid).map_or(0, |it| it.slaves.len());
    if in_map > 1 {
        return wrong(format!("{in_map} legs are in the map, the wrong one among them"));
    }
    site.detach(DISK).await?;
    site.array().override_identity(SVM, &map.lun, Some(portal), None)?;
    site.sync().await?;
    cleared_away(&bench, &before).await?;
    Ok(Shown::held(format!("the disk {told}, over the right leg alone")))
}
