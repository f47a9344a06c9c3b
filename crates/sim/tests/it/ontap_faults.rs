//! Every kind of fault, at the request it is meant for and nowhere else; and the request log.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use san_core::Deadline;
use san_rest::{Wire, WireError};
use san_sim::ontap::{Fault, Mark, Outcome, Rule, Times, When};
use san_sim::server::{ApiState, Cut};
use serde_json::json;
use tokio::time::timeout;

use crate::ontap_rig::{NEW, Rig, volume};

const MINUTE: Duration = Duration::from_secs(60);

fn at(method: &str, path: &str, fault: Fault) -> Rule {
    let when = When { method: Some(method.to_owned()), path: Some(path.to_owned()), ..When::default() };
    Rule { when, fault }
}

fn request(method: &str, target: &str, body: &str) -> Request<Bytes> {
    Request::builder()
        .method(method)
        .uri(format!("/api{target}"))
        .header("authorization", "Basic YWRtaW46bmV0YXBwMSE=")
        .header("x-dot-client-app", "sanbridge/node1")
        .body(Bytes::from(body.to_owned()))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn answers_of_our_choice() {
    let rig = Rig::new(NEW);
    let (message, retry_after) = ("too many requests".to_owned(), Some(7));
    rig.sim.inject(at("GET", "/cluster", Fault::Answer { status: 429, code: 9, message, retry_after }));
    let response = rig.sim.handle(request("GET", "/cluster", "")).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    assert_eq!(rig.get("/cluster").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn connections_break_before_and_after() {
    let rig = Rig::new(NEW);
    let body = volume("v", "20MB").to_string();
    let create = || request("POST", "/storage/volumes", &body);
    for (fault, cut, outcome, made) in [
        (Fault::Refuse, Cut::Refused, Outcome::Refused, 0),
        (Fault::ResetBefore, Cut::Reset, Outcome::Reset, 0),
        (Fault::LoseAnswer, Cut::Lost, Outcome::Lost, 1),
    ] {
        let mark = rig.sim.mark();
        rig.sim.inject(at("POST", "/storage/volumes", fault));
        assert_eq!(rig.sim.handle(create()).await.unwrap_err(), cut);
        assert_eq!(rig.sim.volumes().len(), made, "{cut:?}");
        assert_eq!(rig.sim.requests(mark)[0].outcome, outcome);
    }
}

#[tokio::test(start_paused = true)]
async fn slow_and_silent() {
    let rig = Rig::with(NEW, |config| config.pace.latency = Duration::from_millis(40));
    rig.get("/cluster").await;
    assert_eq!(rig.sim.elapsed(), Duration::from_millis(40));
    rig.sim.inject(at("GET", "/cluster", Fault::Delay(Duration::from_secs(3))));
    rig.get("/cluster").await;
    assert_eq!(rig.sim.elapsed(), Duration::from_millis(40 + 3040));
    let id = rig.sim.inject(at("GET", "/cluster", Fault::Hang));
    assert!(timeout(MINUTE, rig.get("/cluster")).await.is_err());
    assert_eq!(rig.sim.strikes(id), 1);
    assert_eq!(rig.sim.requests(Mark::START).last().unwrap().outcome, Outcome::Pending);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_does_not_stop_the_array() {
    let rig = Rig::with(NEW, |config| config.pace.job = Duration::from_secs(10));
    let body = volume("v", "20MB").to_string();
    let create = rig.sim.handle(request("POST", "/storage/volumes?return_timeout=30", &body));
    assert!(timeout(Duration::from_secs(1), create).await.is_err());
    assert!(rig.sim.volumes().is_empty());
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(rig.sim.volumes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn passwords_that_are_refused_once_or_changed() {
    let rig = Rig::new(NEW);
    rig.sim.inject(Rule { when: When::default(), fault: Fault::Unauthorized });
    assert_eq!(rig.get("/cluster").await.error(), (401, "6"));
    assert_eq!(rig.get("/cluster").await.status, 200);
    rig.sim.set_password(&"other".to_owned().into());
    assert_eq!(rig.get("/cluster").await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn jobs_fail_hang_and_vanish() {
    let rig = Rig::new(NEW);
    let create = |name: &str| volume(name, "20MB");
    let fails = || Fault::JobFails { code: 4, message: "entry doesn't exist".to_owned() };
    rig.sim.inject(at("POST", "/storage/volumes", fails()));
    let said = rig.post("/storage/volumes?return_timeout=15", create("a")).await;
    assert_eq!(said.error(), (500, "4"));
    rig.sim.inject(at("POST", "/storage/volumes", fails()));
    let said = rig.post("/storage/volumes", create("a")).await;
    let job = rig.get(&format!("/cluster/jobs/{}", said.text("/job/uuid"))).await;
    assert_eq!((job.text("/state").as_str(), job.at("/code")), ("failure", &json!(4)));

    rig.sim.inject(at("POST", "/storage/volumes", Fault::JobNeverEnds));
    let said = rig.post("/storage/volumes?return_timeout=15", create("b")).await;
    assert_eq!(said.status, 202);
    tokio::time::advance(MINUTE * 600).await;
    let job = rig.get(&format!("/cluster/jobs/{}", said.text("/job/uuid"))).await;
    assert_eq!(job.text("/state"), "running");
    assert!(rig.sim.volumes().is_empty());
    // Until the array's management is started anew.
    rig.sim.fail_stuck_jobs();
    let job = rig.get(&format!("/cluster/jobs/{}", said.text("/job/uuid"))).await;
    assert_eq!(job.text("/state"), "failure");
    rig.volume("b", "20MB").await;

    rig.sim.inject(at("POST", "/storage/volumes", Fault::JobVanishes));
    let said = rig.post("/storage/volumes", create("c")).await;
    let job = rig.get(&format!("/cluster/jobs/{}", said.text("/job/uuid"))).await;
    assert_eq!(job.error(), (404, "4"));
    assert!(rig.sim.volume("svm1", "c").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_name_whose_job_failed_is_free_again() {
    let rig = Rig::new(NEW);
    let fault = Fault::JobFails { code: 1, message: "broken".to_owned() };
    rig.sim.inject(at("POST", "/storage/volumes", fault));
    rig.post("/storage/volumes?return_timeout=15", volume("v", "20MB")).await;
    rig.volume("v", "20MB").await;
}

#[tokio::test(start_paused = true)]
async fn new_objects_are_missing_from_lists_for_a_while() {
    let rig = Rig::new(NEW);
    rig.sim.inject(at("POST", "/storage/volumes", Fault::Lag { reads: 2 }));
    let uuid = rig.volume("v", "20MB").await;
    assert_eq!(rig.get("/storage/volumes?name=v").await.count(), 0);
    assert_eq!(rig.get(&format!("/storage/volumes/{uuid}")).await.status, 200);
    assert_eq!(rig.get("/storage/volumes").await.count(), 0);
    assert_eq!(rig.get("/storage/volumes").await.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn lists_that_are_cut() {
    let rig = Rig::new(NEW);
    rig.sim.populate("svm1", "v", 10, 20 << 20).unwrap();
    let list = |fault| rig.sim.inject(at("GET", "/storage/volumes", fault));
    list(Fault::ShortPage { records: 3 });
    let said = rig.get("/storage/volumes").await;
    assert_eq!(said.count(), 3);
    let next = said.text("/_links/next/href");
    assert_eq!(rig.get(next.strip_prefix("/api").unwrap()).await.count(), 7);

    list(Fault::BrokenNext);
    let said = rig.get("/storage/volumes?max_records=3").await;
    let next = said.text("/_links/next/href");
    assert_eq!(rig.get(next.strip_prefix("/api").unwrap()).await.status, 400);

    list(Fault::PartialPage { records: 4 });
    let said = rig.get("/storage/volumes").await;
    assert_eq!((said.status.as_u16(), said.count()), (200, 4));
    assert!(said.at("/error/code").is_string() && said.at("/_links/next").is_null());
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_no_answers() {
    let rig = Rig::new(NEW);
    for (fault, check) in [
        (Fault::Garbage, (|body| body.starts_with(b"<html>")) as fn(&[u8]) -> bool),
        (Fault::Truncated, |body| {
            serde_json::from_slice::<serde_json::Value>(body).is_err() && body[0] == b'{'
        }),
        (Fault::Huge { bytes: 1 << 20 }, |body| body.len() == 1 << 20),
    ] {
        rig.sim.inject(at("GET", "/cluster", fault));
        let response = rig.sim.handle(request("GET", "/cluster", "")).await.unwrap();
        assert!(check(response.body()));
    }
}

/// A refusal of which only the status can be read, and an answer that lies in one word.
#[tokio::test(start_paused = true)]
async fn refusals_that_are_no_answers_and_answers_that_lie() {
    let rig = Rig::new(NEW);
    let refusal = Fault::Answer { status: 400, code: 1, message: "no".to_owned(), retry_after: None };
    rig.sim.inject(at("GET", "/cluster", refusal));
    rig.sim.inject(at("GET", "/cluster", Fault::Garbage));
    let response = rig.sim.handle(request("GET", "/cluster", "")).await.unwrap();
    assert!(response.status() == 400 && response.body().starts_with(b"<html>"), "{response:?}");

    let uuid = rig.volume("v", "20MB").await;
    let lie = Fault::Alter { member: "size".to_owned(), value: json!(7) };
    rig.sim.inject(at("GET", "/storage/volumes/{uuid}", lie));
    let target = format!("/storage/volumes/{uuid}?fields=size,space.size");
    let lied = rig.get(&target).await;
    assert_eq!(
        (lied.at("/size"), lied.at("/space/size"), lied.text("/name")),
        (&json!(7), &json!(7), "v".to_owned())
    );
    assert_ne!(rig.get(&target).await.at("/size"), &json!(7));
}

#[tokio::test(start_paused = true)]
async fn faults_for_one_sender_and_the_nth_request() {
    let rig = Rig::new(NEW);
    let when = When { agent: Some("node1".to_owned()), skip: 1, times: Times::Always, ..When::default() };
    let id = rig.sim.inject(Rule { when, fault: Fault::ResetBefore });
    assert_eq!(rig.get("/cluster").await.status, 200);
    assert!(rig.sim.handle(request("GET", "/cluster", "")).await.is_ok());
    for _ in 0..3 {
        assert_eq!(rig.sim.handle(request("GET", "/cluster", "")).await.unwrap_err(), Cut::Reset);
    }
    assert_eq!((rig.get("/cluster").await.status.as_u16(), rig.sim.strikes(id)), (200, 3));
    rig.sim.clear_fault(id);
    assert!(rig.sim.handle(request("GET", "/cluster", "")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_whole_api_can_be_down() {
    let rig = Rig::new(NEW);
    rig.sim.set_api(ApiState::Refusing);
    assert_eq!(rig.sim.handle(request("GET", "/cluster", "")).await.unwrap_err(), Cut::Refused);
    rig.sim.set_api(ApiState::BlackHole);
    assert!(timeout(MINUTE, rig.get("/cluster")).await.is_err());
    rig.sim.clear_faults();
    assert_eq!(rig.get("/cluster").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_log_counts_and_keeps_no_secret() {
    let rig = Rig::new(NEW);
    let uuid = rig.volume("v", "20MB").await;
    let mark = rig.sim.mark();
    rig.sim.handle(request("GET", &format!("/storage/volumes/{uuid}?fields=size"), "")).await.unwrap();
    rig.patch(&format!("/storage/volumes/{uuid}"), json!({"comment": "canary"})).await;
    rig.get("/no/such/path").await;
    let counts = rig.sim.counts(mark);
    assert_eq!(counts[&("GET".to_owned(), "/storage/volumes/{uuid}")], 1);
    assert_eq!(counts.values().sum::<usize>(), 3);
    let entries = rig.sim.requests(mark);
    assert_eq!((entries[0].agent.as_str(), entries[0].query.as_str()), ("sanbridge/node1", "fields=size"));
    let texts = [format!("{entries:?}"), format!("{:?}", rig.sim), format!("{:?}", rig.sim.config())];
    for text in texts {
        assert!(
            !text.contains("netapp1!") && !text.contains("YWRtaW46") && !text.contains("canary"),
            "{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn as_a_wire_it_tells_what_was_sent() {
    let rig = Rig::new(NEW);
    let deadline = || Deadline::after(MINUTE);
    let kind =
        |result: Result<_, WireError>| result.map(drop).map_err(|error| std::mem::discriminant(&error));
    let like = |error: WireError| Err(std::mem::discriminant(&error));
    for (fault, expected) in [
        (Fault::Refuse, like(WireError::NotSent(String::new()))),
        (Fault::ResetBefore, like(WireError::Lost(String::new()))),
        (Fault::LoseAnswer, like(WireError::Lost(String::new()))),
        (Fault::Hang, like(WireError::TimedOut)),
        (Fault::Delay(Duration::from_secs(1)), Ok(())),
    ] {
        rig.sim.inject(at("GET", "/cluster", fault));
        assert_eq!(kind(rig.sim.send(request("GET", "/cluster", ""), deadline()).await), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn equal_seeds_tell_equal_stories() {
    let mut told = Vec::new();
    for _ in 0..2 {
        let rig = Rig::new(NEW);
        rig.volume("v", "20MB").await;
        rig.lun("v", "4MB").await;
        let said = rig.ask(Method::GET, "/storage/luns?fields=**", serde_json::Value::Null).await;
        told.push(said.body);
    }
    assert_eq!(told[0], told[1]);
}
