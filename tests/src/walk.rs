//! The walk through a storage's life: `perl/walk.pl` calls the real Perl plugin, and at each of its places the array and the
//! nodes are looked at from below. One walk for every kind of site: simulated nodes here, a real kernel in the lab.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use san_contract::audit::{Audit, said};
use san_sim::ontap::{LunInfo, OntapSim};
use san_sim::server::ApiState;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::daemons::Client;
use crate::program::program;
use crate::site::{PASSWORD, SPACE};

/// The disk whose life is walked through.
pub const DISK: &str = "vm-100-disk-0";
/// Where it appears.
pub const PATH: &str = "/dev/sanbridge/san1/vm-100-disk-0";

const MIB: usize = 1 << 20;
/// Where the guest's data lies; what comes before is for input and output beside the walk.
const DATA: u64 = 1 << 20;
/// How much data the guest has.
const LENGTH: usize = 4 * MIB;
/// The size the disk is made with, and the one it grows to.
const SIZES: [u64; 2] = [8 << 20, 16 << 20];
/// How many places the walk has.
const PLACES: usize = 18;

/// Why a walk failed, in words for people.
pub type Walking<T> = Result<T, String>;

/// What of the disk is on a node, as the node's kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Presence {
    /// Legs.
    pub legs: usize,
    /// Sizes of the maps, in bytes.
    pub maps: Vec<u64>,
    /// Links below `/dev/sanbridge`.
    pub links: usize,
}

/// A site of two nodes whose daemons run, with an ONTAP that has no volume of ours.
#[async_trait]
pub trait WalkSite: Debug + Send + Sync {
    /// The array.
    fn array(&self) -> &OntapSim;

    /// The storage's section, without the password.
    fn options(&self) -> BTreeMap<String, Value>;

    /// Where a node's daemon listens.
    fn socket(&self, node: usize) -> PathBuf;

    /// What stands for `/etc/pve`.
    fn pve(&self) -> PathBuf;

    /// Says where guest 100 lives and that the disk is its own.
    fn place_guest(&self, node: usize) -> Walking<()>;

    /// What of the disk is on a node.
    async fn presence(&self, node: usize) -> Walking<Presence>;

    /// Writes as the guest would, past the cache.
    async fn write(&self, node: usize, offset: u64, bytes: &[u8]) -> Walking<()>;

    /// Reads what the array has: past the cache.
    async fn read(&self, node: usize, offset: u64, length: usize) -> Walking<Vec<u8>>;

    /// Begins verified input and output on the disk's first MiB.
    async fn begin_io(&mut self, node: usize) -> Walking<()>;

    /// Ends it; the number of rounds that went well, or what went wrong.
    async fn end_io(&mut self) -> Walking<u64>;

    /// Kills a node's daemon.
    async fn kill(&mut self, node: usize) -> Walking<()>;

    /// Starts it again.
    async fn start(&mut self, node: usize) -> Walking<()>;

    /// Everything of ours, and everything beside it.
    async fn audit(&self) -> Walking<Audit>;
}

/// How a walk went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    /// The plugin's own checks that passed.
    pub checks: usize,
    /// Rounds of input and output that went well while the disk grew.
    pub rounds_while_growing: u64,
}

/// The other side of a script: looks, writes and reads at its places.
#[async_trait]
pub trait Beside: Send {
    /// What must hold at a place of the script, and what happens there.
    async fn at(&mut self, place: &str) -> Walking<()>;
}

/// Walks with the script at `script`, which lies as deep below the plugin's folder as in this repository.
///
/// # Errors
/// The first thing that did not hold.
pub async fn walk(site: &mut dyn WalkSite, script: &Path) -> Walking<Walked> {
    let before = site.audit().await?;
    let sockets = [site.socket(0), site.socket(1)];
    let options = site.options();
    let mut walk = Walk { site, before, rounds_while_growing: 0 };
    let (text, places) = converse(script, &sockets, options, &mut walk).await?;
    require(places == PLACES, || format!("{places} places\n{text}"))?;
    let checks = text.lines().filter(|it| it.trim_start().starts_with("ok ")).count();
    Ok(Walked { checks, rounds_while_growing: walk.rounds_while_growing })
}

