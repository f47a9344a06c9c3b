//! Clauses about attaching: all legs, once, late ones, missing ones, many at a time.

use std::time::Duration;

use san_core::ErrorKind;
use tokio::time::Instant;

use super::{
    DeviceFixture, SIZE, Use, addresses, assert_carries, assert_empty, at_most, attach, cx, detach, expect,
    try_attach,
};

/// Every route is a leg, the size is the array's, the bytes are the volume's.
pub async fn attaching_gives_the_volume_over_every_route(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let legs: Vec<_> = device.legs.iter().map(|it| it.hctl).collect();
    let mut expected = addresses(fixture, 5);
    expected.sort_unstable();
    assert_eq!(legs, expected);
    assert_eq!(device.size, SIZE);
    assert!(device.missing.is_empty(), "{:?}", device.missing);
    assert_carries(fixture, &device, 1).await;
    let seen = fixture
        .manager()
        .inspect(&cx(fixture), &expect(fixture, 1, 5), &fixture.routes())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((seen.number, seen.path, seen.legs), (device.number, device.path, device.legs));
}

/// A healthy device costs no scan, no change and no program.
pub async fn attaching_again_changes_nothing(fixture: &impl DeviceFixture) {
    let first = attach(fixture, 1, 5).await;
    let before = fixture.changes();
    let again = try_attach(fixture, 1, 5).await.unwrap();
    assert_eq!(again.number, first.number);
    assert_eq!(fixture.changes(), before);
}

/// The legs are there and the map was removed; no event would bring it back.
pub async fn attaching_rebuilds_a_map_over_its_legs(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    fixture.remove_map(1).await;
    let absent =
        fixture.manager().inspect(&cx(fixture), &expect(fixture, 1, 5), &fixture.routes()).await.unwrap();
    assert!(absent.is_none());
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_eq!(device.legs.len(), fixture.routes().len());
    assert_carries(fixture, &device, 1).await;
}

/// The disk of a leg appears some time after the scan.
pub async fn a_late_disk_is_waited_for(fixture: &impl DeviceFixture) {
    fixture.slow_disks(Duration::from_millis(900));
    let device = attach(fixture, 1, 5).await;
    assert_eq!(device.legs.len(), fixture.routes().len());
}

/// The array's mapping takes effect two seconds after it was promised.
pub async fn a_late_mapping_is_scanned_for_again(fixture: &impl DeviceFixture) {
    let late = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        fixture.show(1, 5);
    };
    let (device, ()) = tokio::join!(try_attach(fixture, 1, 5), late);
    assert_eq!(device.unwrap().legs.len(), fixture.routes().len());
}

/// A volume that is mapped nowhere is not found, in bounded time, and nothing is left.
pub async fn nothing_at_the_address_is_a_bounded_not_found(fixture: &impl DeviceFixture) {
    let start = Instant::now();
    let error = try_attach(fixture, 1, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(start.elapsed() < at_most(fixture, Duration::from_secs(20)));
    assert_empty(fixture);
    assert!(
        fixture
            .manager()
            .inspect(&cx(fixture), &expect(fixture, 1, 5), &fixture.routes())
            .await
            .unwrap()
            .is_none()
    );
}

/// Without any session nothing is tried.
pub async fn no_route_is_unavailable(fixture: &impl DeviceFixture) {
    fixture.show(1, 5);
    let error = fixture.manager().attach(&cx(fixture), &expect(fixture, 1, 5), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(fixture.changes(), [""; 0]);
}

/// One road is missing; the device works, and the next attach completes it without a new one.
pub async fn a_missing_road_is_told_and_completed_later(fixture: &impl DeviceFixture) {
    let routes = fixture.routes();
    fixture.show(1, 5);
    let wanted = expect(fixture, 1, 5);
    let first = fixture.manager().attach(&cx(fixture), &wanted, &routes[1..]).await.unwrap();
    assert_eq!(first.legs.len(), routes.len() - 1);
    let in_use = fixture.take_into_use(&first.path, Use::Handle);
    let whole = try_attach(fixture, 1, 5).await.unwrap();
    assert_eq!((whole.number, whole.legs.len()), (first.number, routes.len()));
    fixture.cut(&routes[0]).await;
    let lame = try_attach(fixture, 1, 5).await.unwrap();
    assert_eq!((lame.number, lame.legs.len(), lame.missing.len()), (first.number, routes.len() - 1, 1));
    fixture.mend(&routes[0]).await;
    assert_eq!(try_attach(fixture, 1, 5).await.unwrap().legs.len(), routes.len());
    drop(in_use);
}

/// A leg takes commands and answers none.
pub async fn a_leg_that_never_answers_is_left_out(fixture: &impl DeviceFixture) {
    let routes = fixture.routes();
    fixture.hang(addresses(fixture, 5)[0]);
    fixture.show(1, 5);
    let start = Instant::now();
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_eq!((device.legs.len(), device.missing.len()), (routes.len() - 1, 1));
    assert!(start.elapsed() < at_most(fixture, Duration::from_secs(15)), "{:?}", start.elapsed());
    assert_carries(fixture, &device, 1).await;
    // The kernel scans one unit of a host at a time: behind that one port others may have to wait, and nowhere else.
    fixture.show(2, 6);
    let start = Instant::now();
    let other = try_attach(fixture, 2, 6).await.unwrap();
    let is_behind_it = other.missing.iter().all(|it| it.route == routes[0]);
    assert!(other.legs.len() >= routes.len() - 1 && is_behind_it, "{:?}", other.missing);
    assert!(start.elapsed() < at_most(fixture, Duration::from_secs(5)), "{:?}", start.elapsed());
    assert_carries(fixture, &other, 2).await;
}

/// Several attaches and detaches at once.
pub async fn parallel_attaches_keep_apart(fixture: &impl DeviceFixture) {
    for n in 1..=6 {
        fixture.show(n, u16::from(n) + 10);
    }
    let own = |n: u8| try_attach(fixture, n, u16::from(n) + 10);
    let devices = tokio::join!(own(1), own(2), own(3), own(4), own(5), own(6));
    for (n, device) in (1..).zip(<[_; 6]>::from(devices)) {
        let device = device.unwrap();
        assert_eq!(device.legs.len(), fixture.routes().len());
        assert_carries(fixture, &device, n).await;
    }
    // Names of the kernel pass from one to the other while they come and go.
    let ((), again) = tokio::join!(detach(fixture, 1, 11), try_attach(fixture, 2, 12));
    assert_carries(fixture, &again.unwrap(), 2).await;
    let ((), other) = tokio::join!(detach(fixture, 3, 13), attach(fixture, 1, 20));
    assert_carries(fixture, &other, 1).await;
    for n in [1_u8, 2, 4, 5, 6] {
        let number = if n == 1 { 20 } else { u16::from(n) + 10 };
        assert_carries(fixture, &try_attach(fixture, n, number).await.unwrap(), n).await;
    }
}

/// Two callers want the same volume.
pub async fn the_same_volume_attached_twice_at_once_is_one_map(fixture: &impl DeviceFixture) {
    fixture.show(1, 5);
    let (a, b) = tokio::join!(try_attach(fixture, 1, 5), try_attach(fixture, 1, 5));
    assert_eq!(a.unwrap().number, b.unwrap().number);
    assert_eq!(fixture.maps().len(), 1);
    assert_eq!(fixture.legs().len(), fixture.routes().len());
}
