//! What the steps do to the node, in which order and how often.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use san_contract::device::{DeviceFixture as _, Use};
use san_core::{
    ByteSize, Cx, Deadline, DeviceManager as _, Effects, ErrorKind, Expected, Hctl, KnownLegs, Lun,
    OperationId, Route,
};
use san_host::Host as _;
use san_sim::host::{LegState, LogKind, NodeSpec, RecheckWwid, Suspension};
use tokio::time::Instant;

use crate::array::portals;
use crate::fixture::Fixture;

fn cx() -> Cx {
    Cx::new(Deadline::after(Duration::from_secs(60)), OperationId::random(), Effects::unobserved())
}

fn spec() -> NodeSpec {
    NodeSpec::new("pve1", "iqn.1993-08.org.debian:01:pve1")
}

fn expect(fixture: &Fixture, n: u8, lun: u16) -> Expected {
    Expected { identity: fixture.identity(n), size: ByteSize::from_mib(64), lun: Lun::new(lun).unwrap() }
}

fn known(fixture: &Fixture, n: u8, lun: u16) -> KnownLegs {
    let lun = Lun::new(lun).unwrap();
    let addresses = fixture.routes().into_iter().filter_map(|it| match it {
        Route::Scsi { host, channel, target, .. } => Some(Hctl { host, channel, target, lun }),
        _ => None,
    });
    KnownLegs { identity: fixture.identity(n), lun, addresses: addresses.collect() }
}

async fn attached(spec: NodeSpec) -> (Fixture, san_core::Device) {
    let fixture = Fixture::on(spec).await;
    fixture.show(1, 5);
    let device = fixture.manager.attach(&cx(), &expect(&fixture, 1, 5), &fixture.routes()).await.unwrap();
    (fixture, device)
}

/// The budget: one scan and one command per leg, one command for the map, no program; again: nothing but the proof of each leg.
#[tokio::test(start_paused = true)]
async fn an_attach_costs_one_scan_and_one_command_per_leg_and_one_for_the_map() {
    let (fixture, _) = attached(spec()).await;
    let writes = fixture.node.logged(LogKind::Write);
    assert_eq!(writes.len(), portals().len(), "{writes:#?}");
    assert_eq!(fixture.node.logged(LogKind::Socket).len(), portals().len() + 1);
    fixture.node.forget_log();
    let before = fixture.node.counters();
    fixture.manager.attach(&cx(), &expect(&fixture, 1, 5), &fixture.routes()).await.unwrap();
    let after = fixture.node.counters();
    assert_eq!(fixture.node.logged(LogKind::Write), [""; 0]);
    assert_eq!(fixture.node.logged(LogKind::Socket), [""; 0]);
    assert_eq!(fixture.node.logged(LogKind::Inquiry).len(), 2 * portals().len(), "two pages of each leg");
    assert_eq!((after.processes, after.connections), (before.processes, before.connections));
}

/// Flush, map, offline; then, after the array's unmap, delete.
#[tokio::test(start_paused = true)]
async fn the_tombstone_order_is_kept() {
    let (fixture, _) = attached(spec()).await;
    fixture.node.forget_log();
    let retired = fixture.manager.retire(&cx(), &known(&fixture, 1, 5)).await.unwrap();
    let legs = fixture.node.inventory().legs;
    assert!(legs.iter().all(|it| it.state == LegState::Offline), "{legs:?}");
    fixture.hide(5);
    fixture.manager.bury(&cx(), &retired).await.unwrap();
    let log = fixture.node.log();
    let last = |part: &str| log.iter().rposition(|it| it.text.contains(part)).unwrap();
    let first = |part: &str| log.iter().position(|it| it.text.contains(part)).unwrap();
    assert_eq!(log.iter().filter(|it| it.kind == LogKind::Flush).count(), 1);
    let flush = log.iter().position(|it| it.kind == LogKind::Flush).unwrap();
    assert!(flush < first("del map") && last("del map") < first("state offline"));
    assert!(last("state offline") < first("delete 1"));
}

