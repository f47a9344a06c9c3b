//! The contract of [`Array`]: one function per clause, and [`array_contract!`](crate::array_contract), which turns them
//! into tests of one implementation.

#![expect(clippy::unwrap_used, reason = "a clause that is not met panics; that is how it says so")]

mod clones;
mod mappings;
mod readers;
mod snapshots;
mod volumes;

use std::collections::BTreeSet;
use std::time::Duration;

use san_core::{
    Array, ByteSize, Cx, Deadline, EffectState, Effects, Error, ErrorKind, HostAccess, HostSpec, Initiator,
    Lun, LunChoice, NameCodec, OperationId, Owner, SnapshotName, SnapshotSet, Volume, VolumeKey, VolumeQuery,
    VolumeSpec,
};

pub use clones::*;
pub use mappings::*;
pub use readers::*;
pub use snapshots::*;
pub use volumes::*;

/// One array to be tested, fresh for each clause, and what lies beside its management interface.
pub trait ArrayFixture: Send + Sync {
    /// The implementation.
    fn array(&self) -> &dyn Array;

    /// Writes `bytes` at the start of the volume, as a host would.
    fn write(&self, volume: &Volume, bytes: &[u8]) -> impl Future<Output = ()> + Send;

    /// Reads the first `length` bytes of the volume, as a host would.
    fn read(&self, volume: &Volume, length: usize) -> impl Future<Output = Vec<u8>> + Send;

    /// Makes a volume on the array that carries no mark of ours.
    fn add_foreign_volume(&self, name: &str) -> impl Future<Output = ()> + Send;

    /// Leaves what a creation leaves that was interrupted between its steps. `None` where creation is one step.
    fn add_half_made(&self, spec: &VolumeSpec) -> impl Future<Output = Option<()>> + Send;

    /// Makes a snapshot of the volume by other means, under the given name of the array.
    fn add_foreign_snapshot(&self, volume: &Volume, name: &str) -> impl Future<Output = ()> + Send;

    /// Lets go of what the array keeps of deleted volumes, where it cannot do so when it is told to delete at once.
    fn forget_deleted(&self) -> impl Future<Output = ()> + Send;

    /// Makes a host object by other means, with this initiator.
    fn add_foreign_host(&self, name: &str, initiator: &Initiator) -> impl Future<Output = ()> + Send;

    /// From now on no answer holds more than so many records.
    fn shorten_pages(&self, records: usize) -> impl Future<Output = ()> + Send;

    /// Everything on the array that is not ours, in a form that can be compared.
    fn bystanders(&self) -> impl Future<Output = String> + Send;
}

/// Makes one test of each clause. `$fixture` is an expression that gives a future of a fresh [`ArrayFixture`].
///
/// For suites over many kinds of one array, `name(kind: Kind) => fixture` makes a function of that name instead, which
/// meets all clauses one after the other, each with a fixture of its own.
#[macro_export]
macro_rules! array_contract {
    ($name:ident($kind:ident: $of:ty) => $fixture:expr) => {
        $crate::array_contract!(@clauses all ($name, $kind, $of, $fixture));
    };
    ($fixture:expr) => {
        $crate::array_contract!(@clauses each ($fixture));
    };
    (@clauses $how:ident $of:tt) => {
        $crate::array_contract!(@$how $of;
            creating_says_what_was_made,
            creating_again_by_the_same_operation_changes_nothing,
            a_taken_name_is_refused_and_left_alone,
            a_half_made_volume_is_seen_finished_and_deleted,
            odd_sizes_are_kept,
            requests_out_of_range_are_refused_before_anything,
            absence_is_none,
            deleting_is_repeatable,
            a_mapped_volume_is_not_deleted,
            lists_are_complete_over_pages,
            growing_is_repeatable_and_shrinking_refused,
            snapshots_belong_to_the_operation_that_took_them,
            snapshots_of_others_are_neither_listed_nor_deleted,
            rolling_back_restores_bytes_and_size_and_keeps_the_rest,
            a_mapped_volume_is_not_rolled_back,
            rolling_back_to_nothing_is_refused,
            a_set_is_snapshotted_at_one_instant_or_not_at_all,
            a_clone_has_the_bytes_of_its_snapshot_and_an_identity_of_its_own,
            a_clone_belongs_to_the_operation_that_made_it,
            clones_of_nothing_are_refused,
            what_clones_hang_on_stays,
            a_deleted_volume_comes_back_as_it_was,
            a_deleted_volume_takes_nobodys_name,
            a_split_clone_holds_its_parent_no_longer,
            a_clone_with_snapshots_is_not_split,
            renaming_changes_name_and_mark_and_nothing_else,
            a_taken_name_is_not_renamed_to,
            a_reader_has_the_bytes_of_its_snapshot_and_is_not_the_disk,
            a_look_tells_who_reads_what,
            a_reader_belongs_to_the_operation_that_made_it,
            a_reader_keeps_nothing_busy_and_keeps_what_it_reads,
            readers_of_nothing_are_refused,
            a_reader_goes_alone_and_repeatably,
            a_volume_with_a_mapped_reader_is_not_deleted,
            a_clone_has_no_readers_of_its_source,
            a_host_is_prepared_once,
            a_host_goes_when_nothing_is_mapped_to_it,
            an_initiator_of_a_foreign_host_is_refused_by_name,
            equal_nodes_of_two_realms_are_two_hosts,
            all_nodes_see_what_is_mapped_once,
            a_strangers_initiator_does_not_join_all_nodes,
            mapping_takes_the_first_free_number_of_the_choice,
            mapping_again_keeps_the_number,
            mapping_ends_when_the_choice_is_used_up,
            unmapping_takes_one_host_only,
            capacity_and_ports_are_told,
            parallel_creations_do_not_disturb_each_other,
            two_operations_cannot_both_have_a_name,
        );
    };
    (@each ($fixture:expr); $($clause:ident,)+) => {
        $(
            #[::tokio::test]
            async fn $clause() {
                let fixture = $fixture.await;
                let before = $crate::array::ArrayFixture::bystanders(&fixture).await;
                $crate::array::$clause(&fixture).await;
                // A foreign object that a clause adds begins with its own word.
                $crate::array::assert_untouched(&before, &fixture).await;
            }
        )+
    };
    (@all ($name:ident, $kind:ident, $of:ty, $fixture:expr); $($clause:ident,)+) => {
        async fn $name($kind: $of) {
            $(
                // Shown where the clause fails.
                ::std::println!("{}", ::std::stringify!($clause));
                ::std::boxed::Box::pin(async {
                    let fixture = $fixture.await;
                    let before = $crate::array::ArrayFixture::bystanders(&fixture).await;
                    $crate::array::$clause(&fixture).await;
                    $crate::array::assert_untouched(&before, &fixture).await;
                })
                .await;
            )+
        }
    };
}

