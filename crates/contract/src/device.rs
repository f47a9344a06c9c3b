//! The contract of [`DeviceManager`]: one function per clause, and [`device_contract!`](crate::device_contract), which
//! turns them into tests of one implementation. Numbers in comments are the scenarios of the host facts.

#![expect(clippy::unwrap_used, reason = "a clause that is not met panics; that is how it says so")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use san_core::{
    ByteSize, Cx, Deadline, Device, DeviceManager, Effects, Error, ErrorKind, Expected, Hctl, Holder,
    Identity, KnownLegs, Lun, OperationId, Retired, Route, Usage,
};
use tokio::time::Instant;

/// How a device can be in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Opened, as by a running guest.
    Handle,
    /// A mounted file system.
    Mount,
    /// Swap.
    Swap,
    /// A device stacked on it.
    Stack,
}

/// How a volume's identity pages are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Garble {
    /// It names no identifier.
    NoWwid,
    /// It names no serial number.
    NoSerial,
    /// It has the identifier of volume `.0` and a serial number of its own.
    WwidOf(u8),
}

/// One node with sessions to every port of an array, and what happens around them. Volumes are told apart by small
/// numbers; each is 64 MiB until it is resized and is shown nowhere until it is asked for.
pub trait DeviceFixture: Send + Sync {
    /// The implementation.
    fn manager(&self) -> &dyn DeviceManager;

    /// A route to every port of the array: at least three.
    fn routes(&self) -> Vec<Route>;

    /// What volume `n` says of itself.
    fn identity(&self, n: u8) -> Identity;

    /// Breaks what volume `n` says of itself.
    fn garble(&self, n: u8, how: Garble);

    /// The array shows volume `n` as `lun` behind every port.
    fn show(&self, n: u8, lun: u16);

    /// The array shows volume `n` as `lun` behind one port only.
    fn show_behind(&self, route: &Route, n: u8, lun: u16);

    /// The array shows nothing as `lun` any more, behind any port.
    fn hide(&self, lun: u16);

    /// The array gives volume `n` another size.
    fn resize(&self, n: u8, size: ByteSize);

    /// The first bytes of volume `n` on the array.
    fn bytes(&self, n: u8, length: usize) -> Vec<u8>;

    /// The road to a port is cut until the node has noticed.
    fn cut(&self, route: &Route) -> impl Future<Output = ()> + Send;

    /// It is mended, and the node has noticed.
    fn mend(&self, route: &Route) -> impl Future<Output = ()> + Send;

    /// The session with a port breaks and comes back at once; done when it is back.
    fn bounce(&self, route: &Route) -> impl Future<Output = ()> + Send;

    /// The unit behind one leg stops answering.
    fn hang(&self, leg: Hctl);

    /// Uses the device until the answer is dropped.
    fn take_into_use(&self, device: &Path, how: Use) -> Box<dyn Send>;

    /// Makes an unused partition's map on the device of volume `n`; done when the system has looked at it.
    fn partition(&self, n: u8) -> impl Future<Output = ()> + Send;

    /// Whether the multipath daemon makes maps of whatever appears, without being asked.
    fn maps_come_by_themselves(&self) -> bool;

    /// Removes the map of volume `n` by other means.
    fn remove_map(&self, n: u8) -> impl Future<Output = ()> + Send;

    /// Scans everything, as another tool would, and waits for what comes of it.
    fn scan_everything(&self) -> impl Future<Output = ()> + Send;

    /// Writes at the start of a device, past the cache.
    fn write(&self, device: &Path, bytes: &[u8]) -> impl Future<Output = ()> + Send;

    /// Reads from the start of a device, past the cache.
    fn read(&self, device: &Path, length: usize) -> impl Future<Output = Vec<u8>> + Send;

    /// Stops the multipath daemon.
    fn stop_daemon(&self);

    /// Makes it take commands without answering.
    fn hang_daemon(&self);

    /// Makes it answer that it is busy for so long.
    fn delay_daemon(&self, span: Duration);

    /// Starts it, or wakes it.
    fn start_daemon(&self);

    /// Stops udev.
    fn stop_udev(&self);

    /// Starts it.
    fn start_udev(&self);

    /// How long a disk takes to appear after a scan.
    fn slow_disks(&self, span: Duration);