/// 63: what cannot be written out is not thrown away.
#[tokio::test(start_paused = true)]
async fn a_flush_that_hangs_stops_the_retirement() {
    let (fixture, device) = attached(spec()).await;
    fixture.node.hang_device(&device.path).unwrap();
    let error = fixture.manager.retire(&cx(), &known(&fixture, 1, 5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.chain().to_string().contains("may be unflushed"), "{error:?}");
    assert_eq!(fixture.maps().len(), 1, "still attached");
    fixture.node.unhang();
    let retired = fixture.manager.retire(&cx(), &known(&fixture, 1, 5)).await.unwrap();
    assert_eq!(retired.legs.len(), portals().len());
}

/// 1: a request queued for the old volume in the gap never reaches the new one at its number.
#[tokio::test(start_paused = true)]
async fn a_queued_write_never_reaches_another_volume() {
    let mut spec = spec();
    spec.multipath.recheck_wwid = RecheckWwid::Yes;
    let (fixture, device) = attached(spec).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    fixture.hide(5);
    let node = fixture.node.clone();
    let path = device.path.clone();
    let queued = tokio::spawn(async move { node.write_at(&path, 0, &[0xaa; 4096]).await });
    tokio::time::sleep(Duration::from_secs(12)).await;
    fixture.show(2, 5);
    for _ in 0..3 {
        let wanted = expect(&fixture, 2, 5);
        // While the old map holds the legs this refuses; once multipathd has let go of them it may succeed.
        let _ = fixture.manager.attach(&cx(), &wanted, &fixture.routes()).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(fixture.bytes(2, 4096), vec![0; 4096]);
    }
    queued.abort();
    drop(in_use);
}

/// 2, 3: the kernel has read the pages of a number that was given away, udev has not looked since: multipathd would go on
/// taking the legs for the volume before.
#[tokio::test(start_paused = true)]
async fn udev_looks_again_at_legs_that_it_has_down_as_another_volume() {
    let (fixture, _) = attached(spec()).await;
    fixture.show(2, 5);
    let manager = &fixture.manager;
    // This is refused, and has the kernel read again.
    manager.attach(&cx(), &expect(&fixture, 1, 5), &fixture.routes()).await.unwrap_err();
    let retired = manager.retire(&cx(), &known(&fixture, 1, 5)).await.unwrap();
    manager.bury(&cx(), &retired).await.unwrap();
    let device = manager.attach(&cx(), &expect(&fixture, 2, 5), &fixture.routes()).await.unwrap();
    assert_eq!((device.legs.len(), device.missing.len()), (portals().len(), 0));
    assert_eq!(device.identity, fixture.identity(2));
}

/// What waits in another volume's map would be written to this one through the leg that the map still has.
#[tokio::test(start_paused = true)]
async fn nothing_is_attached_while_another_map_has_one_of_its_legs() {
    let fixture = Fixture::on(spec()).await;
    let routes = fixture.routes();
    fixture.show_behind(&routes[0], 1, 5);
    fixture.manager.attach(&cx(), &expect(&fixture, 1, 5), &routes[..1]).await.unwrap();
    fixture.show(2, 5);
    let error = fixture.manager.attach(&cx(), &expect(&fixture, 2, 5), &routes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    let left = fixture.node.inventory();
    assert_eq!((left.legs.len(), left.maps.len()), (1, 1), "{left:?}");
    let retired = fixture.manager.retire(&cx(), &known(&fixture, 1, 5)).await.unwrap();
    fixture.manager.bury(&cx(), &retired).await.unwrap();
    let device = fixture.manager.attach(&cx(), &expect(&fixture, 2, 5), &routes).await.unwrap();
    assert_eq!(device.legs.len(), routes.len());
}

/// 53: a map that an old multipathd left suspended is resumed, not waited on for ever.
#[tokio::test(start_paused = true)]
async fn a_suspended_map_is_resumed() {
    let (fixture, device) = attached(spec()).await;
    assert!(fixture.node.suspend(&device.identity.wwid.multipath_name(), Suspension::Suspended));
    let start = tokio::time::Instant::now();
    let again = fixture.manager.attach(&cx(), &expect(&fixture, 1, 5), &fixture.routes()).await.unwrap();
    assert_eq!(again.identity, device.identity);
    assert!(start.elapsed() < Duration::from_secs(30));
    assert!(fixture.node.inventory().maps.iter().all(|it| !it.is_suspended));
    let commands = fixture.node.logged(LogKind::Socket);
    assert!(commands.iter().any(|it| it.starts_with("resume map")), "{commands:?}");
}

/// 75: with three hundred other volumes on the node an attach asks for no more.
#[tokio::test(start_paused = true)]
async fn an_attach_does_not_grow_with_the_node() {
    let fixture = Fixture::on(spec()).await;
    for n in 20..60 {
        fixture.show(n, n.into());
        fixture.manager.attach(&cx(), &expect(&fixture, n, n.into()), &fixture.routes()).await.unwrap();
    }
    fixture.node.forget_log();
    let before = fixture.node.counters();
    fixture.show(1, 5);
    fixture.manager.attach(&cx(), &expect(&fixture, 1, 5), &fixture.routes()).await.unwrap();
    let after = fixture.node.counters();
    assert_eq!(fixture.node.logged(LogKind::Inquiry).len(), 2 * portals().len());
    assert_eq!(fixture.node.logged(LogKind::Socket).len(), portals().len() + 1);
    assert_eq!(after.writes - before.writes, portals().len() as u64);
}

/// A daemon that was restarted since the last command: the kept connection is broken and is replaced unnoticed.
#[tokio::test(start_paused = true)]
async fn a_restarted_daemon_is_reconnected_to() {
    let (fixture, _) = attached(spec()).await;
    fixture.stop_daemon();
    fixture.start_daemon();
    let retired = fixture.manager.retire(&cx(), &known(&fixture, 1, 5)).await.unwrap();
    fixture.hide(5);
    fixture.stop_daemon();
    // Nobody lists the legs while the daemon is down: the burial does not need it.
    fixture.manager.bury(&cx(), &retired).await.unwrap();
    assert_eq!(fixture.legs(), [""; 0]);
}

/// A mount that hides behind a leg's own number stops a retirement too.
#[tokio::test(start_paused = true)]
async fn a_leg_that_is_mounted_itself_is_in_use() {
    let (fixture, device) = attached(spec()).await;
    let leg = Path::new("/dev").join(&device.legs[0].name);
    fixture.node.mount(&leg, Path::new("/mnt")).unwrap();
    let error = fixture.manager.retire(&cx(), &known(&fixture, 1, 5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(matches!(fixture.manager.usage(&cx(), &device).await.unwrap(), san_core::Usage::InUse(_)));
}

/// 23: a portal died a moment ago and its session does not know yet: the scan of it hangs, and nobody waits for it.
#[tokio::test(start_paused = true)]
async fn a_road_that_died_unnoticed_delays_little() {
    let fixture = Fixture::on(spec()).await;
    fixture.show(1, 5);
    fixture.node.partition(portals()[0]);
    let start = tokio::time::Instant::now();
    let device = fixture.manager.attach(&cx(), &expect(&fixture, 1, 5), &fixture.routes()).await.unwrap();
    assert_eq!((device.legs.len(), device.missing.len()), (portals().len() - 1, 1));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

/// 75: waits that take long do not keep the processor busy, and are over soon after what they wait for.
#[tokio::test(start_paused = true)]
async fn a_long_wait_looks_more_and_more_seldom() {
    let (fixture, _) = attached(spec()).await;
    let guard = san_host::Guard::new(std::sync::Arc::new(fixture.node.clone()));
    let (looks, started) = (AtomicUsize::new(0), Instant::now());
    let pause = Duration::from_millis(20);
    let cx = cx();
    let wait = guard.wait_for(&cx, "waiting", pause, || async {
        looks.fetch_add(1, Ordering::Relaxed);
        Ok((started.elapsed() >= Duration::from_secs(10)).then_some(()))
    });
    wait.await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(11_050), "{:?}", started.elapsed());
    let looks = looks.into_inner();
    assert!((30..60).contains(&looks), "{looks} looks");
}
