//! The steps of the demo, each with its checks.

use san_core::{Effects, Error, ErrorKind, Result};
use serde_json::json;

use super::stage::{Stage, ensure};
use crate::crash::{Side, Stopper};
use crate::site::SPACE;

const GUEST: u32 = 100;
const DISK: &str = "vm-100-disk-0";
const MIB: u64 = 1 << 20;
const SIZE: u64 = 1 << 30;
const GROWN: u64 = 2 << 30;
/// How much is written and compared at a time.
const BLOCK: u64 = MIB;
/// The last block of the grown disk.
const TAIL: u64 = GROWN - BLOCK;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    AddStorage,
    Create,
    Attach,
    Write,
    Grow,
    Snapshot,
    Overwrite,
    RollBack,
    SnapshotRunning,
    HandOver,
    RollBackRunning,
    KillDaemon,
    Delete,
    RemoveStorage,
}

impl Step {
    pub(super) const ALL: [Self; 14] = [
        Self::AddStorage,
        Self::Create,
        Self::Attach,
        Self::Write,
        Self::Grow,
        Self::Snapshot,
        Self::Overwrite,
        Self::RollBack,
        Self::SnapshotRunning,
        Self::HandOver,
        Self::RollBackRunning,
        Self::KillDaemon,
        Self::Delete,
        Self::RemoveStorage,
    ];

    pub(super) fn id(self) -> &'static str {
        self.words().0
    }

    pub(super) fn title(self) -> &'static str {
        self.words().1
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::AddStorage => ("add_storage", "add the storage on two nodes"),
            Self::Create => ("create", "create a disk"),
            Self::Attach => ("attach", "attach it on node 1"),
            Self::Write => ("write", "write to it"),
            Self::Grow => ("grow_online", "grow it while the guest runs"),
            Self::Snapshot => ("snapshot", "take a snapshot"),
            Self::Overwrite => ("overwrite", "overwrite the disk"),
            Self::RollBack => ("roll_back", "roll back and attach again"),
            Self::SnapshotRunning => ("snapshot_running", "take a snapshot of the running guest"),
            Self::HandOver => ("hand_over", "hand the disk to node 2 (live migration)"),
            Self::RollBackRunning => ("roll_back_running", "roll back on node 2 and attach again"),
            Self::KillDaemon => ("kill_daemon", "kill the daemon inside a create and start it again"),
            Self::Delete => ("delete", "delete the disk with its snapshots"),
            Self::RemoveStorage => ("remove_storage", "remove the storage"),
        }
    }

    /// Plays it; what was seen, in words.
    pub(super) async fn play(self, stage: &mut Stage) -> Result<String> {
        match self {
            Self::AddStorage => add_storage(stage).await,
            Self::Create => create(stage).await,
            Self::Attach => attach_first(stage).await,
            Self::Write => write(stage).await,
            Self::Grow => grow(stage).await,
            Self::Snapshot => snapshot(stage).await,
            Self::Overwrite => overwrite(stage).await,
            Self::RollBack => roll_back(stage).await,
            Self::SnapshotRunning => snapshot_running(stage).await,
            Self::HandOver => hand_over(stage).await,
            Self::RollBackRunning => roll_back_running(stage).await,
            Self::KillDaemon => kill_daemon(stage).await,
            Self::Delete => delete(stage).await,
            Self::RemoveStorage => remove_storage(stage).await,
        }
    }
}

/// Bytes that no other seed makes.
fn block(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..BLOCK / 8).flat_map(word).collect()
}

const FIRST: u64 = 1;
const END: u64 = 2;
const SPOILT: u64 = 3;
const RUNNING: u64 = 4;
const AFTERWARDS: u64 = 5;
const MEANWHILE: u64 = 6;