    /// Every SCSI device of the node.
    fn legs(&self) -> Vec<String>;

    /// Every device-mapper map of the node.
    fn maps(&self) -> Vec<String>;

    /// Every write to the kernel and every change asked of the multipath daemon so far.
    fn changes(&self) -> Vec<String>;

    /// How many programs were started so far.
    fn processes(&self) -> u64;
}

/// Makes one test of each clause. `$fixture` is an expression that gives a future of a [`DeviceFixture`].
#[macro_export]
macro_rules! device_contract {
    ($fixture:expr) => {
        $crate::device_contract!(@each $fixture;
            attaching_gives_the_volume_over_every_route,
            attaching_again_changes_nothing,
            attaching_rebuilds_a_map_over_its_legs,
            a_late_disk_is_waited_for,
            a_late_mapping_is_scanned_for_again,
            nothing_at_the_address_is_a_bounded_not_found,
            no_route_is_unavailable,
            stale_legs_of_another_volume_are_replaced,
            a_swap_under_an_open_map_is_found_and_refused,
            equal_identifiers_with_other_serials_are_refused,
            an_empty_identity_is_refused,
            one_wrong_leg_is_left_out_and_told,
            only_other_volumes_is_an_identity_mismatch,
            flat_addressing_is_refused_by_name,
            another_size_than_the_array_says_is_refused,
            a_stopped_udev_is_named_and_forgiven,
            a_stopped_daemon_is_named_and_forgiven,
            a_hung_daemon_is_bounded_and_forgiven,
            a_busy_daemon_is_asked_again,
            a_missing_road_is_told_and_completed_later,
            a_leg_that_never_answers_is_left_out,
            parallel_attaches_keep_apart,
            the_same_volume_attached_twice_at_once_is_one_map,
            all_roads_lost_is_still_a_device,
            everybody_who_uses_it_is_named_and_stops_a_retire,
            an_unused_partition_does_not_count,
            retired_and_buried_leaves_nothing,
            a_full_scan_brings_nothing_back,
            a_bounce_between_the_steps_brings_nothing_back,
            a_retired_volume_comes_back_when_asked,
            every_step_can_be_repeated,
            a_half_retired_volume_can_be_retired,
            an_idle_map_without_roads_is_retired_quickly,
            an_unmap_by_others_can_be_cleaned_up,
            a_device_closed_in_a_moment_is_waited_for,
            an_address_given_to_another_volume_is_left_alone,
            bystanders_are_not_touched,
            growing_reaches_every_leg_and_the_map,
            growing_works_with_a_road_missing,
            shrinking_is_refused,
            occupied_numbers_are_told,
            flushing_works,
        );
    };
    (@each $fixture:expr; $($clause:ident,)+) => {
        $(
            #[::tokio::test(start_paused = true)]
            async fn $clause() {
                let fixture = $fixture.await;
                let before = $crate::device::DeviceFixture::processes(&fixture);
                $crate::device::$clause(&fixture).await;
                $crate::device::assert_modest(&fixture, before);
            }
        )+
    };
}

const SIZE: ByteSize = ByteSize::from_mib(64);

fn cx() -> Cx {
    Cx::new(Deadline::after(Duration::from_secs(120)), OperationId::random(), Effects::unobserved())
}

fn lun(number: u16) -> Lun {
    Lun::new(number).unwrap()
}

fn expect(fixture: &impl DeviceFixture, n: u8, number: u16) -> Expected {
    Expected { identity: fixture.identity(n), size: SIZE, lun: lun(number) }
}

fn addresses(fixture: &impl DeviceFixture, number: u16) -> Vec<Hctl> {
    let routes = fixture.routes();
    let at = |it: &Route| match it {
        Route::Scsi { host, channel, target, .. } => {
            Some(Hctl { host: *host, channel: *channel, target: *target, lun: lun(number) })
        }
        _ => None,
    };
    routes.iter().filter_map(at).collect()
}

fn known(fixture: &impl DeviceFixture, n: u8, number: u16) -> KnownLegs {
    KnownLegs { identity: fixture.identity(n), lun: lun(number), addresses: addresses(fixture, number) }
}

async fn try_attach(fixture: &impl DeviceFixture, n: u8, number: u16) -> Result<Device, Error> {
    fixture.manager().attach(&cx(), &expect(fixture, n, number), &fixture.routes()).await
}

