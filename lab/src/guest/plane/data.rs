//! Bytes: snapshot, roll back, clone, grow and shrink under a live initiator, proved by hashes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::json;

use super::bench::{Bench, Lun, MIB, SOON, rescan, size, within};
use crate::guest::direct::{Device, hash};
use crate::guest::{Check, Failure, Shown, tools};

/// How much is written and hashed.
const LENGTH: usize = 2 << 20;
/// Where in the LUN.
const PLACE: u64 = 3 * MIB;

pub(super) fn checks() -> Vec<Check<Bench>> {
    vec![
        Check {
            name: "roll-back",
            scenarios: &[],
            done: "bytes were written through one leg, a snapshot was taken, they were overwritten through the other, \
                   and the volume was rolled back in place while mapped",
            run: |bench| Box::pin(roll_back(bench)),
            bound: Duration::from_secs(20),
        },
        Check {
            name: "clone",
            scenarios: &["9"],
            done: "a snapshot of a live LUN was cloned and mapped beside it; both were written",
            run: |bench| Box::pin(clone(bench)),
            bound: Duration::from_secs(20),
        },
        Check {
            name: "grow-and-back",
            scenarios: &["69", "72"],
            done: "a live LUN was grown, written beyond its old end, and rolled back to its old size",
            run: |bench| Box::pin(grow(bench)),
            bound: Duration::from_secs(20),
        },
    ]
}

/// Bytes that no other seed and no other place gives.
fn pattern(seed: u8) -> Vec<u8> {
    let mut bytes = vec![seed; LENGTH];
    for (at, sector) in bytes.chunks_exact_mut(512).enumerate() {
        sector[..8].copy_from_slice(&(at as u64).to_le_bytes());
    }
    bytes
}

fn write(leg: &Path, seed: u8) -> Result<(), Failure> {
    Ok(Device::open(leg)?.write(PLACE, &pattern(seed))?)
}

fn expect(legs: &[PathBuf], seed: u8, when: &str) -> Result<(), Failure> {
    let wanted = crate::guest::direct::hash_of(&pattern(seed));
    for leg in legs {
        if hash(leg, PLACE, LENGTH)? != wanted {
            return Err(Failure(format!("{} does not read what it must {when}", leg.display())));
        }
    }
    Ok(())
}

/// The same through the page cache of the initiator, which was dropped before as before a mount.
async fn expect_cached(leg: &Path, seed: u8, when: &str) -> Result<(), Failure> {
    use std::os::unix::fs::FileExt as _;
    tools::run("blockdev", &["--flushbufs", &leg.to_string_lossy()], SOON).await?;
    let mut read = vec![0; LENGTH];
    std::fs::File::open(leg)?.read_exact_at(&mut read, PLACE)?;
    if read == pattern(seed) { Ok(()) } else { Err(Failure(format!("the page cache is stale {when}"))) }
}

async fn snapshot(bench: &Bench, lun: &Lun, name: &str) -> Result<(), Failure> {
    let path = format!("{}/snapshots?return_timeout=15", bench.volume(lun)?);
    bench.rest(Method::POST, &path, json!({ "name": name })).await.map(drop)
}

async fn restore(bench: &Bench, lun: &Lun, name: &str) -> Result<(), Failure> {
    let path = format!("{}?restore_to.snapshot.name={name}&return_timeout=15", bench.volume(lun)?);
    bench.rest(Method::PATCH, &path, json!({})).await.map(drop)
}

async fn roll_back(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (lun, legs) = bench.mapped(64 * MIB).await?;
    write(&legs[0], 1)?;
    expect(&legs, 1, "after it was written")?;
    snapshot(&bench, &lun, "before").await?;
    write(&legs[1], 2)?;
    expect(&legs, 2, "after it was overwritten")?;
    expect_cached(&legs[0], 2, "after it was overwritten").await?;
    restore(&bench, &lun, "before").await?;
    expect(&legs, 1, "after the roll back")?;
    expect_cached(&legs[0], 1, "after the roll back").await?;
    // The snapshot must not have been touched by what came after it.
    write(&legs[0], 3)?;
    restore(&bench, &lun, "before").await?;
    expect(&legs, 1, "after the second roll back")?;
    bench.retire(&lun).await?;
    Ok(Shown::held("both legs read the snapshot's bytes, twice, without a new login or scan"))
}

async fn clone(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (lun, legs) = bench.mapped(64 * MIB).await?;
    write(&legs[0], 4)?;
    snapshot(&bench, &lun, "base").await?;
    write(&legs[0], 5)?;
    let copy = Lun { volume: format!("{}_clone", lun.volume), path: String::new(), number: lun.number + 100 };
    let body = json!({
        "name": copy.volume, "svm": { "name": super::bench::SVM },
        "clone": { "is_flexclone": true, "parent_volume": { "name": lun.volume }, "parent_snapshot": { "name": "base" } },
    });
    bench.rest(Method::POST, "/storage/volumes?return_timeout=15", body).await?;
    let copy = Lun { path: format!("/vol/{}/lun0", copy.volume), ..copy };
    bench.map(&copy, copy.number).await?;
    bench.scan().await?;
    let others = bench.legs(copy.number, 2).await?;
    expect(&others, 4, "in the clone")?;
    expect(&legs, 5, "in the parent")?;
    write(&others[1], 6)?;
    expect(&others, 6, "in the clone after it was written")?;
    expect(&legs, 5, "in the parent after the clone was written")?;
    let names = [super::bench::attribute(&legs[0], "wwid")?, super::bench::attribute(&others[0], "wwid")?];
    if names[0] == names[1] {
        return Err(Failure(format!("clone and parent are both {}", names[0])));
    }
    bench.retire(&copy).await?;
    bench.retire(&lun).await?;
    Ok(Shown::held(
        "the clone has the snapshot's bytes under an identity of its own; neither writes into the other",
    ))
}

async fn wait_for_size(legs: &[PathBuf], wanted: u64) -> Result<(), Failure> {
    for leg in legs {
        rescan(leg)?;
        within(SOON, || Ok(size(leg)? == wanted))
            .await
            .map_err(|_| Failure(format!("{} has {:?} bytes, not {wanted}", leg.display(), size(leg))))?;
    }
    Ok(())
}

async fn grow(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (lun, legs) = bench.mapped(64 * MIB).await?;
    write(&legs[0], 7)?;
    snapshot(&bench, &lun, "small").await?;
    let info = bench.array.array().lun(super::bench::SVM, &lun.path);
    let uuid = info.ok_or_else(|| Failure("the array has no such LUN".to_owned()))?.uuid;
    let open = Device::open(&legs[0])?;
    bench
        .rest(Method::PATCH, &format!("/storage/luns/{uuid}"), json!({ "space": { "size": 96 * MIB } }))
        .await?;
    wait_for_size(&legs, 96 * MIB).await?;
    expect(&legs, 7, "after it grew")?;
    if open.read(80 * MIB, 4096)? != vec![0; 4096] {
        return Err(Failure("what was grown is not zero".to_owned()));
    }
    open.write(80 * MIB, &[9; 4096])?;
    if Device::open(&legs[1])?.read(80 * MIB, 4096)? != vec![9; 4096] {
        return Err(Failure("what was written beyond the old end is not there".to_owned()));
    }
    restore(&bench, &lun, "small").await?;
    wait_for_size(&legs, 64 * MIB).await?;
    expect(&legs, 7, "after it went back")?;
    bench.retire(&lun).await?;
    Ok(Shown::held("both legs followed to 96 MiB and back to 64 MiB, bytes intact, an open handle went on"))
}
