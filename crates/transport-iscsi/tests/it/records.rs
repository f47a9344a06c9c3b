//! What the transport leaves in open-iscsi's database, and in the records of others.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use san_contract::transport::TransportFixture as _;
use san_core::{
    Chap, ChapName, Cx, Deadline, Effect, EffectObserver, Effects, ErrorKind, HostLogin, Initiator,
    OperationId, PortStatus, Result, TargetPort, Transport as _,
};
use san_host::{Guard, Host as _, Tool};
use san_sim::host::{LogKind, Release};
use san_transport_iscsi::{Iscsi, IscsiConfig, LoginSource};

use crate::contract::Fixture;

fn cx() -> Cx {
    Cx::new(Deadline::after(Duration::from_secs(60)), OperationId::random(), Effects::unobserved())
}

#[tokio::test(start_paused = true)]
async fn a_first_login_takes_three_programs_and_one_after_a_reboot_one() {
    let fixture = Fixture::on(Release::Debian13);
    let ports = fixture.ports();
    fixture.iscsi.connect(&cx(), &ports).await.unwrap();
    let first = fixture.programs();
    assert_eq!(first.len(), 3 * ports.len(), "{first:#?}");
    assert!(first.iter().any(|it| it.contains("node.session.scan -v manual")), "{first:#?}");
    assert!(fixture.node.inventory().records.iter().all(|it| it.startup == "manual"));
    fixture.node.crash();
    fixture.node.boot();
    fixture.node.forget_log();
    fixture.iscsi.connect(&cx(), &ports).await.unwrap();
    let second = fixture.node.logged(LogKind::Program);
    assert_eq!(second.len(), ports.len(), "{second:#?}");
    assert!(second.iter().all(|it| it.ends_with("--login")), "{second:#?}");
}

#[tokio::test(start_paused = true)]
async fn leaving_takes_our_records_along_and_keeps_those_of_others() {
    let fixture = Fixture::on(Release::Debian13);
    let ports = fixture.ports();
    fixture.join_by_other_means(&ports[0]);
    fixture.iscsi.connect(&cx(), &ports).await.unwrap();
    fixture.iscsi.disconnect(&cx(), &ports).await.unwrap();
    let records = fixture.node.inventory().records;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].startup, "automatic", "whose it is decides when it is used");
}

/// A login that was refused leaves a record; it is ours, whether or not a later login succeeds.
#[tokio::test(start_paused = true)]
async fn records_of_failed_logins_go_too() {
    let portal = "10.0.0.1:3260".parse().unwrap();
    for succeeds_later in [false, true] {
        let fixture = Fixture::on(Release::Debian13);
        let ports = fixture.ports()[..1].to_vec();
        fixture.node.refuse_logins(portal, Some(24));
        let states = fixture.iscsi.connect(&cx(), &ports).await.unwrap();
        assert!(!states[0].status.is_up());
        assert_eq!(fixture.node.inventory().records.len(), 1);
        if succeeds_later {
            fixture.node.refuse_logins(portal, None);
            tokio::time::sleep(Duration::from_secs(60)).await;
            let states = fixture.iscsi.connect(&cx(), &ports).await.unwrap();
            assert!(states[0].status.is_up(), "{states:?}");
        }
        let ended = fixture.iscsi.disconnect(&cx(), &ports).await.unwrap();
        assert_eq!(ended, usize::from(succeeds_later));
        assert!(fixture.node.inventory().records.is_empty());
    }
}

/// The record of somebody else whose session is gone: it is used, and its start stays as its owner wants it.
#[tokio::test(start_paused = true)]
async fn a_record_of_others_keeps_its_start() {
    let fixture = Fixture::on(Release::Debian13);
    let ports = fixture.ports();
    fixture.join_by_other_means(&ports[0]);
    fixture.node.stop_iscsid();
    fixture.node.crash();
    fixture.node.partition("10.0.0.1:3260".parse().unwrap());
    fixture.node.boot();
    fixture.node.start_iscsid();
    fixture.node.heal("10.0.0.1:3260".parse().unwrap());
    let states = fixture.iscsi.connect(&cx(), &ports[..1]).await.unwrap();
    assert!(states[0].status.is_up(), "{states:?}");
    let records = fixture.node.inventory().records;
    assert_eq!((records.len(), records[0].startup.as_str()), (1, "automatic"));
    fixture.iscsi.disconnect(&cx(), &ports).await.unwrap();
    assert_eq!(fixture.node.inventory().records.len(), 1, "the record is not ours to delete");
}