async fn add_storage(stage: &mut Stage) -> Result<String> {
    stage.client(0).add().await?;
    stage.call(1, "storage.activate", json!({})).await?;
    stage.ready(0).await?;
    stage.ready(1).await?;
    let status = stage.call(1, "storage.status", json!({})).await?;
    ensure(status["available"].as_u64() > Some(GROWN), || format!("no room is reported: {status}"))?;
    Ok(format!("{SPACE}: array checked, password stored, room known"))
}

async fn create(stage: &mut Stage) -> Result<String> {
    let wanted = json!({ "vmid": GUEST, "name": null, "size_bytes": SIZE });
    let made = stage.call(0, "volume.create", wanted).await?;
    ensure(made == json!({ "name": DISK, "size_bytes": SIZE }), || format!("made something else: {made}"))?;
    Ok(format!("{DISK}, 1 GiB, thin"))
}

/// Attaches the disk on a node; how many paths it has there.
async fn attach(stage: &mut Stage, index: usize) -> Result<usize> {
    let params = json!({ "name": DISK, "snapshot": null, "hints": {} });
    let attached = stage.call(index, "volume.attach", params).await?;
    let path = format!("/dev/sanbridge/{SPACE}/{DISK}");
    ensure(attached["path"] == path, || format!("it appears elsewhere: {attached}"))?;
    stage.path = path.into();
    let maps = stage.node(index).inventory().maps;
    let paths: Vec<usize> =
        maps.iter().map(|it| it.paths.iter().filter(|it| !it.has_failed).count()).collect();
    ensure(matches!(paths[..], [it] if it >= 2), || format!("not one map with several paths: {maps:?}"))?;
    Ok(paths[0])
}

async fn attach_first(stage: &mut Stage) -> Result<String> {
    stage.daemons.place_guest(GUEST, 0, &[DISK])?;
    let paths = attach(stage, 0).await?;
    Ok(format!("{} over {paths} verified paths", stage.path.display()))
}

async fn write(stage: &mut Stage) -> Result<String> {
    stage.write(0, 0, &block(FIRST)).await?;
    Ok("1 MiB written, read back and compared".to_owned())
}

async fn grow(stage: &mut Stage) -> Result<String> {
    stage.guest = Some(stage.node(0).open(&stage.path)?);
    let params = json!({ "name": DISK, "size_bytes": GROWN, "running": true });
    let grown = stage.call(0, "volume.grow", params).await?;
    ensure(grown["size_bytes"] == GROWN, || format!("it has another size: {grown}"))?;
    stage.write(0, TAIL, &block(END)).await?;
    stage.compare(0, 0, &block(FIRST)).await?;
    stage.guest = None;
    Ok("2 GiB; its new end carries bytes, the old ones are untouched".to_owned())
}

async fn take_snapshot(stage: &Stage, name: &str) -> Result<()> {
    stage.call(0, "snapshot.create", json!({ "name": DISK, "snapshot": name })).await?;
    let listed = stage.call(0, "snapshot.list", json!({ "name": DISK })).await?;
    ensure(listed["snapshots"].get(name).is_some(), || format!("it is not listed: {listed}"))
}

async fn snapshot(stage: &mut Stage) -> Result<String> {
    take_snapshot(stage, "before").await?;
    Ok("\"before\", listed by the array".to_owned())
}

async fn overwrite(stage: &mut Stage) -> Result<String> {
    stage.write(0, 0, &block(SPOILT)).await?;
    stage.write(0, TAIL, &block(SPOILT)).await?;
    Ok("the first and the last MiB are spoilt".to_owned())
}

async fn roll_back(stage: &mut Stage) -> Result<String> {
    stage.call(0, "snapshot.rollback", json!({ "name": DISK, "snapshot": "before" })).await?;
    attach(stage, 0).await?;
    stage.compare(0, 0, &block(FIRST)).await?;
    stage.compare(0, TAIL, &block(END)).await?;
    Ok("2 MiB compared: the snapshot's bytes are back".to_owned())
}

