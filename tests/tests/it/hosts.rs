//! Nodes as the array knows them: foreign host objects, twins, another array behind the address, many disks at once.

use std::path::Path;
use std::time::Duration;

use san_core::{Effects, ErrorKind};
use sanbridge_tests::site::{SVM, Site};

use crate::support::{DISK, SIZE, assert_unchanged, changes};

#[tokio::test(start_paused = true)]
async fn an_initiator_in_a_foreign_host_object_is_refused_by_name() {
    let site = Site::started(2).await.unwrap();
    let initiator = site.node(0).host.initiator();
    site.array.add_igroup(SVM, "made_by_hand", &[&initiator]).unwrap();
    let empty = site.audit();
    site.node(1).create(DISK, SIZE).await.unwrap();
    let before = site.audit();
    let error = site.node(0).attach(DISK).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(format!("{error:?}").contains("made_by_hand") && error.remedy().is_some(), "{error:?}");
    assert_unchanged(&site, &before);
    // The others do not mind.
    site.node(1).attach(DISK).await.unwrap();
    site.node(1).detach(DISK).await.unwrap();
    site.node(1).delete(DISK).await.unwrap();
    assert_unchanged(&site, &empty);
}

/// A node that was cloned with its initiator name would see, and write to, whatever its twin sees.
#[tokio::test(start_paused = true)]
async fn a_node_with_anothers_initiator_name_is_refused() {
    let site = Site::started(2).await.unwrap();
    site.node(0).create(DISK, SIZE).await.unwrap();
    let path = site.node(0).attach(DISK).await.unwrap();
    let name = format!("InitiatorName={}\n", site.node(0).host.initiator());
    site.node(1).host.put_file(Path::new("/etc/iscsi/initiatorname.iscsi"), name.as_bytes());
    let before = site.audit();
    let error = site.node(1).attach(DISK).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(format!("{error:?}").contains("node1"), "{error:?}");
    assert_unchanged(&site, &before);
    site.node(0).write(&path, 0, b"alone").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_host_object_somebody_deleted_is_made_again() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    node.write(&path, 0, b"bytes").await.unwrap();
    node.detach(DISK).await.unwrap();
    // The array forgets all hosts, as after a restored configuration; the volumes stay.
    let array = site.connect(Effects::unobserved()).await.unwrap();
    for igroup in site.array.igroups().into_iter().filter(|it| it.name.starts_with("sb")) {
        let delete = http::Request::delete(format!("https://a/api/protocols/san/igroups/{}", igroup.uuid))
            .header("Authorization", "Basic YWRtaW46bmV0YXBwMSE=")
            .body(bytes::Bytes::new())
            .unwrap();
        assert!(site.array.handle(delete).await.unwrap().status().is_success());
    }
    drop(array);
    let path = node.attach(DISK).await.unwrap();
    assert_eq!(node.read(&path, 0, 5).await.unwrap(), b"bytes");
}

#[tokio::test(start_paused = true)]
async fn another_array_behind_the_address_is_not_worked_on() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    site.array.replace_array(4711);
    let mark = site.array.mark();
    for error in [
        node.create("vm-100-disk-1", SIZE).await.err(),
        node.attach(DISK).await.err(),
        node.delete(DISK).await.err(),
    ] {
        let error = error.expect("it is another array");
        assert!(!error.is_passing(), "{error:?}");
    }
    tokio::time::sleep(Duration::from_secs(200)).await;
    let done = changes(&site.array, mark).into_iter();
    let done: Vec<_> = done
        .filter(|it| {
            it.outcome == san_sim::ontap::Outcome::Answered(200)
                || it.outcome == san_sim::ontap::Outcome::Answered(201)
        })
        .collect();
    assert_eq!(done, [], "nothing was changed on the stranger");
}

#[tokio::test(start_paused = true)]
async fn many_disks_at_once_get_numbers_of_their_own() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    let site = std::sync::Arc::new(site);
    let mut lives = tokio::task::JoinSet::new();
    for number in 0..32u8 {
        let site = std::sync::Arc::clone(&site);
        lives.spawn(async move {
            let (node, object) =
                (site.node(usize::from(number % 2)), format!("vm-{}-disk-0", 100 + u32::from(number)));
            node.create(&object, SIZE).await.unwrap();
            let path = node.attach(&object).await.unwrap();
            node.write(&path, 0, &[number; 8]).await.unwrap();
            (path, object)
        });
    }
    let made = lives.join_all().await;
    for (path, object) in &made {
        let number: u8 =
            (object.split('-').nth(1).unwrap().parse::<u32>().unwrap() - 100).try_into().unwrap();
        let bytes = site.node(usize::from(number % 2)).read(path, 0, 8).await.unwrap();
        assert_eq!(bytes, [number; 8], "{object}");
    }
    let mut numbers: Vec<_> = site.array.maps().into_iter().map(|it| (it.igroup, it.number)).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 32);
    let mut ends = tokio::task::JoinSet::new();
    for (_, object) in made {
        let site = std::sync::Arc::clone(&site);
        ends.spawn(async move {
            for index in 0..2 {
                site.node(index).detach(&object).await.unwrap();
            }
            site.node(1).delete(&object).await.unwrap();
        });
    }
    ends.join_all().await;
    assert_unchanged(&site, &before);
}
