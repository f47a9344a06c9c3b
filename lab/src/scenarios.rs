//! The failure scenarios over iSCSI, by number: what each is, and which tests without a kernel hold it as well. A run of
//! the lab gives a verdict on every number, or it has failed.

use crate::verdict::{Outcome, Verdict};

/// A test that needs no kernel: the file it is in, below the workspace's folder, and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// The file.
    pub file: &'static str,
    /// The function.
    pub name: &'static str,
}

/// One failure scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Its number.
    pub number: &'static str,
    /// What happens.
    pub what: &'static str,
    /// Tests that hold it without a kernel, also those parts that no kernel can be made to show.
    pub held_by: &'static [Test],
}

/// What a run says of one scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Which.
    pub scenario: Scenario,
    /// The worst of its checks; `None` where no check was made.
    pub outcome: Option<Outcome>,
    /// The checks that were made, `group/check`.
    pub checks: Vec<String>,
}

const CONTRACT_ATTACH: &str = "crates/contract/src/device/attach.rs";
const CONTRACT_DAEMONS: &str = "crates/contract/src/device/daemons.rs";
const CONTRACT_DETACH: &str = "crates/contract/src/device/detach.rs";
const CONTRACT_GROW: &str = "crates/contract/src/device/grow.rs";
const CONTRACT_IDENTITY: &str = "crates/contract/src/device/identity.rs";
const CONTRACT_ROADS: &str = "crates/contract/src/transport.rs";
const STEPS: &str = "crates/multipath/tests/it/steps.rs";
const RECORDS: &str = "crates/transport-iscsi/tests/it/records.rs";
const EXIT: &str = "crates/transport-iscsi/src/exit.rs";
const HELPERS: &str = "crates/host/tests/it/helpers.rs";
const FILES: &str = "crates/host/tests/it/files.rs";

const fn test(file: &'static str, name: &'static str) -> Test {
    Test { file, name }
}

const fn scenario(number: &'static str, what: &'static str, held_by: &'static [Test]) -> Scenario {
    Scenario { number, what, held_by }
}

