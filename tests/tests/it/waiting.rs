//! Guests whose disk has lost every path: they wait, but not for ever, and never for a disk that was taken away.

use std::path::PathBuf;
use std::time::Duration;

use san_core::{Effects, Result};
use san_engine::OUTAGE;
use san_sim::ontap::{MapInfo, Online};
use san_sim::server::ApiState;
use san_sim::target::Target;
use sanbridge_tests::site::{SVM, Site};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::{DISK, SIZE, assert_unchanged};

const VICTIM: &str = "/vol/victim/lun0";

fn cut(site: &Site) {
    for portal in site.array.portals() {
        site.node(0).host.partition(portal.address);
    }
}

fn mend(site: &Site) {
    for portal in site.array.portals() {
        site.node(0).host.heal(portal.address);
    }
}

/// A guest's write that may wait.
fn writing(site: &Site, path: PathBuf, bytes: &'static [u8]) -> JoinHandle<Result<()>> {
    let host = site.node(0).host.clone();
    let bound = OUTAGE * 4;
    tokio::spawn(async move {
        let write = tokio::time::timeout(bound, host.write_at(&path, 0, bytes));
        write.await.unwrap_or_else(|_| panic!("it waits for ever"))
    })
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_waits_for_its_paths_as_long_as_it_was_told_and_no_longer() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    // Shorter than that it notices nothing.
    cut(&site);
    let write = writing(&site, path.clone(), b"short");
    seconds(100).await;
    assert!(!write.is_finished());
    mend(&site);
    write.await.unwrap().unwrap();
    // Longer: it fails, and so does whatever comes after, at once.
    cut(&site);
    let write = writing(&site, path.clone(), b"long!");
    let began = Instant::now();
    write.await.unwrap().unwrap_err();
    let waited = began.elapsed();
    assert!(waited >= OUTAGE && waited < OUTAGE + Duration::from_secs(60), "{waited:?}");
    let began = Instant::now();
    writing(&site, path.clone(), b"later").await.unwrap().unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // Back, it works, and the next outage is waited for again.
    mend(&site);
    seconds(60).await;
    assert_eq!(node.read(&path, 0, 5).await.unwrap(), b"short");
    cut(&site);
    let write = writing(&site, path.clone(), b"again");
    seconds(100).await;
    assert!(!write.is_finished());
    mend(&site);
    write.await.unwrap().unwrap();
    seconds(30).await;
    node.detach(DISK).await.unwrap();
    node.delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// Of an outage that an earlier process saw begin and one that it saw end.
#[tokio::test(start_paused = true)]
async fn a_new_process_takes_the_watch_over() {
    let mut site = Site::started(1).await.unwrap();
    site.node(0).create(DISK, SIZE).await.unwrap();
    let path = site.node(0).attach(DISK).await.unwrap();
    cut(&site);
    let write = writing(&site, path.clone(), b"first");
    seconds(60).await;
    site.kill(0);
    seconds(300).await;
    assert!(!write.is_finished(), "nobody ended it");
    site.start(0, Effects::unobserved()).await.unwrap();
    let began = Instant::now();
    write.await.unwrap().unwrap_err();
    assert!(began.elapsed() < OUTAGE + Duration::from_secs(60), "{:?}", began.elapsed());
    site.kill(0);
    mend(&site);
    seconds(60).await;
    site.start(0, Effects::unobserved()).await.unwrap();
    seconds(10).await;
    cut(&site);
    let write = writing(&site, path, b"later");
    seconds(100).await;
    assert!(!write.is_finished(), "the waiting of before was given back");
    mend(&site);
    write.await.unwrap().unwrap();
}

/// The outage was ended by a process that did not live to see the paths come back; the next one does.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_process_ended_is_given_back_when_the_paths_return() {
    let mut site = Site::started(1).await.unwrap();
    site.node(0).create(DISK, SIZE).await.unwrap();
    let path = site.node(0).attach(DISK).await.unwrap();
    cut(&site);
    writing(&site, path.clone(), b"first").await.unwrap().unwrap_err();
    site.kill(0);
    site.start(0, Effects::unobserved()).await.unwrap();
    seconds(20).await;
    mend(&site);
    seconds(60).await;
    cut(&site);
    let write = writing(&site, path, b"later");
    seconds(100).await;
    assert!(!write.is_finished(), "the next outage is waited for");
    mend(&site);
    write.await.unwrap().unwrap();
}

/// Its LUN is offline for a while, as in a takeover: that is no taking away, whatever the legs say.
#[tokio::test(start_paused = true)]
async fn a_disk_that_is_offline_on_the_array_is_waited_for() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    let lun = site.array.maps().remove(0).lun;
    site.array.set_lun_online(SVM, &lun, Online::No).unwrap();
    let write = writing(&site, path, b"first");
    seconds(100).await;
    assert!(!write.is_finished());
    site.array.set_lun_online(SVM, &lun, Online::Yes).unwrap();
    write.await.unwrap().unwrap();
}

/// multipathd is started anew within an outage and has forgotten that the waiting was ended.
#[tokio::test(start_paused = true)]
async fn a_restarted_multipathd_is_told_again() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    cut(&site);
    writing(&site, path.clone(), b"first").await.unwrap().unwrap_err();
    node.host.stop_multipathd();
    node.host.start_multipathd();
    seconds(60).await;
    let began = Instant::now();
    writing(&site, path.clone(), b"later").await.unwrap().unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    mend(&site);
    seconds(60).await;
    node.write(&path, 0, b"works").await.unwrap();
}

/// An administrator takes the disk away from this node on the array; the mapping as it was.
fn take_away(site: &Site) -> MapInfo {
    let map = site.array.maps().remove(0);
    site.array.remove_map(SVM, &map.lun, &map.igroup).unwrap();
    map
}

/// He gives its number to another volume.
fn give_away(site: &Site, map: &MapInfo) {
    site.array.add_volume(SVM, "victim", 1 << 30, "").unwrap();
    site.array.add_lun(SVM, VICTIM, SIZE.bytes(), "").unwrap();
    site.array.add_map(SVM, VICTIM, &map.igroup, Some(map.number)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_a_disk_taken_away_fails_and_reaches_no_other() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    let host = node.host.clone();
    let guest = tokio::spawn(async move {
        // It writes all the time, as a guest does.
        while host.write_at(&path, 0, b"mine1").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Instant::now()
    });
    seconds(5).await;
    let began = Instant::now();
    let map = take_away(&site);
    seconds(10).await;
    give_away(&site, &map);
    let failed = tokio::time::timeout(OUTAGE, guest).await.unwrap().unwrap();
    assert!(failed - began < Duration::from_secs(10), "it failed before the number passed on");
    seconds(120).await;
    let file = site.array.lun_file(SVM, VICTIM).unwrap();
    assert!(std::fs::read(file).unwrap().iter().all(|it| *it == 0), "nothing was written to the victim");
}

/// The legs deny it, and the array cannot be asked: only the usual time ends its waiting.
#[tokio::test(start_paused = true)]
async fn without_the_arrays_word_a_denied_disk_is_waited_for() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    take_away(&site);
    site.array.set_api(ApiState::BlackHole);
    let began = Instant::now();
    writing(&site, path, b"first").await.unwrap().unwrap_err();
    let waited = began.elapsed();
    assert!(waited >= OUTAGE && waited < OUTAGE + Duration::from_secs(60), "{waited:?}");
}
