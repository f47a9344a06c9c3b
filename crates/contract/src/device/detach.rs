//! Clauses about use, retiring, burying and reviving.

use std::path::PathBuf;
use std::time::Duration;

use san_core::{ErrorKind, Holder, Usage};
use tokio::time::Instant;

use super::{
    DeviceFixture, Use, assert_carries, assert_empty, at_most, attach, bury, cx, detach, expect, known, lun,
    retire, try_attach,
};

/// A map without any active path is a device with queued requests, not a leftover.
pub async fn all_roads_lost_is_still_a_device(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    for route in fixture.routes() {
        fixture.cut(&route).await;
    }
    let seen = fixture
        .manager()
        .inspect(&cx(fixture), &expect(fixture, 1, 5), &fixture.routes())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (seen.number, seen.legs.len(), seen.missing.len()),
        (device.number, 0, fixture.routes().len())
    );
    assert!(matches!(fixture.manager().usage(&cx(fixture), &seen).await.unwrap(), Usage::InUse(_)));
    let error = fixture.manager().retire(&cx(fixture), &known(fixture, 1, 5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    for route in fixture.routes() {
        fixture.mend(&route).await;
    }
    assert_carries(fixture, &try_attach(fixture, 1, 5).await.unwrap(), 1).await;
    drop(in_use);
}

/// Whoever uses it is named, and nothing is changed.
pub async fn everybody_who_uses_it_is_named_and_stops_a_retire(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    assert_eq!(fixture.manager().usage(&cx(fixture), &device).await.unwrap(), Usage::Idle);
    for how in [Use::Handle, Use::Mount, Use::Swap, Use::Stack] {
        let in_use = fixture.take_into_use(&device.path, how);
        let before = fixture.changes();
        let usage = fixture.manager().usage(&cx(fixture), &device).await.unwrap();
        let Usage::InUse(holders) = usage else { panic!("{how:?} is not seen") };
        let is_named = match (how, holders.as_slice()) {
            (Use::Handle, [Holder::Openers(1)]) | (Use::Swap, [Holder::Swap]) => true,
            (Use::Mount, [Holder::Mount(path)]) => *path != PathBuf::new(),
            (Use::Stack, [Holder::Device(name)]) => name.starts_with("dm-"),
            _ => false,
        };
        assert!(is_named, "{how:?}: {holders:?}");
        let error = fixture.manager().retire(&cx(fixture), &known(fixture, 1, 5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{how:?}: {error:?}");
        assert!(error.message().contains(&holders[0].to_string()), "{error:?}");
        assert_eq!(fixture.changes(), before, "{how:?}");
        drop(in_use);
        assert_eq!(
            fixture.manager().usage(&cx(fixture), &device).await.unwrap(),
            Usage::Idle,
            "after {how:?}"
        );
    }
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
}

/// A partition's map that nobody uses goes with the map.
pub async fn an_unused_partition_does_not_count(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    fixture.partition(1).await;
    assert_eq!(fixture.manager().usage(&cx(fixture), &device).await.unwrap(), Usage::Idle);
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
}

/// The whole way, twice, with the same number.
pub async fn retired_and_buried_leaves_nothing(fixture: &impl DeviceFixture) {
    for n in [1, 2, 1] {
        let device = attach(fixture, n, 5).await;
        assert_carries(fixture, &device, n).await;
        let retired = retire(fixture, n, 5).await;
        assert_eq!(retired.legs.len(), fixture.routes().len());
        assert_eq!(fixture.maps(), [""; 0]);
        fixture.hide(5);
        bury(fixture, &retired).await;
        assert_empty(fixture);
        assert!(fixture.manager().usage(&cx(fixture), &device).await.is_err(), "unknown is not idle");
    }
}

/// Another tool scans everything between the steps.
pub async fn a_full_scan_brings_nothing_back(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    let retired = retire(fixture, 1, 5).await;
    fixture.scan_everything().await;
    assert_eq!(fixture.maps(), [""; 0], "no map came back");
    assert_eq!(fixture.legs().len(), fixture.routes().len(), "no leg was added");
    fixture.hide(5);
    fixture.scan_everything().await;
    bury(fixture, &retired).await;
    fixture.scan_everything().await;
    assert_empty(fixture);
}

/// A session bounces between the steps, which sets offline legs running.
pub async fn a_bounce_between_the_steps_brings_nothing_back(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    retire(fixture, 1, 5).await;
    fixture.bounce(&fixture.routes()[0]).await;
    let retired = retire(fixture, 1, 5).await;
    assert_eq!(retired.legs.len(), fixture.routes().len());
    fixture.hide(5);
    fixture.bounce(&fixture.routes()[1]).await;
    bury(fixture, &retired).await;
    assert_empty(fixture);
}

/// The array would not unmap; the volume comes back as it was.
pub async fn a_retired_volume_comes_back_when_asked(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    assert_carries(fixture, &device, 1).await;
    retire(fixture, 1, 5).await;
    let wanted = expect(fixture, 1, 5);
    let back = fixture.manager().revive(&cx(fixture), &wanted, &fixture.routes()).await.unwrap();
    assert_eq!((back.legs.len(), back.path), (fixture.routes().len(), device.path));
    assert_carries(fixture, &try_attach(fixture, 1, 5).await.unwrap(), 1).await;
    // The number was given away instead.
    retire(fixture, 1, 5).await;
    fixture.hide(5);
    fixture.show(2, 5);
    let error = fixture.manager().revive(&cx(fixture), &wanted, &fixture.routes()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    assert_eq!(fixture.maps(), [""; 0]);
}

/// A step that was done is done again without harm.
pub async fn every_step_can_be_repeated(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    let first = retire(fixture, 1, 5).await;
    let second = retire(fixture, 1, 5).await;
    assert_eq!(first, second);
    fixture.hide(5);
    bury(fixture, &second).await;
    bury(fixture, &second).await;
    let third = retire(fixture, 1, 5).await;
    assert_eq!(third.legs, []);
    bury(fixture, &first).await;
    assert_empty(fixture);
}

/// Killed between the map and the legs, or before any of it was built.
pub async fn a_half_retired_volume_can_be_retired(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    fixture.remove_map(1).await;
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
    // Only scanned, never made a map of.
    fixture.stop_daemon();
    fixture.show(1, 5);
    try_attach(fixture, 1, 5).await.unwrap_err();
    fixture.start_daemon();
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
}

/// No road is left and nobody uses it.
pub async fn an_idle_map_without_roads_is_retired_quickly(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    for route in fixture.routes() {
        fixture.cut(&route).await;
    }
    let start = Instant::now();
    let retired = retire(fixture, 1, 5).await;
    assert!(start.elapsed() < at_most(fixture, Duration::from_secs(2)), "{:?}", start.elapsed());
    fixture.hide(5);
    bury(fixture, &retired).await;
    assert_empty(fixture);
}

/// Somebody unmapped the volume on the array under us.
pub async fn an_unmap_by_others_can_be_cleaned_up(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    fixture.hide(5);
    let start = Instant::now();
    let retired = retire(fixture, 1, 5).await;
    bury(fixture, &retired).await;
    assert!(start.elapsed() < at_most(fixture, Duration::from_secs(5)), "{:?}", start.elapsed());
    assert_empty(fixture);
}

/// A worker of the system has it open for a moment.
pub async fn a_device_closed_in_a_moment_is_waited_for(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    let closing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(in_use);
    };
    let what = known(fixture, 1, 5);
    let cx = cx(fixture);
    let (retired, ()) = tokio::join!(fixture.manager().retire(&cx, &what), closing);
    fixture.hide(5);
    bury(fixture, &retired.unwrap()).await;
    assert_empty(fixture);
}

/// Numbers that have a leg, whoever it belongs to.
pub async fn occupied_numbers_are_told(fixture: &impl DeviceFixture) {
    assert_eq!(fixture.manager().occupied(&cx(fixture), &fixture.routes()).await.unwrap(), []);
    attach(fixture, 1, 5).await;
    attach(fixture, 2, 17).await;
    let retired = retire(fixture, 2, 17).await;
    let occupied = fixture.manager().occupied(&cx(fixture), &fixture.routes()).await.unwrap();
    assert_eq!(occupied, [lun(5), lun(17)], "a retired leg still occupies its number");
    assert_eq!(fixture.manager().occupied(&cx(fixture), &[]).await.unwrap(), []);
    fixture.hide(17);
    bury(fixture, &retired).await;
    assert_eq!(fixture.manager().occupied(&cx(fixture), &fixture.routes()).await.unwrap(), [lun(5)]);
}

/// Flushing is for attached devices only.
pub async fn flushing_works(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    fixture.manager().flush(&cx(fixture), &device).await.unwrap();
    detach(fixture, 1, 5).await;
    let error = fixture.manager().flush(&cx(fixture), &device).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