/// Runs a script of the plugin's with these daemons and this storage, and stops at each of its places; its output and
/// the number of places.
///
/// # Errors
/// Where it fails, complains, says the password, or `beside` finds something.
pub async fn converse(
    script: &Path,
    sockets: &[PathBuf],
    mut section: BTreeMap<String, Value>,
    beside: &mut dyn Beside,
) -> Walking<(String, usize)> {
    section.insert("sanbridge-password".to_owned(), PASSWORD.into());
    let mut perl = program("/usr/bin/perl")
        .args([Path::new("-T"), script])
        .args(sockets)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed("cannot start Perl"))?;
    let (Some(mut input), Some(output), Some(mut errors)) =
        (perl.stdin.take(), perl.stdout.take(), perl.stderr.take())
    else {
        return Err("Perl has no pipes".to_owned());
    };
    let errors = tokio::spawn(async move {
        let mut text = String::new();
        errors.read_to_string(&mut text).await.map(|_| text)
    });
    let mut output = BufReader::new(output).lines();
    let section = Value::from_iter(section);
    let broken = failed("Perl ended too early");
    input.write_all(format!("{section}\n").as_bytes()).await.map_err(&broken)?;
    let (mut text, mut places) = (String::new(), 0);
    while let Some(line) = output.next_line().await.map_err(&broken)? {
        if let Some(place) = line.strip_prefix("@ ") {
            beside.at(place).await.map_err(|it| format!("{place}: {it}\n{text}"))?;
            places += 1;
            input.write_all(b"on\n").await.map_err(&broken)?;
        } else {
            text.push_str(&line);
            text.push('\n');
        }
    }
    let ended = perl.wait().await.map_err(&broken)?;
    let errors = errors.await.map_err(|it| it.to_string())?.map_err(&broken)?;
    require(ended.success(), || format!("{ended}, {places} places\n{text}\n{errors}"))?;
    require(errors.is_empty(), || format!("Perl complains: {errors}\n{text}"))?;
    let findings = said(PASSWORD, &[("the plugin's output", &text), ("the plugin's errors", &errors)]);
    require(findings.is_empty(), || findings.to_string())?;
    Ok((text, places))
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Walking<()> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Bytes that tell where they belong: another sequence for each `seed`, without a period.
pub fn pattern(seed: u8, length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift: cheap, and no sector equals another.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

struct Walk<'a> {
    site: &'a mut dyn WalkSite,
    before: Audit,
    rounds_while_growing: u64,
}

