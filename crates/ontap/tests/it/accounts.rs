//! Accounts: what one of an SVM is told, and that the shipped roles hold what is needed and nothing else.

use san_core::{Array, CloneSpec, DeleteMode, ErrorKind, Result, SnapshotSet, VolumeKey, VolumeQuery};
use san_ontap::Ontap;
use san_sim::ontap::{Assigned, NodeView, OntapConfig as SimConfig, OntapSim, Role, Version};

use crate::fixture::{
    Fixture, NEW, SIZE, SVM, client, cluster_role, cx, host_spec, lun_choice, ontap_config, spec, svm_account,
};
use crate::logins::chap;

/// What a disk meets in its life.
async fn live(sim: &OntapSim) -> Result<()> {
    let mut config = ontap_config();
    config.volumes.snapshot_policy = "default".into();
    config.volumes.qos_policy = Some("gold".into());
    let array = Ontap::connect(&cx(), client(sim), config).await?;
    let volume = array.ensure_volume(&cx(), &spec("vm-100-disk-0")).await?.into_inner();
    let host = array.ensure_host(&cx(), &host_spec()).await?.into_inner();
    let logins = array.host_logins().unwrap();
    logins.ensure_login(&cx(), &host_spec().initiators, Some(&chap("a-long-secret", None))).await?;
    logins.ensure_login(&cx(), &host_spec().initiators, None).await?;
    array.sessions().unwrap().sessions_of(&cx(), &host_spec().initiators).await?;
    array.ensure_mapped(&cx(), &volume, &host, &lun_choice(&[1])).await?;
    array.mapping(&cx(), &volume, &host).await?;
    array.resize(&cx(), &volume, SIZE.times(2)).await?;
    let set = SnapshotSet { volumes: vec![volume.clone()], name: "one".parse()? };
    array.snapshot(&cx(), &set).await?;
    array.ensure_unmapped(&cx(), &volume.id, &host.id).await?;
    array.rollback(&cx(), &volume, &set.name).await?;
    let clone = spec("vm-101-disk-0");
    let clone = CloneSpec {
        mark: clone.mark(),
        name: clone.name,
        source: volume.clone(),
        snapshot: set.name.clone(),
    };
    let clone = array.ensure_clone(&cx(), &clone).await?.into_inner();
    array.ensure_no_volume(&cx(), &clone, DeleteMode::Immediate).await?;
    array.ensure_no_snapshot(&cx(), &volume, &set.name).await?;
    array.volumes(&cx(), &VolumeQuery { prefix: "sb__pve__san1__".into() }).await?;
    array.volume(&cx(), &VolumeKey::Name(volume.name.clone())).await?;
    array.capacity(&cx()).await?;
    array.ensure_no_host(&cx(), &host.id).await?;
    array.ensure_no_volume(&cx(), &volume, DeleteMode::Recoverable).await?;
    let queue = array.recovery_queue().unwrap();
    let kept = queue.deleted(&cx(), &VolumeQuery { prefix: volume.name.to_string() }).await?;
    queue.ensure_recovered(&cx(), &kept[0], &spec("vm-100-disk-0").owner).await?;
    array.ensure_no_volume(&cx(), &volume, DeleteMode::Immediate).await?;
    Ok(())
}

fn sim(version: Version, change: impl FnOnce(&mut SimConfig)) -> (OntapSim, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let mut config = SimConfig::new(version, data.path());
    // Jobs take a while, so that they are asked for.
    config.pace.job = std::time::Duration::from_secs(200);
    change(&mut config);
    (OntapSim::new(config).unwrap(), data)
}

