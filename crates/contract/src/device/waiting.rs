//! Clauses about devices that lose every path: it is told, waiting can be ended, and what the array took away is known.

use std::time::Duration;

use san_core::{Paths, Waiting};
use tokio::time::Instant;

use super::{DeviceFixture, assert_empty, at_most, attach, cx, detach, known};

/// Until every checker has looked.
const NOTICED: Duration = Duration::from_secs(60);
/// Nobody announces what the multipath daemon has noticed.
const PAUSE: Duration = Duration::from_millis(100);

async fn paths(fixture: &impl DeviceFixture, n: u8) -> Option<Paths> {
    fixture.manager().paths(&cx(fixture), &[fixture.identity(n)]).await.unwrap()[0]
}

async fn await_paths(fixture: &impl DeviceFixture, n: u8, usable: u32, waiting: Waiting) {
    let start = Instant::now();
    let expected = Some(Paths { usable, waiting });
    while paths(fixture, n).await != expected {
        let found = paths(fixture, n).await;
        assert!(start.elapsed() < at_most(fixture, NOTICED), "{found:?} instead of {expected:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn cut_all(fixture: &impl DeviceFixture) {
    for route in fixture.routes() {
        fixture.cut(&route).await;
    }
}

async fn mend_all(fixture: &impl DeviceFixture) {
    for route in fixture.routes() {
        fixture.mend(&route).await;
    }
}

/// The last path to go is told, and the first to come back.
pub async fn losing_every_road_is_told(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    let mut watch = fixture.manager().watch_paths();
    cut_all(fixture).await;
    let span = at_most(fixture, NOTICED);
    let news = tokio::time::timeout(span, watch.next()).await.unwrap().unwrap();
    assert_eq!((news.wwid, news.usable), (fixture.identity(1).wwid, 0));
    mend_all(fixture).await;
    let news = tokio::time::timeout(span, watch.next()).await.unwrap().unwrap();
    assert_eq!((news.wwid, news.usable), (fixture.identity(1).wwid, 1));
    let all = u32::try_from(fixture.routes().len()).unwrap();
    await_paths(fixture, 1, all, Waiting::Waits).await;
    detach(fixture, 1, 5).await;
    assert_eq!(paths(fixture, 1).await, None);
    assert_empty(fixture);
}

/// Of one device and no other; and it is given back.
pub async fn waiting_ends_for_one_device_and_is_given_back(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    attach(fixture, 2, 6).await;
    cut_all(fixture).await;
    await_paths(fixture, 1, 0, Waiting::Waits).await;
    await_paths(fixture, 2, 0, Waiting::Waits).await;
    let (manager, cx) = (fixture.manager(), cx(fixture));
    // Twice is as good as once.
    for _ in 0..2 {
        manager.end_waiting(&cx, &fixture.identity(1)).await.unwrap();
    }
    await_paths(fixture, 1, 0, Waiting::Fails).await;
    await_paths(fixture, 2, 0, Waiting::Waits).await;
    mend_all(fixture).await;
    let all = u32::try_from(fixture.routes().len()).unwrap();
    await_paths(fixture, 1, all, Waiting::Fails).await;
    manager.resume_waiting(&cx, &fixture.identity(1)).await.unwrap();
    await_paths(fixture, 1, all, Waiting::Waits).await;
    await_paths(fixture, 2, all, Waiting::Waits).await;
    detach(fixture, 1, 5).await;
    detach(fixture, 2, 6).await;
    // What is no device has nothing that waits.
    manager.end_waiting(&cx, &fixture.identity(1)).await.unwrap();
    manager.resume_waiting(&cx, &fixture.identity(1)).await.unwrap();
    assert_empty(fixture);
}

/// Only what answers can deny, and one leg that has the volume outweighs all others.
pub async fn a_volume_taken_away_is_denied(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    let (manager, cx, known) = (fixture.manager(), cx(fixture), known(fixture, 1, 5));
    assert!(!manager.is_denied(&cx, &known).await.unwrap(), "it is there");
    fixture.hide(5);
    assert!(manager.is_denied(&cx, &known).await.unwrap(), "it is not shown any more");
    fixture.show(2, 5);
    assert!(manager.is_denied(&cx, &known).await.unwrap(), "another volume is at its number");
    fixture.hide(5);
    fixture.show_behind(&fixture.routes()[0], 1, 5);
    assert!(!manager.is_denied(&cx, &known).await.unwrap(), "one road still leads to it");
    fixture.hide(5);
    cut_all(fixture).await;
    assert!(!manager.is_denied(&cx, &known).await.unwrap(), "nobody answers");
    mend_all(fixture).await;
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
}
