//! SVMs that have copies at other sites, or are such copies: named before anything is done, and never taken for strangers.

use san_core::{Array, Checkup, DeleteMode, EffectState, Error, ErrorKind, Result, VolumeKey, VolumeQuery};
use san_ontap::{Ontap, OntapConfig};
use san_sim::ontap::{OntapSim, Running, SvmSubtype, SwitchedUuid};

use crate::fixture::{Fixture, NEW, OLD, SVM, client, cx, host_spec, lun_choice, ontap_config, spec};

/// Refused because of what the SVM is to another site, before anything was changed.
fn assert_named(error: &Error, words: &str) {
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, EffectState::None), "{error:?}");
    assert!(error.chain().to_string().contains(words), "{error:?}");
    assert!(error.remedy().is_some(), "{error:?}");
}

async fn connected(sim: &OntapSim, svm: &str) -> Result<Ontap> {
    Ontap::connect(&cx(), client(sim), OntapConfig { svm: svm.into(), ..ontap_config() }).await
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_does_not_serve_is_no_storage() {
    for version in [OLD, NEW] {
        for (subtype, words) in [
            (SvmSubtype::Default, "svm1 is stopped"),
            (SvmSubtype::SyncSource, "may have switched over"),
            (SvmSubtype::SyncDestination, "copy that MetroCluster keeps"),
            (SvmSubtype::DpDestination, "for its disaster recovery"),
        ] {
            let it = Fixture::new(version).await;
            it.sim.set_svm_subtype(SVM, subtype).unwrap();
            it.sim.set_svm_running(SVM, Running::No).unwrap();
            assert_named(&connected(&it.sim, SVM).await.unwrap_err(), words);
        }
        for subtype in [SvmSubtype::SyncSource, SvmSubtype::DpDestination] {
            let it = Fixture::new(version).await;
            it.sim.set_svm_subtype(SVM, subtype).unwrap();
            connected(&it.sim, SVM).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_other_site_is_recognized_by_the_copy_it_has() {
    let it = Fixture::new(NEW).await;
    it.sim.set_svm_subtype(SVM, SvmSubtype::SyncSource).unwrap();
    let _over = it.sim.switch_over(SVM).unwrap();
    for svm in [SVM, "svm1-mc"] {
        assert_named(&connected(&it.sim, svm).await.unwrap_err(), "has switched over");
    }
    it.sim.set_svm_running("svm1-mc", Running::No).unwrap();
    assert_named(&connected(&it.sim, SVM).await.unwrap_err(), "copy that MetroCluster keeps");
    // An SVM that is only called so is no copy.
    it.sim.set_svm_subtype("svm1-mc", SvmSubtype::Default).unwrap();
    assert_eq!(connected(&it.sim, SVM).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_switchover_makes_nothing_absent_and_passes() {
    for uuid in [SwitchedUuid::Same, SwitchedUuid::Own] {
        let it = Fixture::with(NEW, |it| it.unverified.switched_svm_uuid = uuid).await;
        it.sim.set_svm_subtype(SVM, SvmSubtype::SyncSource).unwrap();
        let volume = it.made("vm-100-disk-0").await;
        let gone = it.made("vm-100-disk-1").await;
        it.array.ensure_no_volume(&cx(), &gone, DeleteMode::Immediate).await.unwrap();
        let before = it.sim.volumes();
        let over = it.sim.switch_over(SVM).unwrap();
        let profile = it.array.profile().clone();
        let later = Ontap::from_profile(client(&it.sim), ontap_config(), profile).unwrap();
        for array in [&it.array, &later] {
            let failures: Vec<Result<()>> = vec![
                array.volume(&cx(), &VolumeKey::Name(gone.name.clone())).await.map(drop),
                array.volume(&cx(), &VolumeKey::Id(gone.id.clone())).await.map(drop),
                array.ensure_no_volume(&cx(), &gone, DeleteMode::Immediate).await.map(drop),
                array.ensure_volume(&cx(), &spec("vm-100-disk-2")).await.map(drop),
            ];
            for (at, it) in failures.into_iter().enumerate() {
                assert_named(&it.expect_err(&format!("{uuid:?} {at}")), "has switched over");
            }
        }
        // A process that has not met the array before asks nothing of the copy.
        let query = VolumeQuery { prefix: "sb__".into() };
        assert_named(&later.volumes(&cx(), &query).await.unwrap_err(), "has switched over");
        let names =
            |of: &[san_sim::ontap::VolumeInfo]| of.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&it.sim.volumes()), names(&before), "nothing was changed");
        it.sim.switch_back(&over);
        for array in [&it.array, &later] {
            assert!(array.volume(&cx(), &VolumeKey::Id(volume.id.clone())).await.unwrap().is_some());
            assert!(array.volume(&cx(), &VolumeKey::Name(gone.name.clone())).await.unwrap().is_none());
        }
    }
}

/// The code of such a refusal is not documented.
#[tokio::test(start_paused = true)]
async fn a_change_that_a_stopped_svm_refuses_says_what_it_is() {
    for code in [2_621_716, 4_711_000] {
        let it = Fixture::with(NEW, |it| it.unverified.svm_stopped_code = code).await;
        let volume = it.made("vm-100-disk-0").await;
        let host = it.host().await;
        it.sim.set_svm_subtype(SVM, SvmSubtype::SyncSource).unwrap();
        it.sim.set_svm_running(SVM, Running::No).unwrap();
        let choice = lun_choice(&[1]);
        let error = it.array.ensure_mapped(&cx(), &volume, &host, &choice).await.unwrap_err();
        assert_named(&error, "may have switched over");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_names_the_relation() {
    for (subtype, expected) in [
        (SvmSubtype::Default, None),
        (SvmSubtype::SyncSource, Some("MetroCluster keeps a copy of it at the other site")),
        (SvmSubtype::DpDestination, Some("it is the copy of another SVM for its disaster recovery")),
    ] {
        let it = Fixture::new(NEW).await;
        it.sim.set_svm_subtype(SVM, subtype).unwrap();
        let query = VolumeQuery { prefix: "sb__".into() };
        let found = it.array.findings(&cx(), &host_spec(), &query).await.unwrap();
        let relation = found.iter().find(|it| it.check == "svm-relation");
        assert_eq!(relation.map(|it| it.what.as_str()), expected);
    }
}