async fn attach(fixture: &impl DeviceFixture, n: u8, number: u16) -> Device {
    fixture.show(n, number);
    try_attach(fixture, n, number).await.unwrap()
}

async fn retire(fixture: &impl DeviceFixture, n: u8, number: u16) -> Retired {
    fixture.manager().retire(&cx(), &known(fixture, n, number)).await.unwrap()
}

async fn bury(fixture: &impl DeviceFixture, retired: &Retired) {
    fixture.manager().bury(&cx(), retired).await.unwrap();
}

async fn detach(fixture: &impl DeviceFixture, n: u8, number: u16) {
    let retired = retire(fixture, n, number).await;
    fixture.hide(number);
    bury(fixture, &retired).await;
}

/// The device carries volume `n` and no other.
async fn assert_carries(fixture: &impl DeviceFixture, device: &Device, n: u8) {
    assert_eq!(device.identity, fixture.identity(n));
    let text = format!("volume {n} at {:?}", device.number).into_bytes();
    let block = [text, vec![0; 4096]].concat()[..4096].to_vec();
    fixture.write(&device.path, &block).await;
    assert_eq!(fixture.bytes(n, 4096), block);
    assert_eq!(fixture.read(&device.path, 4096).await, block);
}

fn assert_empty(fixture: &impl DeviceFixture) {
    assert_eq!(fixture.maps(), [""; 0]);
    assert_eq!(fixture.legs(), [""; 0]);
}

/// Whatever a clause did: no program ran, and every change was aimed at one LUN, one leg or one map.
pub fn assert_modest(fixture: &impl DeviceFixture, processes: u64) {
    assert_eq!(fixture.processes(), processes, "a device manager starts no program");
    for change in fixture.changes() {
        let words: Vec<_> = change.split_whitespace().collect();
        let is_number = |it: &&str| it.parse::<u32>().is_ok();
        let is_modest = match words.as_slice() {
            [path, target @ ..] if path.ends_with("/scan") => {
                target.len() == 3 && target.iter().all(is_number)
            }
            [path, value] if path.starts_with("/sys/") => {
                let attribute = path.rsplit('/').next().unwrap_or_default();
                matches!((attribute, *value), ("rescan" | "delete", "1") | ("state", "running" | "offline"))
            }
            ["add" | "del" | "resize" | "resume", "map", name] => name.starts_with("36"),
            ["add" | "del", "path", name] => name.starts_with("sd"),
            _ => false,
        };
        assert!(is_modest, "not aimed at one thing: {change}");
    }
}

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
    let seen =
        fixture.manager().inspect(&cx(), &expect(fixture, 1, 5), &fixture.routes()).await.unwrap().unwrap();
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

/// 21: the legs are there and the map was removed; no event would bring it back.
pub async fn attaching_rebuilds_a_map_over_its_legs(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    fixture.remove_map(1).await;
    let absent = fixture.manager().inspect(&cx(), &expect(fixture, 1, 5), &fixture.routes()).await.unwrap();
    assert!(absent.is_none());
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_eq!(device.legs.len(), fixture.routes().len());
    assert_carries(fixture, &device, 1).await;
}

/// 16.
pub async fn a_late_disk_is_waited_for(fixture: &impl DeviceFixture) {
    fixture.slow_disks(Duration::from_millis(900));
    let device = attach(fixture, 1, 5).await;
    assert_eq!(device.legs.len(), fixture.routes().len());
}

/// 17: the array's mapping takes effect two seconds after it was promised.
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
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_empty(fixture);
    assert!(
        fixture.manager().inspect(&cx(), &expect(fixture, 1, 5), &fixture.routes()).await.unwrap().is_none()
    );
}