/// Every scenario a run over iSCSI accounts for.
pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "1",
        "a LUN number passes to another volume while the old legs are here, after a gap",
        &[
            test(STEPS, "a_queued_write_never_reaches_another_volume"),
            test(CONTRACT_IDENTITY, "stale_legs_of_another_volume_are_replaced"),
        ],
    ),
    scenario(
        "2",
        "the same at once, without any request in between",
        &[test(CONTRACT_IDENTITY, "a_swap_under_an_open_map_is_found_and_refused")],
    ),
    scenario(
        "3",
        "the same under a map that somebody has open",
        &[test(CONTRACT_IDENTITY, "a_swap_under_an_open_map_is_found_and_refused")],
    ),
    scenario(
        "4",
        "two volumes with one identifier and two serial numbers",
        &[test(CONTRACT_IDENTITY, "equal_identifiers_with_other_serials_are_refused")],
    ),
    scenario(
        "5",
        "a unit that does not say what it is",
        &[
            test(CONTRACT_IDENTITY, "an_empty_identity_is_refused"),
            test(CONTRACT_IDENTITY, "what_says_nothing_is_left_alone"),
        ],
    ),
    scenario(
        "6",
        "the kernel remembers the old unit although the new one answers",
        &[test(CONTRACT_IDENTITY, "stale_legs_of_another_volume_are_replaced")],
    ),
    scenario(
        "7",
        "one of four legs leads to another volume",
        &[test(CONTRACT_IDENTITY, "one_wrong_leg_is_left_out_and_told")],
    ),
    scenario("8", "two arrays give the same LUN number", &[]),
    scenario("9", "a clone shows the same file system and volume group", &[]),
    scenario(
        "13",
        "a LUN number of 256 and above",
        &[test(CONTRACT_IDENTITY, "flat_addressing_is_refused_by_name")],
    ),
    scenario(
        "14",
        "one identifier in several spellings",
        &[test("crates/core/src/wwid.rs", "all_spellings_are_one_value")],
    ),
    scenario(
        "15",
        "names of devices pass on while others are attached and detached",
        &[test(CONTRACT_ATTACH, "parallel_attaches_keep_apart")],
    ),
    scenario(
        "16",
        "a disk appears late after its scan",
        &[test(CONTRACT_ATTACH, "a_late_disk_is_waited_for")],
    ),
    scenario(
        "17",
        "the array's mapping takes effect late",
        &[test(CONTRACT_ATTACH, "a_late_mapping_is_scanned_for_again")],
    ),
    scenario("18", "udev is stopped", &[test(CONTRACT_DAEMONS, "a_stopped_udev_is_named_and_forgiven")]),
    scenario(
        "19",
        "multipathd is down, hangs, or is started again",
        &[
            test(CONTRACT_DAEMONS, "a_stopped_daemon_is_named_and_forgiven"),
            test(CONTRACT_DAEMONS, "a_hung_daemon_is_bounded_and_forgiven"),
        ],
    ),
    scenario(
        "20",
        "multipathd is busy for many seconds",
        &[test(CONTRACT_DAEMONS, "a_busy_daemon_is_asked_again")],
    ),
    scenario(
        "21",
        "the legs are here and the map was removed",
        &[test(CONTRACT_ATTACH, "attaching_rebuilds_a_map_over_its_legs")],
    ),
    scenario(
        "22",
        "the map has one leg and the others are missing",
        &[test(CONTRACT_ATTACH, "a_missing_road_is_told_and_completed_later")],
    ),
    scenario(
        "23",
        "one of four portals refuses or does not answer",
        &[test(CONTRACT_ROADS, "one_dead_port_delays_nothing_but_itself")],
    ),
    scenario(
        "24",
        "no portal answers",
        &[test(CONTRACT_ROADS, "all_ports_dead_is_a_bounded_answer_and_leaves_nothing")],
    ),
    scenario(
        "25",
        "a session is there and carries nothing",
        &[test(CONTRACT_ROADS, "a_broken_session_is_not_joined_twice")],
    ),
    scenario(
        "26",
        "a session of the boot or of another tool",
        &[test(CONTRACT_ROADS, "a_session_of_others_is_used_and_never_ended")],
    ),
    scenario(
        "27",
        "a login is refused, once or for ever",
        &[test(CONTRACT_ROADS, "refused_logins_are_not_repeated_at_once")],
    ),
    scenario(
        "28",
        "many attaches at once over the same sessions",
        &[
            test(CONTRACT_ATTACH, "parallel_attaches_keep_apart"),
            test(CONTRACT_ROADS, "parallel_callers_share_the_sessions"),
        ],
    ),
    scenario(
        "29",
        "one volume is attached twice at once",
        &[test(CONTRACT_ATTACH, "the_same_volume_attached_twice_at_once_is_one_map")],
    ),
    scenario(
        "30",
        "attach and detach of one volume race",
        &[test("tests/tests/it/callers.rs", "operations_on_one_volume_wait_for_each_other")],
    ),
    scenario(
        "31",
        "a lock of open-iscsi's database was left behind",
        &[
            test(RECORDS, "a_locked_database_is_told_with_its_cure"),
            test(RECORDS, "a_lock_that_outlives_our_patience_is_told_with_its_cure"),
        ],
    ),
    scenario("32", "iscsid is stopped", &[test(CONTRACT_ROADS, "a_stopped_daemon_is_named_and_forgiven")]),
    scenario(
        "33",
        "iscsiadm hangs in a login",
        &[test(RECORDS, "a_call_ends_by_its_deadline"), test(EXIT, "table")],
    ),
    scenario("42", "find_multipaths and names of multipathd as they come", &[]),
    scenario(
        "43",
        "a local disk and somebody else's map share the host",
        &[test(CONTRACT_IDENTITY, "bystanders_are_not_touched")],
    ),
    scenario("44", "logical blocks of 4 KiB", &[]),
    scenario(
        "45",
        "all paths are lost under requests and come back",
        &[test(CONTRACT_DETACH, "all_roads_lost_is_still_a_device")],
    ),
    scenario(
        "46",
        "all paths are lost for ever, the map is idle, detach",
        &[test(CONTRACT_DETACH, "an_idle_map_without_roads_is_retired_quickly")],
    ),
    scenario(
        "47",
        "the same with unwritten pages in the cache",
        &[test(STEPS, "a_flush_that_hangs_stops_the_retirement")],
    ),
    scenario("48", "the same while udev looks at the map", &[]),
    scenario(
        "49",
        "a leg hangs and its session stays",
        &[
            test(CONTRACT_ATTACH, "a_leg_that_never_answers_is_left_out"),
            test("crates/host/tests/it/fuse.rs", "a_helper_that_no_signal_ends_is_abandoned"),
        ],
    ),
    scenario(
        "50",
        "a helper is stuck and its device is asked for again",
        &[test("crates/host/tests/it/fuse.rs", "other_devices_do_not_notice_an_abandoned_helper")],
    ),
    scenario(
        "52",
        "the array reboots during attach, detach and growth",
        &[test(CONTRACT_ROADS, "a_repaired_session_is_connected_again")],
    ),
    scenario("53", "a map was left suspended", &[test(STEPS, "a_suspended_map_is_resumed")]),
    scenario("54", "a path flaps", &[test(CONTRACT_ROADS, "a_dead_port_is_remembered_while_others_serve")]),
    scenario("55", "a fabric is reconfigured (LIP)", &[]),
    scenario("56", "names of disks change after dev_loss", &[]),
    scenario(
        "57",
        "another tool scans between the host's removal and the array's unmap",
        &[test(CONTRACT_DETACH, "a_full_scan_brings_nothing_back")],
    ),
    scenario(
        "57b",
        "a session bounces between the two",
        &[test(CONTRACT_DETACH, "a_bounce_between_the_steps_brings_nothing_back")],
    ),
    scenario(
        "58",
        "the array's unmap fails after the host's removal",
        &[test(CONTRACT_DETACH, "a_retired_volume_comes_back_when_asked")],
    ),
    scenario(
        "59",
        "killed between any two steps",
        &[
            test("crates/multipath/tests/it/crash.rs", "a_retirement_stopped_anywhere_is_finished"),
            test("crates/multipath/tests/it/crash.rs", "a_burial_stopped_anywhere_is_finished"),
        ],
    ),
    scenario(
        "60",
        "somebody unmaps on the array first",
        &[test(CONTRACT_DETACH, "an_unmap_by_others_can_be_cleaned_up")],
    ),
    scenario(
        "61",
        "the map is opened, mounted, swapped to, stacked on",
        &[test(CONTRACT_DETACH, "everybody_who_uses_it_is_named_and_stops_a_retire")],
    ),
    scenario(
        "62",
        "another LUN is behind the session",
        &[test(CONTRACT_ROADS, "a_session_with_devices_is_kept")],
    ),
    scenario("63", "writing out fails", &[test(STEPS, "a_flush_that_hangs_stops_the_retirement")]),
    scenario(
        "64",
        "a leg is blocked or unresponsive when it is deleted",
        &[test(HELPERS, "a_helper_that_hangs_is_killed_at_the_deadline_and_replaced")],
    ),
    scenario(
        "65",
        "somebody has the map open for a moment",
        &[test(CONTRACT_DETACH, "a_device_closed_in_a_moment_is_waited_for")],
    ),
    scenario(
        "66",
        "detach from a dead array",
        &[test("tests/tests/it/outage.rs", "a_mapping_the_array_kept_goes_when_the_array_is_back")],
    ),
    scenario("67", "a node dies with LUNs mapped", &[]),
    scenario("68", "shutdown with queueing maps", &[]),
    scenario(
        "69",
        "growth while the map is open",
        &[test(CONTRACT_GROW, "growing_reaches_every_leg_and_the_map")],
    ),
    scenario("70", "growth with a leg offline", &[test(CONTRACT_GROW, "growing_works_with_a_road_missing")]),
    scenario(
        "71",
        "multipathd answers a resize otherwise than it did it",
        &[test(CONTRACT_GROW, "growing_reaches_every_leg_and_the_map")],
    ),
    scenario("72", "the array shrank the LUN", &[test(CONTRACT_GROW, "shrinking_is_refused")]),
    scenario(
        "74",
        "a guest's volume group, partitions, md and swap on the LUN",
        &[test(CONTRACT_DETACH, "an_unused_partition_does_not_count")],
    ),
    scenario(
        "75",
        "many LUNs on the host, one more is attached",
        &[test(STEPS, "an_attach_does_not_grow_with_the_node")],
    ),
    scenario(
        "76",
        "full scans by others all the time",
        &[test(CONTRACT_DETACH, "a_full_scan_brings_nothing_back")],
    ),
    scenario("77", "the admin's multipath configuration excludes the volume", &[]),
    scenario(
        "79",
        "a queueing map without active paths is no leftover",
        &[test(CONTRACT_DETACH, "all_roads_lost_is_still_a_device")],
    ),
    scenario(
        "80",
        "entries of sysfs vanish while they are read",
        &[test(FILES, "an_attribute_has_three_answers"), test(FILES, "every_other_trouble_is_an_error")],
    ),
    scenario(
        "81",
        "a tool, a daemon or a right is missing",
        &[
            test("crates/host/tests/it/tools.rs", "a_missing_tool_names_its_package"),
            test(RECORDS, "a_missing_name_is_told_with_its_cure"),
        ],
    ),
    scenario("82", "the clock jumps", &[test("crates/core/src/cx.rs", "a_deadline_ends_a_wait")]),
];

