//! What `connect` finds out, and how a stored profile is proved.

use std::sync::Arc;
use std::time::Duration;

use san_core::{Array, EffectState, ErrorKind, Result, TransportKind, VolumeQuery};
use san_ontap::{Ontap, OntapConfig};
use san_sim::ontap::{
    Fault, IscsiConfig, OntapConfig as SimConfig, OntapSim, Personality, Rule, Running, SvmConfig, Times,
    Version, When,
};
use san_sim::server::ApiState;

use crate::fixture::{Fixture, NEW, OLD, client, client_as, cx, ontap_config};

fn sim(version: Version, change: impl FnOnce(&mut SimConfig)) -> (OntapSim, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let mut config = SimConfig::new(version, data.path());
    change(&mut config);
    (OntapSim::new(config).unwrap(), data)
}

async fn refused(sim: &OntapSim, config: OntapConfig) -> san_core::Error {
    let changes = sim.mark();
    let error = Ontap::connect(&cx(), client(sim), config).await.unwrap_err();
    assert_eq!(error.effect(), EffectState::None, "{error:?}");
    assert!(sim.requests(changes).iter().all(|it| it.method == "GET"));
    error
}

#[tokio::test(start_paused = true)]
async fn the_profile_tells_which_array_it_is() {
    for (version, text) in [(OLD, "9.12.1"), (NEW, "9.16.1")] {
        let it = Fixture::new(version).await;
        let profile = it.array.profile();
        assert_eq!((profile.vendor.as_str(), profile.version.as_str()), ("NetApp", text));
        assert_eq!(profile.name, "cluster1/svm1");
        assert_eq!(profile.serial.len(), 73);
    }
}

#[tokio::test(start_paused = true)]
async fn all_problems_are_named_at_once() {
    let (sim, _data) = sim(NEW, |it| {
        it.svms[0].iscsi = IscsiConfig::Disabled;
        it.svms[0].portals.clear();
    });
    let config = OntapConfig { aggregates: vec!["nowhere".into()], ..ontap_config() };
    sim.set_svm_running("svm1", Running::No).unwrap();
    let error = refused(&sim, config).await;
    let text = error.chain().to_string();
    for problem in ["svm1 is stopped", "no aggregate nowhere", "switched off", "no iSCSI interface"] {
        assert!(text.contains(problem), "{problem:?} is not in {text:?}");
    }
    assert!(error.remedy().unwrap().contains("vserver start"));
}