/// After a restart of ours nothing tells our sessions from others': all are left alone.
#[tokio::test(start_paused = true)]
async fn sessions_of_an_earlier_life_are_left_alone() {
    let fixture = Fixture::on(Release::Debian13);
    let ports = fixture.ports();
    fixture.iscsi.connect(&cx(), &ports).await.unwrap();
    let again = Iscsi::new(Guard::new(Arc::new(fixture.node.clone())), IscsiConfig::default());
    assert_eq!(again.disconnect(&cx(), &ports).await.unwrap(), 0);
    assert_eq!(fixture.sessions(), ports.len());
}

#[tokio::test(start_paused = true)]
async fn a_missing_name_is_told_with_its_cure() {
    let fixture = Fixture::on(Release::Debian13);
    let file = std::path::Path::new("/etc/iscsi/initiatorname.iscsi");
    let names = fixture.iscsi.initiators(&cx()).await.unwrap();
    assert_eq!(names, [Initiator::Iscsi("iqn.1993-08.org.debian:01:pve1".parse().unwrap())]);
    fixture.node.remove_file(file);
    let error = fixture.iscsi.initiators(&cx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.remedy().is_some_and(|it| it.contains("iscsid")));
    fixture.node.put_file(file, b"InitiatorName=iqn.2000-01.a:1\nInitiatorName=iqn.2000-01.a:2\n");
    assert_eq!(fixture.iscsi.initiators(&cx()).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// 31: the database is locked by a program that died; the cure is named within the bound.
#[tokio::test(start_paused = true)]
async fn a_locked_database_is_told_with_its_cure() {
    let fixture = Fixture::on(Release::Debian13);
    let ports = fixture.ports();
    fixture.node.refuse_logins("10.0.0.1:3260".parse().unwrap(), Some(6));
    let start = tokio::time::Instant::now();
    let states = fixture.iscsi.connect(&cx(), &ports).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(30));
    let PortStatus::Failed(error) = &states[0].status else { panic!("{states:?}") };
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.remedy().is_some_and(|it| it.contains("lock.write")), "{error:?}");
}

/// 31: iscsiadm itself waits for a lock longer than we wait for iscsiadm; the cure is named all the same.
#[tokio::test(start_paused = true)]
async fn a_lock_that_outlives_our_patience_is_told_with_its_cure() {
    let fixture = Fixture::on(Release::Debian13);
    let ports = fixture.ports();
    fixture.node.put_file(std::path::Path::new("/run/lock/iscsi/lock.write"), b"");
    let start = tokio::time::Instant::now();
    let states = fixture.iscsi.connect(&cx(), &ports[..1]).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let PortStatus::Failed(error) = &states[0].status else { panic!("{states:?}") };
    assert!(error.message().contains("locked"), "{error:?}");
    assert!(error.remedy().is_some_and(|it| it.contains("lock.write")), "{error:?}");
}

/// 33: `iscsiadm` never ends; the helper is killed at its bound and the release with the defect named.
#[tokio::test(start_paused = true)]
async fn a_call_ends_by_its_deadline() {
    let fixture = Fixture::on(Release::Debian13);
    let ports = fixture.ports();
    fixture.node.set_timing(|it| it.login = Duration::from_secs(3600));
    let start = tokio::time::Instant::now();
    let states = fixture.iscsi.connect(&cx(), &ports).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    for state in states {
        let PortStatus::Failed(error) = &state.status else { panic!("{state:?}") };
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.remedy().is_some_and(|it| it.contains("2.1.10")), "{error:?}");
    }
}

/// Stops for ever at the n-th boundary of an effect: what a process does that was killed there.
#[derive(Debug)]
struct Stop {
    at: usize,
    passed: AtomicUsize,
}