/// 24: without any session nothing is tried.
pub async fn no_route_is_unavailable(fixture: &impl DeviceFixture) {
    fixture.show(1, 5);
    let error = fixture.manager().attach(&cx(), &expect(fixture, 1, 5), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(fixture.changes(), [""; 0]);
}

/// 1, 2: the LUN number was given to another volume while the legs of the old one stayed.
pub async fn stale_legs_of_another_volume_are_replaced(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    fixture.remove_map(1).await;
    fixture.hide(5);
    let device = attach(fixture, 2, 5).await;
    assert_eq!(device.legs.len(), fixture.routes().len());
    assert_carries(fixture, &device, 2).await;
    assert!(
        fixture.manager().inspect(&cx(), &expect(fixture, 1, 5), &fixture.routes()).await.unwrap().is_none()
    );
}

/// 2, 3: the swap happens under a map that a guest has open: nobody is told by the kernel.
pub async fn a_swap_under_an_open_map_is_found_and_refused(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    fixture.hide(5);
    fixture.show(2, 5);
    let (legs, maps) = (fixture.legs(), fixture.maps());
    let error = try_attach(fixture, 2, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    let error =
        fixture.manager().inspect(&cx(), &expect(fixture, 1, 5), &fixture.routes()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    let error = try_attach(fixture, 1, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    assert_eq!((fixture.legs(), fixture.maps()), (legs, maps), "nothing under a holder is touched");
    drop(in_use);
}

/// 4: two volumes with one identifier; the daemon would merge them into one map.
pub async fn equal_identifiers_with_other_serials_are_refused(fixture: &impl DeviceFixture) {
    fixture.garble(2, Garble::WwidOf(1));
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    fixture.show(2, 6);
    let mut wanted = expect(fixture, 2, 6);
    wanted.identity.wwid = fixture.identity(1).wwid;
    let answer = fixture.manager().attach(&cx(), &wanted, &fixture.routes()).await;
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    drop(in_use);
}

/// 5.
pub async fn an_empty_identity_is_refused(fixture: &impl DeviceFixture) {
    let wanted = [expect(fixture, 1, 5), expect(fixture, 2, 6)];
    fixture.garble(1, Garble::NoWwid);
    fixture.garble(2, Garble::NoSerial);
    fixture.show(1, 5);
    fixture.show(2, 6);
    for expect in wanted {
        let error = fixture.manager().attach(&cx(), &expect, &fixture.routes()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    }
    // A daemon that takes every path holds them for the volumes it believes in.
    if !fixture.maps_come_by_themselves() {
        assert_empty(fixture);
    }
}

/// 7: one port shows another volume at the address.
pub async fn one_wrong_leg_is_left_out_and_told(fixture: &impl DeviceFixture) {
    let routes = fixture.routes();
    fixture.show(1, 5);
    fixture.show_behind(&routes[0], 2, 5);
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_eq!(device.legs.len(), routes.len() - 1);
    assert_eq!(device.missing.len(), 1);
    assert_eq!(device.missing[0].route, routes[0]);
    assert_eq!(device.missing[0].error.kind(), ErrorKind::IdentityMismatch);
    assert_carries(fixture, &device, 1).await;
    assert_eq!(fixture.legs().len(), routes.len() - 1, "what was scanned in by mistake is gone again");
}

/// 1: the array shows somebody else there, whatever it told us.
pub async fn only_other_volumes_is_an_identity_mismatch(fixture: &impl DeviceFixture) {
    fixture.show(2, 5);
    let error = try_attach(fixture, 1, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    assert_empty(fixture);
}

/// 13.
pub async fn flat_addressing_is_refused_by_name(fixture: &impl DeviceFixture) {
    fixture.show(1, 300);
    let error = try_attach(fixture, 1, 300).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("300"), "{error:?}");
}

/// The size is part of what is expected.
pub async fn another_size_than_the_array_says_is_refused(fixture: &impl DeviceFixture) {
    fixture.show(1, 5);
    let wanted = Expected { size: ByteSize::from_mib(32), ..expect(fixture, 1, 5) };
    let error = fixture.manager().attach(&cx(), &wanted, &fixture.routes()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(fixture.maps_come_by_themselves() || fixture.maps().is_empty());
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
}

/// 18.
pub async fn a_stopped_udev_is_named_and_forgiven(fixture: &impl DeviceFixture) {
    fixture.stop_udev();
    fixture.show(1, 5);
    let start = Instant::now();
    let error = try_attach(fixture, 1, 5).await.unwrap_err();
    assert!(error.chain().to_string().contains("systemd-udevd"), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(30));
    fixture.start_udev();
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_carries(fixture, &device, 1).await;
}

/// 19: stopped.
pub async fn a_stopped_daemon_is_named_and_forgiven(fixture: &impl DeviceFixture) {
    fixture.stop_daemon();
    fixture.show(1, 5);
    let error = try_attach(fixture, 1, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.remedy().is_some_and(|it| it.contains("systemctl start multipathd")), "{error:?}");
    fixture.start_daemon();
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_carries(fixture, &device, 1).await;
    // A healthy device does not need it.
    fixture.stop_daemon();
    try_attach(fixture, 1, 5).await.unwrap();
    fixture.start_daemon();
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
}

/// 19: hung.
pub async fn a_hung_daemon_is_bounded_and_forgiven(fixture: &impl DeviceFixture) {
    fixture.hang_daemon();
    fixture.show(1, 5);
    let start = Instant::now();
    let error = try_attach(fixture, 1, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(error.chain().to_string().contains("multipathd"), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(60));
    fixture.start_daemon();
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_carries(fixture, &device, 1).await;
}

/// 20: it answers `timeout` for eleven seconds, as seen while a path check blocks.
pub async fn a_busy_daemon_is_asked_again(fixture: &impl DeviceFixture) {
    fixture.delay_daemon(Duration::from_secs(11));
    let device = attach(fixture, 1, 5).await;
    fixture.delay_daemon(Duration::from_secs(5));
    assert_eq!(device.legs.len(), fixture.routes().len());
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
}

/// 22: one road is missing; the device works, and the next attach completes it without a new one.
pub async fn a_missing_road_is_told_and_completed_later(fixture: &impl DeviceFixture) {
    let routes = fixture.routes();
    fixture.show(1, 5);
    let wanted = expect(fixture, 1, 5);
    let first = fixture.manager().attach(&cx(), &wanted, &routes[1..]).await.unwrap();
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

/// 49, 50: a leg takes commands and answers none.
pub async fn a_leg_that_never_answers_is_left_out(fixture: &impl DeviceFixture) {
    let routes = fixture.routes();
    fixture.hang(addresses(fixture, 5)[0]);
    fixture.show(1, 5);
    let start = Instant::now();
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_eq!((device.legs.len(), device.missing.len()), (routes.len() - 1, 1));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert_carries(fixture, &device, 1).await;
    fixture.show(2, 6);
    let start = Instant::now();
    assert_eq!(
        try_attach(fixture, 2, 6).await.unwrap().legs.len(),
        routes.len(),
        "other devices do not notice"
    );
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// 28, 15.
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

/// 29.
pub async fn the_same_volume_attached_twice_at_once_is_one_map(fixture: &impl DeviceFixture) {
    fixture.show(1, 5);
    let (a, b) = tokio::join!(try_attach(fixture, 1, 5), try_attach(fixture, 1, 5));
    assert_eq!(a.unwrap().number, b.unwrap().number);
    assert_eq!(fixture.maps().len(), 1);
    assert_eq!(fixture.legs().len(), fixture.routes().len());
}

/// 45, 79: a map without any active path is a device with queued requests, not a leftover.
pub async fn all_roads_lost_is_still_a_device(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    for route in fixture.routes() {
        fixture.cut(&route).await;
    }
    let seen =
        fixture.manager().inspect(&cx(), &expect(fixture, 1, 5), &fixture.routes()).await.unwrap().unwrap();
    assert_eq!(
        (seen.number, seen.legs.len(), seen.missing.len()),
        (device.number, 0, fixture.routes().len())
    );
    assert!(matches!(fixture.manager().usage(&cx(), &seen).await.unwrap(), Usage::InUse(_)));
    let error = fixture.manager().retire(&cx(), &known(fixture, 1, 5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    for route in fixture.routes() {
        fixture.mend(&route).await;
    }
    assert_carries(fixture, &try_attach(fixture, 1, 5).await.unwrap(), 1).await;
    drop(in_use);
}

/// 61: whoever uses it is named, and nothing is changed.
pub async fn everybody_who_uses_it_is_named_and_stops_a_retire(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    assert_eq!(fixture.manager().usage(&cx(), &device).await.unwrap(), Usage::Idle);
    for how in [Use::Handle, Use::Mount, Use::Swap, Use::Stack] {
        let in_use = fixture.take_into_use(&device.path, how);
        let before = fixture.changes();
        let usage = fixture.manager().usage(&cx(), &device).await.unwrap();
        let Usage::InUse(holders) = usage else { panic!("{how:?} is not seen") };
        let is_named = match (how, holders.as_slice()) {
            (Use::Handle, [Holder::Openers(1)]) | (Use::Swap, [Holder::Swap]) => true,
            (Use::Mount, [Holder::Mount(path)]) => *path != PathBuf::new(),
            (Use::Stack, [Holder::Device(name)]) => name.starts_with("dm-"),
            _ => false,
        };
        assert!(is_named, "{how:?}: {holders:?}");
        let error = fixture.manager().retire(&cx(), &known(fixture, 1, 5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{how:?}: {error:?}");
        assert!(error.message().contains(&holders[0].to_string()), "{error:?}");
        assert_eq!(fixture.changes(), before, "{how:?}");
        drop(in_use);
        assert_eq!(fixture.manager().usage(&cx(), &device).await.unwrap(), Usage::Idle, "after {how:?}");
    }
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
}

/// 61, 74: a partition's map that nobody uses goes with the map.
pub async fn an_unused_partition_does_not_count(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    fixture.partition(1).await;
    assert_eq!(fixture.manager().usage(&cx(), &device).await.unwrap(), Usage::Idle);
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
        assert!(fixture.manager().usage(&cx(), &device).await.is_err(), "unknown is not idle");
    }
}

/// 57, 76: another tool scans everything between the steps.
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

/// 57b: a session bounces between the steps, which sets offline legs running.
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

/// 58: the array would not unmap; the volume comes back as it was.
pub async fn a_retired_volume_comes_back_when_asked(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    assert_carries(fixture, &device, 1).await;
    retire(fixture, 1, 5).await;
    let wanted = expect(fixture, 1, 5);
    let back = fixture.manager().revive(&cx(), &wanted, &fixture.routes()).await.unwrap();
    assert_eq!((back.legs.len(), back.path), (fixture.routes().len(), device.path));
    assert_carries(fixture, &try_attach(fixture, 1, 5).await.unwrap(), 1).await;
    // The number was given away instead.
    retire(fixture, 1, 5).await;
    fixture.hide(5);
    fixture.show(2, 5);
    let error = fixture.manager().revive(&cx(), &wanted, &fixture.routes()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    assert_eq!(fixture.maps(), [""; 0]);
}

/// 59: a step that was done is done again without harm.
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

/// 59: killed between the map and the legs, or before any of it was built.
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

/// 46: no road is left and nobody uses it.
pub async fn an_idle_map_without_roads_is_retired_quickly(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    for route in fixture.routes() {
        fixture.cut(&route).await;
    }
    let start = Instant::now();
    let retired = retire(fixture, 1, 5).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    fixture.hide(5);
    bury(fixture, &retired).await;
    assert_empty(fixture);
}

/// 60: somebody unmapped the volume on the array under us.
pub async fn an_unmap_by_others_can_be_cleaned_up(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    fixture.hide(5);
    let start = Instant::now();
    let retired = retire(fixture, 1, 5).await;
    bury(fixture, &retired).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_empty(fixture);
}

/// 65: a worker of the system has it open for a moment.
pub async fn a_device_closed_in_a_moment_is_waited_for(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    let closing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(in_use);
    };
    let what = known(fixture, 1, 5);
    let cx = cx();
    let (retired, ()) = tokio::join!(fixture.manager().retire(&cx, &what), closing);
    fixture.hide(5);
    bury(fixture, &retired.unwrap()).await;
    assert_empty(fixture);
}

/// 1: the number belongs to another volume, attached, by the time the burial is repeated.
pub async fn an_address_given_to_another_volume_is_left_alone(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    let retired = retire(fixture, 1, 5).await;
    fixture.hide(5);
    bury(fixture, &retired).await;
    let other = attach(fixture, 2, 5).await;
    let in_use = fixture.take_into_use(&other.path, Use::Handle);
    bury(fixture, &retired).await;
    assert_eq!(retire(fixture, 1, 5).await.legs, []);
    assert_carries(fixture, &other, 2).await;
    assert_eq!(try_attach(fixture, 2, 5).await.unwrap().legs.len(), fixture.routes().len());
    drop(in_use);
}

/// 43, 62: another volume behind the same sessions notices nothing.
pub async fn bystanders_are_not_touched(fixture: &impl DeviceFixture) {
    let other = attach(fixture, 9, 40).await;
    let in_use = fixture.take_into_use(&other.path, Use::Handle);
    assert_carries(fixture, &other, 9).await;
    let before = fixture.changes().len();
    attach(fixture, 1, 5).await;
    detach(fixture, 1, 5).await;
    for change in &fixture.changes()[before..] {
        let wwid = other.identity.wwid.multipath_name();
        let touches = change.contains(":40/") || change.contains(" 40") || change.contains(&wwid);
        assert!(!touches, "{change}");
        assert!(!other.legs.iter().any(|leg| change.ends_with(&format!(" {}", leg.name))), "{change}");
    }
    assert_eq!(fixture.legs().len(), other.legs.len());
    assert_carries(fixture, &other, 9).await;
    drop(in_use);
}

/// 69, 71: while a guest has it open.
pub async fn growing_reaches_every_leg_and_the_map(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    let size = ByteSize::from_mib(96);
    fixture.resize(1, size);
    let wanted = Expected { size, ..expect(fixture, 1, 5) };
    for _ in 0..2 {
        let grown = fixture.manager().grow(&cx(), &wanted, &fixture.routes()).await.unwrap();
        assert_eq!(
            (grown.size, grown.number, grown.legs.len()),
            (size, device.number, fixture.routes().len())
        );
    }
    let seen = fixture.manager().attach(&cx(), &wanted, &fixture.routes()).await.unwrap();
    assert_eq!(seen.size, size);
    drop(in_use);
    let missing = fixture.manager().grow(&cx(), &expect(fixture, 2, 6), &fixture.routes()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

/// 70: the leg that could not grow is left out, told, and taken back when it is there again.
pub async fn growing_works_with_a_road_missing(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    let routes = fixture.routes();
    fixture.cut(&routes[0]).await;
    let size = ByteSize::from_mib(96);
    fixture.resize(1, size);
    let wanted = Expected { size, ..expect(fixture, 1, 5) };
    let grown = fixture.manager().grow(&cx(), &wanted, &routes).await.unwrap();
    assert_eq!((grown.size, grown.legs.len(), grown.missing.len()), (size, routes.len() - 1, 1));
    fixture.mend(&routes[0]).await;
    let whole = fixture.manager().attach(&cx(), &wanted, &routes).await.unwrap();
    assert_eq!((whole.size, whole.legs.len(), whole.number), (size, routes.len(), device.number));
    drop(in_use);
}

/// 72: neither on request nor because the array did.
pub async fn shrinking_is_refused(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let smaller = ByteSize::from_mib(32);
    let wanted = Expected { size: smaller, ..expect(fixture, 1, 5) };
    let error = fixture.manager().grow(&cx(), &wanted, &fixture.routes()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    fixture.resize(1, smaller);
    let error = fixture
        .manager()
        .grow(&cx(), &Expected { size: ByteSize::from_mib(96), ..wanted }, &fixture.routes())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    let seen =
        fixture.manager().inspect(&cx(), &expect(fixture, 1, 5), &fixture.routes()).await.unwrap().unwrap();
    assert_eq!((seen.size, seen.number), (SIZE, device.number));
}

/// Numbers that have a leg, whoever it belongs to.
pub async fn occupied_numbers_are_told(fixture: &impl DeviceFixture) {
    assert_eq!(fixture.manager().occupied(&cx(), &fixture.routes()).await.unwrap(), []);
    attach(fixture, 1, 5).await;
    attach(fixture, 2, 17).await;
    let retired = retire(fixture, 2, 17).await;
    let occupied = fixture.manager().occupied(&cx(), &fixture.routes()).await.unwrap();
    assert_eq!(occupied, [lun(5), lun(17)], "a retired leg still occupies its number");
    assert_eq!(fixture.manager().occupied(&cx(), &[]).await.unwrap(), []);
    fixture.hide(17);
    bury(fixture, &retired).await;
    assert_eq!(fixture.manager().occupied(&cx(), &fixture.routes()).await.unwrap(), [lun(5)]);
}

/// Flushing is for attached devices only.
pub async fn flushing_works(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    fixture.manager().flush(&cx(), &device).await.unwrap();
    detach(fixture, 1, 5).await;
    let error = fixture.manager().flush(&cx(), &device).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