const REALM: &str = "contract";
const SPACE: &str = "space1";
const SIZE: ByteSize = ByteSize::from_mib(8);

/// Fails where something that was there before is gone or different.
pub async fn assert_untouched(before: &str, fixture: &impl ArrayFixture) {
    let after = fixture.bystanders().await;
    let lines: BTreeSet<&str> = after.lines().collect();
    for line in before.lines() {
        assert!(lines.contains(line), "a bystander was touched: {line}\nnow there is:\n{after}");
    }
}

fn cx() -> Cx {
    Cx::new(Deadline::after(Duration::from_secs(60)), OperationId::random(), Effects::unobserved())
}

fn codec(array: &dyn Array) -> NameCodec {
    NameCodec::new(array.profile().limits.name).unwrap()
}

fn spec(array: &dyn Array, object: &str, size: ByteSize) -> VolumeSpec {
    let owner = Owner::new(REALM, SPACE, object).unwrap();
    VolumeSpec {
        name: codec(array).encode(&owner).unwrap(),
        owner,
        claim: OperationId::random(),
        size,
        apart_from: Vec::new(),
    }
}

async fn made(array: &dyn Array, object: &str) -> Volume {
    array.ensure_volume(&cx(), &spec(array, object, SIZE)).await.unwrap().into_inner()
}

async fn look(array: &dyn Array, volume: &Volume) -> Volume {
    array.volume(&cx(), &VolumeKey::Name(volume.name.clone())).await.unwrap().unwrap()
}

fn host_spec(realm: &str, node: &str, initiators: &[&str]) -> HostSpec {
    let initiators = initiators.iter().map(|it| initiator(it)).collect();
    HostSpec { realm: realm.into(), node: node.parse().unwrap(), initiators }
}

fn initiator(name: &str) -> Initiator {
    Initiator::Iscsi(format!("iqn.2010-10.org.example:{name}").parse().unwrap())
}

async fn host(array: &dyn Array, node: &str) -> HostAccess {
    array.ensure_host(&cx(), &host_spec(REALM, node, &[node])).await.unwrap().into_inner()
}

fn choice(numbers: impl IntoIterator<Item = u16>) -> LunChoice {
    LunChoice(numbers.into_iter().map(|it| Lun::new(it).unwrap()).collect())
}

fn snapshot_name(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

fn set(volume: &Volume, name: &str) -> SnapshotSet {
    SnapshotSet { volumes: vec![volume.clone()], name: snapshot_name(name) }
}

fn query(array: &dyn Array) -> VolumeQuery {
    VolumeQuery { prefix: codec(array).prefix(REALM, SPACE) }
}

#[track_caller]
fn assert_refused(error: &Error, kind: ErrorKind) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.effect(), EffectState::None, "{error:?}");
}

/// Runs futures side by side in one task, in whatever order they become ready.
async fn join<T>(futures: impl IntoIterator<Item: Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.into_iter().map(|it| (Box::pin(it), None)).collect();
    std::future::poll_fn(move |context| {
        for (future, result) in &mut pending {
            if result.is_none()
                && let std::task::Poll::Ready(it) = future.as_mut().poll(context)
            {
                *result = Some(it);
            }
        }
        if pending.iter().all(|(_, result)| result.is_some()) {
            let all = std::mem::take(&mut pending);
            std::task::Poll::Ready(all.into_iter().filter_map(|(_, result)| result).collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}