#[tokio::test(start_paused = true)]
async fn single_problems_have_their_kind() {
    let (array, _data) = sim(NEW, |it| {
        let mut other = SvmConfig::new("svm2", [10, 0, 1]);
        other.iscsi = IscsiConfig::Absent;
        it.svms.push(other);
    });
    let config = |svm: &str| OntapConfig { svm: svm.into(), ..ontap_config() };
    assert_eq!(refused(&array, config("svm3")).await.kind(), ErrorKind::NotFound);
    let error = refused(&array, config("svm2")).await;
    assert!(error.chain().to_string().contains("no iSCSI service"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn what_helps_is_said_once_however_often_it_is_needed() {
    let (array, _data) = sim(NEW, |_| {});
    let mut config = OntapConfig { aggregates: vec!["aggr1".into(), "aggr2".into()], ..ontap_config() };
    config.volumes.tiering = Some(san_ontap::Tiering::Auto);
    let error = refused(&array, config).await;
    let (text, remedy) = (error.chain().to_string(), error.remedy().unwrap());
    assert!(text.contains("aggr1 has no cloud tier") && text.contains("aggr2 has no cloud tier"), "{text}");
    assert_eq!(remedy.matches("FabricPool").count(), 1, "{remedy}");
}

#[tokio::test(start_paused = true)]
async fn other_systems_are_refused_by_name() {
    for (personality, word) in [(Personality::AsaR2, "ASA r2"), (Personality::Afx, "AFX")] {
        let (other, _data) = sim(NEW, |it| it.personality = personality);
        let error = refused(&other, ontap_config()).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.chain().to_string().contains(word), "{error:?}");
        assert!(error.remedy().unwrap().contains("9.8"), "{error:?}");
    }

    let (web, _data) = sim(NEW, |_| {});
    let when = When { times: Times::Always, ..When::default() };
    web.inject(Rule { when, fault: Fault::Garbage });
    let error = refused(&web, ontap_config()).await;
    assert!(error.chain().to_string().contains("not an ONTAP"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_tried_once() {
    let (sim, _data) = sim(NEW, |_| {});
    let client = client_as(&sim, "canary");
    for _ in 0..3 {
        let error = Ontap::connect(&cx(), client.clone(), ontap_config()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(!format!("{error:?}").contains("canary"));
    }
    assert_eq!(sim.requests(san_sim::ontap::Mark::START).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_array_that_is_down_is_a_bounded_error() {
    let (sim, _data) = sim(NEW, |_| {});
    sim.set_api(ApiState::Refusing);
    let error = Ontap::connect(&cx(), client(&sim), ontap_config()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, EffectState::None));
    sim.set_api(ApiState::BlackHole);
    let start = tokio::time::Instant::now();
    let error = Ontap::connect(&cx(), client(&sim), ontap_config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(start.elapsed() <= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_stored_profile_serves_while_the_array_is_down_and_is_proved_by_its_first_answer() {
    let it = Fixture::new(NEW).await;
    let profile = it.array.profile().clone();
    it.sim.set_api(ApiState::Refusing);
    let array = Ontap::from_profile(client(&it.sim), ontap_config(), profile.clone()).unwrap();
    assert_eq!(array.profile(), &profile);
    assert_eq!(array.capacity(&cx()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    it.sim.set_api(ApiState::Up);
    tokio::time::advance(Duration::from_secs(6)).await;
    array.capacity(&cx()).await.unwrap();
    let mark = it.sim.mark();
    array.capacity(&cx()).await.unwrap();
    assert_eq!(it.sim.requests(mark).len(), 1, "proved once");
}

#[tokio::test(start_paused = true)]
async fn a_lister_finds_a_slow_array_back() {
    let it = Fixture::new(NEW).await;
    it.made("vm-100-disk-0").await;
    let query = VolumeQuery { prefix: "sb__pve__san1__".into() };
    it.sim.set_api(ApiState::Refusing);
    for _ in 0..3 {
        assert_eq!(it.array.volumes(&cx(), &query).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    it.sim.set_api(ApiState::Up);
    let when = When {
        method: Some("GET".into()),
        path: Some("/storage/volumes".into()),
        times: Times::Always,
        ..When::default()
    };
    it.sim.inject(Rule { when, fault: Fault::Delay(Duration::from_millis(200)) });
    // The first of the two requests of a list is the one that asks whether the array is back, and the second is refused.
    let mut tries = 0;
    while it.array.volumes(&cx(), &query).await.is_err() {
        tries += 1;
        assert!(tries <= 3, "the array is not found back");
        tokio::time::advance(Duration::from_secs(6)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_array_behind_the_address_is_refused_for_everything() {
    let it = Fixture::new(NEW).await;
    let profile = it.array.profile().clone();
    let volume = it.made("vm-100-disk-0").await;
    it.sim.replace_array(99);
    let array = Arc::new(Ontap::from_profile(client(&it.sim), ontap_config(), profile).unwrap());
    let before = it.sim.mark();
    let failures: Vec<Result<()>> = vec![
        array.capacity(&cx()).await.map(drop),
        array.ensure_volume(&cx(), &crate::fixture::spec("vm-100-disk-1")).await.map(drop),
        array.ensure_no_volume(&cx(), &volume, san_core::DeleteMode::Immediate).await.map(drop),
        array.target_ports(&cx(), TransportKind::Iscsi).await.map(drop),
    ];
    for it in failures {
        let error = it.unwrap_err();
        assert_eq!(
            (error.kind(), error.effect()),
            (ErrorKind::IdentityMismatch, EffectState::None),
            "{error:?}"
        );
    }
    assert!(it.sim.requests(before).iter().all(|it| it.method == "GET"));
}

#[tokio::test(start_paused = true)]
async fn an_array_replaced_while_we_run_makes_nothing_absent() {
    let it = Fixture::new(NEW).await;
    let volume = it.made("vm-100-disk-0").await;
    let host = it.host().await;
    it.array.ensure_unmapped(&cx(), &volume.id, &host.id).await.unwrap();
    it.sim.destroy_volume("svm1", volume.name.as_str()).unwrap();
    it.sim.replace_array(99);
    let query = san_core::VolumeQuery { prefix: "sb__".into() };
    let failures: Vec<Result<()>> = vec![
        it.array.volumes(&cx(), &query).await.map(drop),
        it.array.volume(&cx(), &san_core::VolumeKey::Name(volume.name.clone())).await.map(drop),
        it.array.volume(&cx(), &san_core::VolumeKey::Id(volume.id.clone())).await.map(drop),
        it.array.mapping(&cx(), &volume, &host).await.map(drop),
        it.array.ensure_unmapped(&cx(), &volume.id, &host.id).await.map(drop),
        it.array.ensure_no_volume(&cx(), &volume, san_core::DeleteMode::Immediate).await.map(drop),
    ];
    for it in failures {
        assert_eq!(it.unwrap_err().kind(), ErrorKind::IdentityMismatch);
    }
}

#[tokio::test(start_paused = true)]
async fn a_profile_of_something_else_is_refused() {
    let it = Fixture::new(NEW).await;
    let mut profile = it.array.profile().clone();
    profile.serial = "12345".into();
    let error = Ontap::from_profile(client(&it.sim), ontap_config(), profile).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}
