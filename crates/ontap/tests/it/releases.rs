//! What differs by release and personality: what is sent, what is read back, what is told.

use san_contract::array::ArrayFixture as _;
use san_core::{Array, ByteSize, DeleteMode, VolumeKey};
use san_ontap::Ontap;
use san_sim::ontap::{Mark, Personality, Version};

use crate::fixture::{Fixture, NEW, SIZE, client, cx, lun_choice, ontap_config, spec};

/// A cylinder of the geometry that LUNs of older releases pretend to have.
const CYLINDER: u64 = 255 * 63 * 512;
const OLDEST: Version = Version::new(9, 8, 0);

#[tokio::test(start_paused = true)]
async fn the_profile_tells_the_personality() {
    for (version, personality, word, largest) in [
        (OLDEST, Personality::Unified, "FAS/AFF", 16),
        (OLDEST, Personality::Asa, "ASA", 16),
        (NEW, Personality::Unified, "FAS/AFF", 128),
        // Its FlexVols are no larger.
        (NEW, Personality::Asa, "ASA", 100),
    ] {
        let it = Fixture::of(version, personality).await;
        let profile = it.array.profile();
        assert_eq!((profile.personality.as_str(), &profile.version), (word, &version.to_string()));
        assert_eq!(profile.limits.volume_max, ByteSize::from_gib(largest << 10));
    }
}

#[tokio::test(start_paused = true)]
async fn sizes_that_the_array_rounds_are_read_back() {
    for version in [OLDEST, Version::new(9, 11, 1)] {
        let it = Fixture::with(version, |it| it.limits.lun_granule = CYLINDER).await;
        let rounded = |size: ByteSize| ByteSize::from_bytes(size.bytes().next_multiple_of(CYLINDER));
        let volume = it.made("vm-100-disk-0").await;
        assert_eq!(volume.size, rounded(SIZE));
        // Within what it was rounded up to, then beyond, then the same again.
        let little = SIZE.plus(ByteSize::from_mib(1));
        assert_eq!(it.array.resize(&cx(), &volume, little).await.unwrap(), rounded(little));
        let wanted = SIZE.times(5);
        for _ in 0..2 {
            assert_eq!(it.array.resize(&cx(), &volume, wanted).await.unwrap(), rounded(wanted));
        }
        let now = it.array.volume(&cx(), &VolumeKey::Id(volume.id.clone())).await.unwrap().unwrap();
        assert_eq!(now.size, rounded(wanted));
        // Asked for again by somebody who knows what became of it.
        assert_eq!(it.array.resize(&cx(), &now, wanted).await.unwrap(), now.size);
        it.array.resize(&cx(), &now, SIZE).await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn a_rounded_lun_is_found_again_by_its_claim() {
    let it = Fixture::with(OLDEST, |it| it.limits.lun_granule = CYLINDER).await;
    let spec = spec("vm-100-disk-0");
    let made = it.array.ensure_volume(&cx(), &spec).await.unwrap();
    let again = it.array.ensure_volume(&cx(), &spec).await.unwrap();
    assert!(made.changed() && !again.changed());
    assert_eq!(made.into_inner().size, again.into_inner().size);
}

#[tokio::test(start_paused = true)]
async fn the_ports_of_a_mapping_are_those_of_the_pair() {
    for version in Version::ALL {
        let it = Fixture::with(version, |it| {
            // A second pair, which does not report LUNs of the first.
            it.nodes.extend(["cluster1-03".to_owned(), "cluster1-04".to_owned()]);
            it.svms[0].portals[2].node = 2;
            it.svms[0].portals[3].node = 1;
        })
        .await;
        let volume = it.made("vm-100-disk-0").await;
        let host = it.host().await;
        let mapped =
            it.array.ensure_mapped(&cx(), &volume, &host, &lun_choice(&[3])).await.unwrap().into_inner();
        let read = it.array.mapping(&cx(), &volume, &host).await.unwrap().unwrap();
        assert_eq!(mapped.ports, read.ports, "{version}");
        let mut nodes: Vec<_> = read.ports.iter().filter_map(|it| it.node()).collect();
        nodes.sort_unstable();
        assert_eq!(nodes, ["cluster1-01", "cluster1-01", "cluster1-02"], "{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn immediate_deletion_bypasses_the_queue_where_the_release_can() {
    for version in Version::ALL {
        let it = Fixture::new(version).await;
        let volume = it.made("vm-100-disk-0").await;
        assert!(it.array.ensure_no_volume(&cx(), &volume, DeleteMode::Immediate).await.unwrap());
        let queued = it.sim.volumes().iter().filter(|it| it.deleted).count();
        assert_eq!(queued, usize::from(version < Version::new(9, 12, 1)), "{version}");
        it.forget_deleted().await;
        assert!(it.sim.volumes().iter().all(|it| !it.deleted), "{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stored_profile_learns_of_an_update() {
    let before = Fixture::new(OLDEST).await;
    let after = Fixture::new(NEW).await;
    // The same array: identifiers are drawn from one seed.
    let array =
        Ontap::from_profile(client(&after.sim), ontap_config(), before.array.profile().clone()).unwrap();
    let volume = array.ensure_volume(&cx(), &spec("vm-100-disk-0")).await.unwrap().into_inner();
    assert!(array.ensure_no_volume(&cx(), &volume, DeleteMode::Immediate).await.unwrap());
    let forced = after.sim.requests(Mark::START).iter().any(|it| it.query.contains("force=true"));
    assert!(forced, "it uses what the release has by now");
}