/// Without a line, or with reading only where it is about more, something fails, and says that it is for want of a right.
async fn every_line_is_needed(account: fn(&mut SimConfig)) {
    let patient = |it: &mut SimConfig| {
        account(it);
        it.pace.job = std::time::Duration::from_millis(10);
    };
    let (whole, _data) = sim(NEW, patient);
    live(&whole).await.unwrap();
    let role: Role = whole.config().role.clone().unwrap();
    for path in role.paths() {
        let mut less = vec![role.clone().without(path)];
        less.extend(Some(role.clone().reading(path)).filter(|it| *it != role));
        for less in less {
            let (sim, _data) = sim(NEW, |it| {
                patient(it);
                it.role = Some(less);
            });
            let Err(error) = live(&sim).await else { panic!("nothing failed without {path}") };
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{path}: {error:?}");
            assert!(error.remedy().is_some(), "{path}: {error:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_line_of_the_role_of_the_cluster_is_needed() {
    every_line_is_needed(cluster_role).await;
}

#[tokio::test(start_paused = true)]
async fn every_line_of_the_role_of_an_svm_is_needed() {
    every_line_is_needed(svm_account).await;
}

#[tokio::test(start_paused = true)]
async fn an_account_of_the_svm_is_told_its_room() {
    for version in [Version::OLDEST, Version::new(9, 12, 1), NEW] {
        let it = Fixture::with(version, svm_account).await;
        let before = it.array.capacity(&cx()).await.unwrap();
        let tells = version >= Version::new(9, 12, 1);
        // The aggregate has 10 TiB; the one volume that is there 1 GiB.
        assert_eq!(before.total.bytes() > 9 << 40, tells, "{version}: {before:?}");
        it.made("vm-100-disk-0").await;
        let mark = it.sim.mark();
        let after = it.array.capacity(&cx()).await.unwrap();
        assert!(before.total <= after.total, "{version}");
        // It does not ask again for what it may not see.
        assert!(it.sim.requests(mark).iter().all(|it| it.template != "/storage/aggregates"), "{version}");
    }
}

async fn refused(sim: &OntapSim) -> san_core::Error {
    Ontap::connect(&cx(), client(sim), ontap_config()).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn an_aggregate_that_is_not_assigned_is_named() {
    let (array, _data) = sim(NEW, |it| {
        svm_account(it);
        it.svms[0].assigned = Assigned::These(vec!["aggr2".into()]);
    });
    let error = refused(&array).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.chain().to_string().contains("aggr1 is not assigned"), "{error:?}");
    assert!(error.remedy().unwrap().contains("-aggr-list"), "{error:?}");
}

/// Which nodes are a pair decides which paths are expected; an old release does not tell an account of an SVM.
#[tokio::test(start_paused = true)]
async fn pairs_that_cannot_be_told_are_named() {
    let wide = |it: &mut SimConfig| {
        svm_account(it);
        it.nodes.extend(["cluster1-03".to_owned(), "cluster1-04".to_owned()]);
        it.svms[0].portals[3].node = 2;
    };
    for version in Version::ALL {
        let (array, _data) = sim(version, wide);
        let outcome = Ontap::connect(&cx(), client(&array), ontap_config()).await;
        if version >= Version::new(9, 10, 1) {
            outcome.unwrap();
        } else {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{version}");
            assert!(error.remedy().unwrap().contains("9.10.1"), "{error:?}");
        }
    }
}

/// An account of an SVM learns the nodes of a mapping from the mapping.
#[tokio::test(start_paused = true)]
async fn the_ports_of_a_mapping_are_told_or_all() {
    for (nodes, count) in [(NodeView::Shown, 3), (NodeView::Hidden, 4)] {
        let it = Fixture::with(NEW, |it| {
            svm_account(it);
            it.unverified.svm_account_nodes = nodes;
            it.nodes.extend(["cluster1-03".to_owned(), "cluster1-04".to_owned()]);
            it.svms[0].portals[3].node = 2;
        })
        .await;
        let volume = it.made("vm-100-disk-0").await;
        let host = it.host().await;
        let mapped =
            it.array.ensure_mapped(&cx(), &volume, &host, &lun_choice(&[3])).await.unwrap().into_inner();
        assert_eq!(mapped.ports.len(), count, "{nodes:?}");
    }
}

/// What another SVM has cannot be seen, let alone changed.
#[tokio::test(start_paused = true)]
async fn the_simulated_account_of_an_svm_sees_no_other() {
    let (array, _data) = sim(NEW, |it| {
        it.svms.push(san_sim::ontap::SvmConfig::new("svm2", [10, 0, 1]));
        svm_account(it);
    });
    array.add_volume("svm2", "theirs", 1 << 30, "").unwrap();
    array.add_volume(SVM, "ours", 1 << 30, "").unwrap();
    let connected = Ontap::connect(&cx(), client(&array), ontap_config()).await.unwrap();
    let names: Vec<String> = connected
        .volumes(&cx(), &VolumeQuery { prefix: String::new() })
        .await
        .unwrap()
        .into_iter()
        .map(|it| it.name.to_string())
        .collect();
    assert_eq!(names, ["ours"]);
    let other = san_ontap::OntapConfig { svm: "svm2".into(), ..ontap_config() };
    let error = Ontap::connect(&cx(), client(&array), other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}