/// What a run says of every scenario. One whose outcome is `None` or `Failed` makes the run a failure.
pub fn account(verdicts: &[Verdict]) -> Vec<Account> {
    let of = |scenario: &Scenario| {
        let shown = verdicts.iter().filter(|it| it.scenarios.iter().any(|number| number == scenario.number));
        let outcome = shown.clone().map(|it| it.outcome).max_by_key(|it| weight(*it));
        let checks = shown.map(|it| format!("{}/{}", it.group, it.check)).collect();
        Account { scenario: *scenario, outcome, checks }
    };
    SCENARIOS.iter().map(of).collect()
}

/// A failure outweighs all; what one check shows another need not.
fn weight(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Failed => 2,
        Outcome::Held => 1,
        Outcome::CannotBeShown => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;

    #[test]
    fn every_test_that_is_named_is_there() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for scenario in SCENARIOS {
            for Test { file, name } in scenario.held_by {
                let text = std::fs::read_to_string(workspace.join(file)).unwrap();
                let number = scenario.number;
                assert!(text.contains(&format!("fn {name}(")), "{number}: there is no {name} in {file}");
            }
        }
    }

    #[test]
    fn all_numbers_are_there_once() {
        let numbers: BTreeSet<_> = SCENARIOS.iter().map(|it| it.number).collect();
        assert_eq!(numbers.len(), SCENARIOS.len());
        let spans = [1..=9, 13..=33, 42..=50, 52..=72, 74..=77, 79..=82];
        let mut expected: BTreeSet<String> =
            spans.into_iter().flatten().map(|it: u32| it.to_string()).collect();
        expected.insert("57b".to_owned());
        assert_eq!(numbers.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn the_worst_outcome_counts_and_silence_is_told() {
        let verdict = |numbers: &[&str], outcome| Verdict {
            group: "g".to_owned(),
            check: "c".to_owned(),
            scenarios: numbers.iter().map(ToString::to_string).collect(),
            outcome,
            done: String::new(),
            found: String::new(),
            millis: 1,
            figures: BTreeMap::new(),
        };
        let verdicts = [
            verdict(&["1", "2"], Outcome::Held),
            verdict(&["2"], Outcome::Failed),
            verdict(&["1"], Outcome::CannotBeShown),
        ];
        let found = account(&verdicts);
        let of = |number| found.iter().find(|it| it.scenario.number == number).unwrap();
        assert_eq!(of("1").outcome, Some(Outcome::Held));
        assert_eq!(of("2").outcome, Some(Outcome::Failed));
        assert_eq!(of("2").checks, ["g/c", "g/c"]);
        assert_eq!(of("57b").outcome, None);
    }
}
