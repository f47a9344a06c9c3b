//! The contract of [`DeviceManager`]: one function per clause, and [`device_contract!`](crate::device_contract), which
//! turns them into tests of one implementation.

#![expect(clippy::unwrap_used, reason = "a clause that is not met panics; that is how it says so")]

mod attach;
mod daemons;
mod detach;
mod grow;
mod identity;
mod waiting;

use std::path::Path;
use std::time::Duration;

use san_core::{
    ByteSize, Cx, Deadline, Device, DeviceManager, Effects, Error, Expected, Hctl, Identity, KnownLegs, Lun,
    OperationId, Retired, Route,
};

pub use attach::*;
pub use daemons::*;
pub use detach::*;
pub use grow::*;
pub use identity::*;
pub use waiting::*;

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

    /// How many times longer than on real hardware anything may take here: every time bound of a clause is multiplied by
    /// it, and nothing else changes. More than 1 only where a processor is emulated.
    fn slowness(&self) -> u32 {
        1
    }
}

/// Hands every clause, with the failure scenarios it shows, to another macro: `!([callback] with)` becomes
/// `callback! { with clause ["scenario", ...], ... }`. The one list of the clauses there is.
#[macro_export]
macro_rules! device_clauses {
    ([$($callback:tt)+] $with:tt) => {
        $($callback)+! { $with
            attaching_gives_the_volume_over_every_route [],
            attaching_again_changes_nothing [],
            attaching_rebuilds_a_map_over_its_legs ["21"],
            a_late_disk_is_waited_for ["16"],
            a_late_mapping_is_scanned_for_again ["17"],
            nothing_at_the_address_is_a_bounded_not_found [],
            no_route_is_unavailable ["24"],
            stale_legs_of_another_volume_are_replaced ["1", "2"],
            a_swap_under_an_open_map_is_found_and_refused ["2", "3"],
            equal_identifiers_with_other_serials_are_refused ["4"],
            an_empty_identity_is_refused ["5"],
            what_says_nothing_is_left_alone [],
            one_wrong_leg_is_left_out_and_told ["7"],
            only_other_volumes_is_an_identity_mismatch ["1"],
            flat_addressing_is_refused_by_name ["13"],
            another_size_than_the_array_says_is_refused [],
            a_stopped_udev_is_named_and_forgiven ["18"],
            a_stopped_daemon_is_named_and_forgiven ["19"],
            a_hung_daemon_is_bounded_and_forgiven ["19"],
            a_busy_daemon_is_asked_again ["20"],
            a_missing_road_is_told_and_completed_later ["22"],
            a_leg_that_never_answers_is_left_out ["49", "50"],
            parallel_attaches_keep_apart ["28", "15"],
            the_same_volume_attached_twice_at_once_is_one_map ["29"],
            all_roads_lost_is_still_a_device ["45", "79"],
            everybody_who_uses_it_is_named_and_stops_a_retire ["61"],
            an_unused_partition_does_not_count ["61", "74"],
            retired_and_buried_leaves_nothing [],
            a_full_scan_brings_nothing_back ["57", "76"],
            a_bounce_between_the_steps_brings_nothing_back ["57b"],
            a_retired_volume_comes_back_when_asked ["58"],
            every_step_can_be_repeated ["59"],
            a_half_retired_volume_can_be_retired ["59"],
            an_idle_map_without_roads_is_retired_quickly ["46"],
            an_unmap_by_others_can_be_cleaned_up ["60"],
            a_device_closed_in_a_moment_is_waited_for ["65"],
            an_address_given_to_another_volume_is_left_alone ["1"],
            bystanders_are_not_touched ["43", "62"],
            growing_reaches_every_leg_and_the_map ["69", "71"],
            growing_works_with_a_road_missing ["70"],
            shrinking_is_refused ["72"],
            occupied_numbers_are_told [],
            flushing_works [],
            losing_every_road_is_told ["45"],
            waiting_ends_for_one_device_and_is_given_back ["45"],
            a_volume_taken_away_is_denied ["1"],
        }
    };
}

/// Makes one test of each clause, on a paused clock. `$fixture` is an expression that gives a future of a
/// [`DeviceFixture`](crate::device::DeviceFixture).
#[macro_export]
macro_rules! device_contract {
    ((@each $fixture:expr) $($clause:ident [$($scenario:literal),*],)+) => {
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
    ($fixture:expr) => {
        $crate::device_clauses!([$crate::device_contract] (@each $fixture));
    };
}

const SIZE: ByteSize = ByteSize::from_mib(64);

/// `span`, or as much longer as the machine is slower.
fn at_most(fixture: &impl DeviceFixture, span: Duration) -> Duration {
    span * fixture.slowness()
}

fn cx(fixture: &impl DeviceFixture) -> Cx {
    Cx::new(
        Deadline::after(at_most(fixture, Duration::from_secs(120))),
        OperationId::random(),
        Effects::unobserved(),
    )
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
    fixture.manager().attach(&cx(fixture), &expect(fixture, n, number), &fixture.routes()).await
}

async fn attach(fixture: &impl DeviceFixture, n: u8, number: u16) -> Device {
    fixture.show(n, number);
    try_attach(fixture, n, number).await.unwrap()
}

async fn retire(fixture: &impl DeviceFixture, n: u8, number: u16) -> Retired {
    fixture.manager().retire(&cx(fixture), &known(fixture, n, number)).await.unwrap()
}

async fn bury(fixture: &impl DeviceFixture, retired: &Retired) {
    fixture.manager().bury(&cx(fixture), retired).await.unwrap();
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
            ["add" | "del" | "resize" | "resume" | "disablequeueing" | "restorequeueing", "map", name] => {
                name.starts_with("36")
            }
            ["add" | "del", "path", name] => name.starts_with("sd"),
            _ => false,
        };
        assert!(is_modest, "not aimed at one thing: {change}");
    }
}