impl Walk<'_> {
    /// The LUNs of our volumes.
    fn luns(&self) -> Vec<LunInfo> {
        let luns = self.site.array().luns();
        luns.into_iter().filter(|it| !it.path.contains("foreign") && self.is_there(it)).collect()
    }

    /// A LUN in the recovery queue went with its volume.
    fn is_there(&self, lun: &LunInfo) -> bool {
        let volume = lun.path.split('/').nth(2).unwrap_or_default();
        self.site.array().volume(&lun.svm, volume).is_some_and(|it| !it.deleted)
    }

    /// The disk is on these nodes and on no other, as the array and as the nodes themselves have it.
    async fn require_attached(&self, nodes: &[usize], size: u64) -> Walking<()> {
        let maps = self.site.array().maps().into_iter().filter(|it| !it.lun.contains("foreign"));
        let maps: Vec<_> = maps.collect();
        require(maps.len() == nodes.len(), || format!("mapped {maps:?}, not on nodes {nodes:?}"))?;
        let portals = self.site.array().config().svms.first().map_or(0, |it| it.portals.len());
        for node in 0..2 {
            let expected = if nodes.contains(&node) {
                Presence { legs: portals, maps: vec![size], links: 1 }
            } else {
                Presence::default()
            };
            let found = self.site.presence(node).await?;
            require(found == expected, || format!("node {node} has {found:?}, not {expected:?}"))?;
        }
        Ok(())
    }

    async fn write(&self, node: usize, seed: u8) -> Walking<()> {
        self.site.write(node, DATA, &pattern(seed, LENGTH)).await
    }

    async fn require_data(&self, node: usize, seed: u8) -> Walking<()> {
        let read = self.site.read(node, DATA, LENGTH).await?;
        require(read == pattern(seed, LENGTH), || format!("node {node} does not read the data {seed}"))
    }

    async fn require_clean(&self) -> Walking<()> {
        let findings = self.site.audit().await?.against(&self.before);
        require(findings.is_empty(), || format!("the audit is not empty:\n{findings}"))
    }

    fn require_secret(&self, kept: Secret) -> Walking<()> {
        let file = self.site.pve().join("priv/storage/san1.sanbridge");
        let is_there = file.try_exists().map_err(failed("cannot look for the secret"))?;
        require(is_there == (kept == Secret::Kept), || "the secret is not where it belongs".to_owned())
    }

    async fn grown(&mut self, size: u64) -> Walking<()> {
        let rounds = self.site.end_io().await?;
        require(rounds > 0, || "nothing was written while the disk grew".to_owned())?;
        self.rounds_while_growing = rounds;
        self.require_attached(&[0], size).await?;
        self.site.write(0, size - TAIL as u64, &pattern(3, TAIL)).await?;
        self.require_data(0, 1).await
    }

    async fn require_tail(&self, size: u64) -> Walking<()> {
        let read = self.site.read(0, size - TAIL as u64, TAIL).await?;
        require(read == pattern(3, TAIL), || "the end of the disk has other data".to_owned())
    }

    /// PVE locks a guest for as long as it moves, wherever its configuration lies.
    fn lock_guest(&self) -> Walking<()> {
        let nodes = std::fs::read_dir(self.site.pve().join("nodes")).map_err(failed("no nodes"))?;
        for node in nodes.flatten() {
            let file = node.path().join("qemu-server").join("100.conf");
            match std::fs::read_to_string(&file) {
                Ok(text) => {
                    let locked = std::fs::write(&file, format!("lock: migrate\n{text}"));
                    locked.map_err(failed("it cannot be locked"))?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("no configuration")(error)),
            }
        }
        Ok(())
    }

    /// What could not be deleted at once goes by itself.
    async fn until_deletions_have_ended(&self) -> Walking<()> {
        let is_left =
            || self.site.array().volumes().iter().any(|it| it.name.contains("deleting") && !it.deleted);
        let started = Instant::now();
        while is_left() {
            if started.elapsed() > Duration::from_secs(180) {
                return Err("what was deleted never goes".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    /// While the array is down the daemon lets one request in five seconds through.
    async fn until_the_array_is_tried_again(&self) -> Walking<()> {
        let one =
            Client { socket: self.site.socket(0), storage: SPACE.to_owned(), options: self.site.options() };
        let started = Instant::now();
        // Seldom enough that the daemon's own open work is tried too.
        while let Err(error) = one.call("volume.list", json!({})).await {
            if started.elapsed() > Duration::from_secs(180) {
                return Err(format!("the array is never tried again: {}", error.chain()));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Beside for Walk<'_> {
    async fn at(&mut self, place: &str) -> Walking<()> {
        let [small, large] = SIZES;
        match place {
            "refused" => {
                self.require_secret(Secret::None)?;
                self.require_clean().await
            }
            "added" => {
                self.require_secret(Secret::Kept)?;
                require(self.luns().is_empty(), || format!("{:?}", self.luns()))
            }
            "allocated" => {
                require(self.luns().len() == 8, || format!("{:?}", self.luns()))?;
                self.site.place_guest(0)?;
                self.require_attached(&[], small).await
            }
            "attached" => {
                self.require_attached(&[0], small).await?;
                self.write(0, 1).await
            }
            "migrating" => {
                self.require_attached(&[0, 1], small).await?;
                self.require_data(1, 1).await?;
                self.site.place_guest(1)
            }
            "migrated" => {
                self.require_attached(&[1], small).await?;
                self.lock_guest()
            }
            "stopped" => self.site.place_guest(1),
            "detached" => {
                self.require_attached(&[], small).await?;
                self.site.place_guest(0)
            }
            "growing" => self.site.begin_io(0).await,
            "grown" => self.grown(large).await,
            "snapshotted" => self.write(0, 2).await,
            "rolled back" => {
                self.require_attached(&[0], large).await?;
                self.require_data(0, 1).await?;
                self.require_tail(large).await
            }
            // As the hours do.
            "clones gone" => {
                self.site.array().purge_recovery_queue().map_err(failed("cannot empty the recovery queue"))
            }
            "array down" => {
                self.site.array().set_api(ApiState::Refusing);
                Ok(())
            }
            "array up" => {
                self.require_data(0, 1).await?;
                self.site.array().set_api(ApiState::Up);
                self.until_the_array_is_tried_again().await
            }
            "daemon killed" => self.site.kill(0).await,
            "daemon started" => {
                self.site.start(0).await?;
                self.until_deletions_have_ended().await
            }
            "removed" => {
                require(self.luns().is_empty(), || format!("{:?}", self.luns()))?;
                self.require_secret(Secret::None)?;
                self.require_clean().await
            }
            other => Err(format!("nobody knows the place {other:?}")),
        }
    }
}

/// How much is written to the very end of the grown disk.
const TAIL: usize = 4096;

/// Whether the storage's password is on file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Secret {
    Kept,
    None,
}