async fn snapshot_running(stage: &mut Stage) -> Result<String> {
    stage.guest = Some(stage.node(0).open(&stage.path)?);
    stage.write(0, 0, &block(RUNNING)).await?;
    take_snapshot(stage, "running").await?;
    stage.write(0, 0, &block(AFTERWARDS)).await?;
    let open: u32 = stage.node(0).inventory().maps.iter().map(|it| it.open_count).sum();
    ensure(open == 1, || "the guest lost its device".to_owned())?;
    Ok("\"running\"; the guest goes on writing to the same device".to_owned())
}

async fn hand_over(stage: &mut Stage) -> Result<String> {
    let paths = attach(stage, 1).await?;
    // The guest still runs on node 1 and goes on writing.
    stage.write(0, BLOCK, &block(MEANWHILE)).await?;
    let guest_there = stage.node(1).open(&stage.path)?;
    stage.daemons.place_guest(GUEST, 1, &[DISK])?;
    stage.guest = Some(guest_there);
    stage.call(0, "volume.detach", json!({ "name": DISK, "snapshot": null })).await?;
    for (offset, seed) in [(0, AFTERWARDS), (BLOCK, MEANWHILE), (TAIL, END)] {
        stage.compare(1, offset, &block(seed)).await?;
    }
    let here = stage.node(0).inventory();
    ensure(here.maps.is_empty() && here.legs.is_empty(), || "node 1 still has devices".to_owned())?;
    Ok(format!("{paths} paths there, none here; 3 MiB compared, 1 MiB of it written meanwhile"))
}

async fn roll_back_running(stage: &mut Stage) -> Result<String> {
    stage.guest = None;
    stage.call(1, "snapshot.rollback", json!({ "name": DISK, "snapshot": "running" })).await?;
    attach(stage, 1).await?;
    stage.compare(1, 0, &block(RUNNING)).await?;
    stage.compare(1, TAIL, &block(END)).await?;
    Ok("2 MiB compared: the bytes of the moment when the guest ran".to_owned())
}

async fn kill_daemon(stage: &mut Stage) -> Result<String> {
    let before = stage.daemons.audit();
    let stopper = Stopper::named("POST /api/storage/volumes", Side::After);
    stage.daemons.kill(0);
    stage.daemons.start(0, stopper.effects()).await?;
    stage.ready(0).await?;
    let client = stage.client(0);
    let wanted = json!({ "vmid": 101, "name": null, "size_bytes": SIZE });
    tokio::select! {
        biased;
        () = stopper.reached() => {}
        early = client.call("volume.create", wanted) => {
            return Err(Error::new(ErrorKind::Internal, format!("it was not interrupted: {early:?}")));
        }
    }
    let half_made = stage.daemons.audit().against(&before).0;
    ensure(half_made.iter().any(|it| it.contains("array: volume")), || {
        format!("nothing was half made: {half_made:?}")
    })?;
    stage.daemons.kill(0);
    stage.daemons.start(0, Effects::unobserved()).await?;
    stage.recovered(&before).await?;
    stage.ready(0).await?;
    Ok("a volume without its LUN and an open intent were left; both are gone again".to_owned())
}

async fn delete(stage: &mut Stage) -> Result<String> {
    stage.daemons.remove_guest(GUEST)?;
    for snapshot in ["before", "running"] {
        let params = json!({ "name": DISK, "snapshot": snapshot, "running": false });
        stage.call(1, "snapshot.delete", params).await?;
    }
    stage.call(1, "volume.delete", json!({ "name": DISK })).await?;
    let listed = stage.call(0, "volume.list", json!({})).await?;
    ensure(listed == json!({ "volumes": [] }), || format!("something is still listed: {listed}"))?;
    Ok("device taken down, volume removed, list empty".to_owned())
}

async fn remove_storage(stage: &mut Stage) -> Result<String> {
    for index in 0..stage.daemons.site.nodes() {
        stage.call(index, "storage.remove", json!({})).await?;
    }
    Ok("password and profiles removed; the array as before".to_owned())
}