impl Stop {
    async fn boundary(&self) -> Result<()> {
        if self.passed.fetch_add(1, Ordering::Relaxed) >= self.at {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[async_trait]
impl EffectObserver for Stop {
    async fn before(&self, _: &Effect) -> Result<()> {
        self.boundary().await
    }

    async fn after(&self, _: &Effect) -> Result<()> {
        self.boundary().await
    }
}

/// 59: killed at any boundary of any program, the next call finishes, with one session per port.
#[tokio::test(start_paused = true)]
async fn a_connect_stopped_anywhere_is_finished_by_the_next() {
    for at in 0.. {
        let fixture = Fixture::on(Release::Debian13);
        let ports = fixture.ports();
        let observer = Arc::new(Stop { at, passed: AtomicUsize::new(0) });
        let cx_stopped = Cx::new(
            Deadline::after(Duration::from_secs(60)),
            OperationId::random(),
            Effects::observed(observer.clone()),
        );
        let attempt = fixture.iscsi.connect(&cx_stopped, &ports);
        let _ = tokio::time::timeout(Duration::from_secs(2), attempt).await;
        let was_stopped = observer.passed.load(Ordering::Relaxed) > at;
        // A new process knows nothing of the old one.
        let again = Iscsi::new(Guard::new(Arc::new(fixture.node.clone())), IscsiConfig::default());
        let states = again.connect(&cx(), &ports).await.unwrap();
        assert!(states.iter().all(|it| it.status.is_up()), "stopped at {at}: {states:?}");
        assert_eq!(fixture.sessions(), ports.len(), "stopped at {at}");
        if !was_stopped {
            assert!(at >= 2 * 3 * ports.len(), "three programs a port, two boundaries each: {at}");
            return;
        }
    }
}

/// One caller knows on which array node a port is, another does not: it is the same port.
#[tokio::test(start_paused = true)]
async fn a_port_is_the_same_with_and_without_its_node() {
    let fixture = Fixture::on(Release::Debian13);
    let ports = fixture.ports();
    let named: Vec<_> = ports
        .iter()
        .map(|it| match it {
            TargetPort::Iscsi { portal, target, .. } => {
                TargetPort::Iscsi { portal: *portal, target: target.clone(), node: Some("node-1".into()) }
            }
            _ => panic!("another protocol"),
        })
        .collect();
    let both = [ports.clone(), named.clone()].concat();
    let states = fixture.iscsi.connect(&cx(), &both).await.unwrap();
    assert!(states.iter().all(|it| it.status.is_up()), "{states:?}");
    assert_eq!(fixture.sessions(), ports.len());
    assert_eq!(fixture.iscsi.disconnect(&cx(), &named).await.unwrap(), ports.len());
}

/// Runs iscsiadm as an admin does.
async fn admin(fixture: &Fixture, line: &str) {
    let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let ran = fixture.node.run(Tool::Iscsiadm, &arguments, Deadline::after(Duration::from_secs(5))).await;
    assert_eq!(ran.as_ref().unwrap().code, Some(0), "{ran:?}");
}

/// open-iscsi has one record without a group for a portal, which any other record of that portal takes the place of.
#[tokio::test(start_paused = true)]
async fn a_record_of_others_is_not_displaced_and_one_like_ours_is() {
    let portal = format!("-T {} -p 10.0.0.1:3260", crate::array::TARGET);
    for release in [Release::Debian12, Release::Debian13] {
        let fixture = Fixture::on(release);
        let ports = fixture.ports()[..1].to_vec();
        admin(&fixture, "-m iface -I lab.first -o new").await;
        admin(&fixture, &format!("-m node {portal} -o new")).await;
        let bound = fixture.iscsi.with(|it| it.interfaces = vec!["lab.first".to_owned()]);
        // Each release keeps interfaces in another folder.
        assert_eq!(bound.initiators(&cx()).await.unwrap().len(), 1, "{release:?}");
        let states = bound.connect(&cx(), &ports).await.unwrap();
        let PortStatus::Failed(error) = &states[0].status else { panic!("{states:?}") };
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.message().contains("interface default"), "{error:?}");
        assert!(error.remedy().is_some_and(|it| it.contains("discovery")), "{error:?}");
        admin(&fixture, &format!("-m node {portal} -I default")).await;
        // As an earlier process of ours made it, before interfaces were named.
        let ours = "-o update -n node.session.scan -v manual -n node.startup -v manual";
        admin(&fixture, &format!("-m node {portal} -I default {ours}")).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let states = bound.connect(&cx(), &ports).await.unwrap();
        assert!(states[0].status.is_up(), "{states:?}");
    }
}

/// Each interface's sessions are made and ended, whatever becomes of the record of the one before.
#[tokio::test(start_paused = true)]
async fn sessions_through_two_interfaces_are_made_and_ended_and_made_again() {
    let fixture = Fixture::on(Release::Debian13);
    let ports = fixture.ports();
    for name in ["lab.first", "lab.second"] {
        admin(&fixture, &format!("-m iface -I {name} -o new")).await;
    }
    let bound = fixture.iscsi.with(|it| it.interfaces = vec!["lab.first".into(), "lab.second".into()]);
    for _ in 0..2 {
        let states = bound.connect(&cx(), &ports).await.unwrap();
        assert!(states.iter().all(|it| it.status.is_up()), "{states:?}");
        assert_eq!(fixture.sessions(), 2 * ports.len());
        // The second record, which has a group, has taken the place of the first.
        assert_eq!(fixture.node.inventory().records.len(), ports.len());
        fixture.node.forget_log();
        assert_eq!(bound.connect(&cx(), &ports).await.unwrap().len(), 2 * ports.len());
        assert_eq!(fixture.programs(), [] as [&str; 0], "it costs nothing again");
        assert_eq!(bound.disconnect(&cx(), &ports).await.unwrap(), 2 * ports.len());
        assert_eq!((fixture.sessions(), fixture.node.inventory().records.len()), (0, 0));
    }
}

#[derive(Debug)]
struct Secret(&'static str);

#[async_trait]
impl LoginSource for Secret {
    async fn read(&self) -> Result<HostLogin> {
        let initiator = ChapName { user: "nodes".to_owned(), secret: self.0.into() };
        Ok(HostLogin::Chap(Chap { initiator, target: None }))
    }
}

/// A process that is killed while it holds open-iscsi's lock leaves it behind; nobody else can take it away.
#[tokio::test(start_paused = true)]
async fn a_lock_left_behind_by_an_earlier_process_of_ours_is_taken_away_and_that_of_others_is_respected() {
    let lock = Path::new("/run/lock/iscsi/lock.write");
    for (text, is_ours) in [("held by sanbridge\n", true), ("", false)] {
        let fixture = Fixture::on(Release::Debian13);
        let iscsi = fixture.iscsi.proving(Arc::new(Secret("a-canary-secret")));
        fixture.node.put_file(lock, text.as_bytes());
        let states = iscsi.connect(&cx(), &fixture.ports()).await.unwrap();
        assert_eq!(states.iter().all(|it| it.status.is_up()), is_ours, "{states:?}");
        assert_eq!(fixture.node.remove_file(lock), !is_ours);
        assert!(!fixture.node.log().iter().any(|it| it.to_string().contains("canary")));
    }
}

#[tokio::test(start_paused = true)]
async fn what_logins_prove_stands_in_the_record_and_changes_with_it() {
    let fixture = Fixture::on(Release::Debian13);
    let ports = fixture.ports()[..1].to_vec();
    for secret in ["first-canary", "second-canary"] {
        let iscsi = fixture.iscsi.proving(Arc::new(Secret(secret)));
        iscsi.connect(&cx(), &ports).await.unwrap();
        let record = format!("/var/lib/iscsi/nodes/{}/10.0.0.1,3260", crate::array::TARGET);
        let text =
            fixture.node.read(Path::new(&record), 1 << 16, Deadline::after(Duration::from_secs(5))).await;
        let text = String::from_utf8(text.unwrap().unwrap()).unwrap();
        assert!(text.contains(&format!("node.session.auth.password = {secret}\n")), "{text}");
        assert_eq!(text.matches("canary").count(), 1);
        assert!(text.ends_with("# END RECORD\n"));
        fixture.node.crash();
        fixture.node.boot();
    }
}
