//! Callers: gone before the answer, after it, after their confirmation; joined, re-sent, many at once, and hostile ones.

use std::time::Duration;

use san_contract::audit::Audit;
use san_core::{Effects, ErrorKind, OperationId, Result};
use san_sim::ontap::{Fault, Times};
use sanbridge_tests::crash::{Side, Stopper};
use sanbridge_tests::daemons::{Client, DaemonSite, read, write};
use sanbridge_tests::ledger::FolderLedger;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::support::{DISK, inject};

const VOLUMES: &str = "/storage/volumes";

/// Two daemons that serve the storage.
async fn site() -> DaemonSite {
    let site = DaemonSite::started(2).await.unwrap();
    site.client(0).add().await.unwrap();
    site.client(1).call("storage.activate", json!({})).await.unwrap();
    site
}

/// Array, nodes, records and what the cluster knows.
fn audit(site: &DaemonSite) -> (Audit, Audit) {
    let shared = FolderLedger::new("pve", &site.pve().join("priv").join("sanbridge").join("volumes"));
    (site.site.audit(), Audit::of(&[&shared]))
}

fn assert_same(site: &DaemonSite, before: &(Audit, Audit)) {
    let now = audit(site);
    let (all, shared) = (now.0.against(&before.0), now.1.against(&before.1));
    assert!(all.is_empty() && shared.is_empty(), "{all}{shared}");
}

/// Waits until everything is as before: what nobody took is undone without anybody asking.
async fn comes_back_to(site: &DaemonSite, before: &(Audit, Audit)) {
    for _ in 0..600 {
        if audit(site) == *before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_same(site, before);
}

fn create() -> Value {
    json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 })
}

fn named(name: &str) -> Value {
    json!({ "name": name })
}

/// Sends a request again, as a client does whose connection broke before the answer.
async fn resend(client: &Client, id: OperationId, method: &str, params: Value) -> UnixStream {
    let mut stream = UnixStream::connect(&client.socket).await.unwrap();
    let request = json!({
        "v": 1, "id": id, "timeout_ms": 30_000, "method": method, "resend": true,
        "storage": { "id": client.storage, "options": client.options }, "params": params,
    });
    write(&mut stream, &request).await.unwrap();
    stream
}

async fn confirm(stream: &mut UnixStream, id: OperationId) -> Value {
    write(stream, &json!({ "v": 1, "id": id, "ack": true })).await.unwrap();
    read(stream).await.unwrap()
}

/// The confirmation alone, on a connection of its own.
async fn confirm_late(client: &Client, id: OperationId) -> Value {
    let mut stream = UnixStream::connect(&client.socket).await.unwrap();
    confirm(&mut stream, id).await
}

async fn listed(client: &Client) -> Vec<String> {
    let answer = client.call("volume.list", json!({})).await.unwrap();
    let volumes = answer.ok["volumes"].as_array().cloned().unwrap_or_default();
    volumes.iter().map(|it| it["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_caller_gone_before_the_answer_leaves_nothing() {
    let site = site().await;
    let client = site.client(0);
    let before = audit(&site);
    inject(&site.site.array, "POST", VOLUMES, Times::Count(1), Fault::Delay(Duration::from_secs(2)));
    let mark = site.site.array.mark();
    let stream = client.send(OperationId::random(), "volume.create", create()).await.unwrap();
    site.site.array.next_request(mark).await;
    drop(stream);
    comes_back_to(&site, &before).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_nobody_confirmed_is_undone_and_its_number_is_free_again() {
    let site = site().await;
    let client = site.client(0);
    let before = audit(&site);
    let mut stream = client.send(OperationId::random(), "volume.create", create()).await.unwrap();
    assert_eq!(read(&mut stream).await.unwrap()["ok"]["name"], DISK);
    drop(stream);
    comes_back_to(&site, &before).await;
    let made = client.call("volume.create", create()).await.unwrap();
    assert_eq!(made.ok["name"], DISK, "the lowest free number is given again");
    let after = audit(&site);
    // The same for what is handed out besides volumes.
    for (method, params) in
        [("volume.attach", named(DISK)), ("snapshot.create", json!({ "name": DISK, "snapshot": "a1" }))]
    {
        let mut stream = client.send(OperationId::random(), method, params).await.unwrap();
        assert_eq!(read(&mut stream).await.unwrap()["ack"], true);
        drop(stream);
        comes_back_to(&site, &after).await;
    }
    client.call("volume.delete", named(DISK)).await.unwrap();
    comes_back_to(&site, &before).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_guest_uses_stays_although_nobody_confirmed_it() {
    let site = site().await;
    let client = site.client(0);
    client.call("volume.create", create()).await.unwrap();
    let mut stream = client.send(OperationId::random(), "volume.attach", named(DISK)).await.unwrap();
    let answer = read(&mut stream).await.unwrap();
    let path = answer["ok"]["path"].as_str().unwrap().to_owned();
    let host = site.site.node(0).host.clone();
    let handle = host.open(path.as_ref()).unwrap();
    drop(stream);
    tokio::time::sleep(Duration::from_secs(30)).await;
    host.write_at(path.as_ref(), 0, b"still here").await.unwrap();
    drop(handle);
    client.call("volume.detach", named(DISK)).await.unwrap();
    assert!(host.write_at(path.as_ref(), 0, b"gone").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_counts_on_another_connection_too() {
    let site = site().await;
    let client = site.client(0);
    let id = OperationId::random();
    let mut stream = client.send(id, "volume.create", create()).await.unwrap();
    assert_eq!(read(&mut stream).await.unwrap()["ok"]["name"], DISK);
    // The first connection still stands, as a half-open one would.
    assert_eq!(confirm_late(&client, id).await["acked"], true);
    assert_eq!(confirm_late(&client, id).await["acked"], true, "a repeat is no error");
    drop(stream);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(listed(&client).await, [DISK]);
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_that_came_too_late_says_so() {
    let site = site().await;
    let client = site.client(0);
    let before = audit(&site);
    let id = OperationId::random();
    let mut stream = client.send(id, "volume.create", create()).await.unwrap();
    read(&mut stream).await.unwrap();
    drop(stream);
    comes_back_to(&site, &before).await;
    assert_eq!(confirm_late(&client, id).await["error"]["kind"], "Cancelled");
    let unknown = confirm_late(&client, OperationId::random()).await;
    assert_eq!(
        (&unknown["error"]["kind"], &unknown["error"]["effect"]),
        (&json!("NotFound"), &json!("unknown"))
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_request_sent_again_joins_the_first() {
    let site = site().await;
    let client = site.client(0);
    inject(&site.site.array, "POST", VOLUMES, Times::Count(1), Fault::Delay(Duration::from_secs(2)));
    let id = OperationId::random();
    let mark = site.site.array.mark();
    let first = client.send(id, "volume.create", create()).await.unwrap();
    site.site.array.next_request(mark).await;
    // The first connection breaks and the second is there at once.
    let mut second = resend(&client, id, "volume.create", create()).await;
    let answer = read(&mut second).await.unwrap();
    assert_eq!(answer["ok"]["name"], DISK, "{answer}");
    assert_eq!(confirm(&mut second, id).await["acked"], true);
    drop(first);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(listed(&client).await, [DISK]);
    // Within ten minutes the result is still known, and the request is not run again.
    let mark = site.site.array.mark();
    let mut third = resend(&client, id, "volume.create", create()).await;
    assert_eq!(read(&mut third).await.unwrap()["ok"]["name"], DISK);
    assert_eq!(confirm(&mut third, id).await["acked"], true);
    assert_eq!(site.site.array.requests(mark), []);
}

/// The daemon dies at every boundary of a create while its client waits; the client sends the same request again at once,
/// as the plugin does, and gets one disk; nothing else is left.
#[tokio::test(start_paused = true)]
async fn a_request_sent_again_after_the_daemon_died_makes_one_disk() {
    let mut number = 0;
    loop {
        let mut reached = false;
        for side in [Side::Before, Side::After] {
            for name in [Value::Null, json!(DISK)] {
                reached |= died_and_sent_again(number, side, name).await;
            }
        }
        if !reached {
            break;
        }
        number += 1;
    }
    assert!(number >= 6, "only {number} effects were seen");
}

async fn died_and_sent_again(number: usize, edge: Side, name: Value) -> bool {
    let mut site = site().await;
    let client = site.client(0);
    let before = audit(&site);
    let create = json!({ "vmid": 100, "name": name, "size_bytes": 8 << 20 });
    site.kill(0);
    // What the start itself does is let pass: the storage is there before the first effect is counted.
    let counter = Stopper::new(None);
    site.start(0, counter.effects()).await.unwrap();
    client.call("storage.activate", json!({})).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let skip = counter.passed().len();
    site.kill(0);
    let stopper = Stopper::new(Some((skip + number, edge)));
    site.start(0, stopper.effects()).await.unwrap();
    client.call("storage.activate", json!({})).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let id = OperationId::random();
    let mut stream = client.send(id, "volume.create", create.clone()).await.unwrap();
    let outcome: Result<Value> = tokio::select! {
        biased;
        () = stopper.reached() => Ok(Value::Null),
        answer = read(&mut stream) => answer,
    };
    if outcome.is_ok_and(|it| !it.is_null()) {
        // The answer came first; the effects of the confirmation are left.
        write(&mut stream, &json!({ "v": 1, "id": id, "ack": true })).await.unwrap();
        let ended = tokio::select! {
            biased;
            () = stopper.reached() => false,
            _ = read(&mut stream) => true,
        };
        if ended {
            return false;
        }
        site.kill(0);
        site.start(0, Effects::unobserved()).await.unwrap();
        let acked = confirm_late(&client, id).await;
        let kept = listed(&client).await;
        match acked["acked"].as_bool() {
            Some(true) => assert_eq!(kept, [DISK], "{edge:?} {number}: {acked}"),
            // The confirmation had been recorded in full: nothing of it is left to be asked for.
            _ => assert!(
                acked["error"]["kind"] == "NotFound" && kept == [DISK],
                "{edge:?} {number}: {acked} {kept:?}"
            ),
        }
    } else {
        site.kill(0);
        drop(stream);
        site.start(0, Effects::unobserved()).await.unwrap();
        let mut again = resend(&client, id, "volume.create", create).await;
        let answer = read(&mut again).await.unwrap();
        assert_eq!(answer["ok"]["name"], DISK, "{edge:?} {number} {name}: {answer}");
        assert_eq!(confirm(&mut again, id).await["acked"], true, "{edge:?} {number} {name}");
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(listed(&client).await, [DISK], "{edge:?} {number} {name}");
    client.call("volume.delete", named(DISK)).await.unwrap();
    comes_back_to(&site, &before).await;
    true
}

/// The daemon dies between its answer and the confirmation. The new one knows the operation before it listens to anybody.
#[tokio::test(start_paused = true)]
async fn a_confirmation_survives_the_daemon() {
    for (method, params) in [
        ("volume.create", create()),
        ("volume.attach", named(DISK)),
        ("snapshot.create", json!({ "name": DISK, "snapshot": "a1" })),
    ] {
        let mut site = site().await;
        let client = site.client(0);
        if method != "volume.create" {
            client.call("volume.create", create()).await.unwrap();
        }
        let before = audit(&site);
        let id = OperationId::random();
        let mut stream = client.send(id, method, params.clone()).await.unwrap();
        assert_eq!(read(&mut stream).await.unwrap()["ack"], true);
        site.kill(0);
        drop(stream);
        site.start(0, Effects::unobserved()).await.unwrap();
        let acked = confirm_late(&client, id).await;
        assert_eq!(acked["acked"], true, "{method}: {acked}");
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_ne!(audit(&site), before, "{method}: it stays");
        // Where nobody confirms it, it goes.
        let mut site = self::site().await;
        let client = site.client(0);
        if method != "volume.create" {
            client.call("volume.create", create()).await.unwrap();
        }
        let before = audit(&site);
        let mut stream = client.send(OperationId::random(), method, params).await.unwrap();
        assert_eq!(read(&mut stream).await.unwrap()["ack"], true);
        site.kill(0);
        drop(stream);
        site.start(0, Effects::unobserved()).await.unwrap();
        comes_back_to(&site, &before).await;
    }
}

/// Many answers nobody had time to confirm: each can be confirmed at once, none waits for the others' callers.
#[tokio::test(start_paused = true)]
async fn every_confirmation_survives_the_daemon() {
    let mut site = site().await;
    let client = site.client(0);
    let mut streams = Vec::new();
    for vmid in 100..108 {
        let id = OperationId::random();
        let params = json!({ "vmid": vmid, "name": null, "size_bytes": 8 << 20 });
        let mut stream = client.send(id, "volume.create", params).await.unwrap();
        assert_eq!(read(&mut stream).await.unwrap()["ack"], true);
        streams.push((id, stream));
    }
    site.kill(0);
    site.start(0, Effects::unobserved()).await.unwrap();
    for (id, _) in &streams {
        let acked = confirm_late(&client, *id).await;
        assert_eq!(acked["acked"], true, "{acked}");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(listed(&client).await.len(), 8);
}

/// PVE's alarm comes before the array's answer.
#[tokio::test(start_paused = true)]
async fn a_caller_is_answered_in_time_and_what_it_did_not_take_is_undone() {
    let site = site().await;
    let client = site.client(0);
    let before = audit(&site);
    inject(&site.site.array, "POST", VOLUMES, Times::Always, Fault::Delay(Duration::from_secs(70)));
    let began = Instant::now();
    let error = client.call("volume.create", create()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(began.elapsed() <= Duration::from_secs(56), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(120)).await;
    comes_back_to(&site, &before).await;
}

#[tokio::test(start_paused = true)]
async fn two_nodes_that_want_one_name_get_one_disk() {
    let site = site().await;
    let (one, two) = (site.client(0), site.client(1));
    let exact = json!({ "vmid": 100, "name": "vm-100-cloudinit", "size_bytes": 8 << 20 });
    let (a, b) =
        tokio::join!(one.call("volume.create", exact.clone()), two.call("volume.create", exact.clone()));
    let (won, lost): (Vec<_>, Vec<_>) = [a, b].into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1));
    assert_eq!(lost.into_iter().next().unwrap().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(listed(&one).await, ["vm-100-cloudinit"]);
    // A third time, by whoever: still one.
    assert_eq!(one.call("volume.create", exact).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(listed(&two).await, ["vm-100-cloudinit"]);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_create_at_once_get_distinct_disks_and_leave_nothing() {
    let site = site().await;
    let before = audit(&site);
    let mut calls = tokio::task::JoinSet::new();
    for at in 0..24 {
        let client = site.client(at % 2);
        calls.spawn(async move { client.call("volume.create", create()).await });
    }
    let mut names = Vec::new();
    while let Some(made) = calls.join_next().await {
        names.push(made.unwrap().unwrap().ok["name"].as_str().unwrap().to_owned());
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 24, "{names:?}");
    let mut found = listed(&site.client(1)).await;
    found.sort();
    assert_eq!(found, names);
    for name in names {
        site.client(1).call("volume.delete", named(&name)).await.unwrap();
    }
    comes_back_to(&site, &before).await;
}

#[tokio::test(start_paused = true)]
async fn operations_on_one_volume_wait_for_each_other() {
    let site = site().await;
    let client = site.client(0);
    let before = audit(&site);
    client.call("volume.create", create()).await.unwrap();
    let grow = |mib: u64| {
        let client = client.clone();
        async move {
            let params = json!({ "name": DISK, "size_bytes": mib << 20, "running": false });
            client.call("volume.grow", params).await
        }
    };
    let snapshot = |name: &'static str| {
        let client = client.clone();
        async move { client.call("snapshot.create", json!({ "name": DISK, "snapshot": name })).await }
    };
    let done = tokio::join!(
        client.call("volume.attach", named(DISK)),
        grow(16),
        snapshot("s1"),
        snapshot("s2"),
        client.call("volume.attach", named(DISK)),
    );
    for done in [done.0, done.1, done.2, done.3, done.4] {
        done.unwrap();
    }
    assert_eq!(client.call("volume.size", named(DISK)).await.unwrap().ok["size_bytes"], 16 << 20);
    let (detached, deleted) =
        tokio::join!(client.call("volume.detach", named(DISK)), client.call("volume.delete", named(DISK)));
    detached.unwrap();
    deleted.unwrap();
    comes_back_to(&site, &before).await;
}

/// A frame with this length and these bytes; what comes back until the daemon closes.
async fn say(client: &Client, length: u32, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(&client.socket).await.unwrap();
    stream.write_all(&length.to_be_bytes()).await.unwrap();
    // The daemon may have closed already.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.unwrap();
    answer
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_cut_off_and_disturbs_nobody() {
    let site = site().await;
    let client = site.client(0);
    let text = |value: &Value| value.to_string().into_bytes();
    let id = OperationId::random();
    for (what, bytes) in [
        ("no JSON", b"hello".to_vec()),
        ("no object", b"[1]".to_vec()),
        ("no UTF-8", vec![0xff, 0xfe, 0x00]),
        ("no id", text(&json!({ "v": 1, "method": "daemon.ping" }))),
        ("a wrong id", text(&json!({ "v": 1, "id": "x", "method": "daemon.ping" }))),
        ("an unknown member", text(&json!({ "v": 1, "id": id, "method": "daemon.ping", "sudo": true }))),
        ("a deep nest", [b"[".repeat(100_000), b"]".repeat(100_000)].concat()),
    ] {
        let length = u32::try_from(bytes.len()).unwrap();
        assert_eq!(say(&client, length, &bytes).await, b"", "{what}");
    }
    assert_eq!(say(&client, 0, b"").await, b"", "an empty frame");
    for length in [(1 << 20) + 1, u32::MAX] {
        assert_eq!(say(&client, length, b"{").await, b"", "a frame of {length} bytes");
    }
    let old = text(&json!({ "v": 2, "id": id, "method": "daemon.ping" }));
    let answer = say(&client, u32::try_from(old.len()).unwrap(), &old).await;
    let answer: Value = serde_json::from_slice(&answer[4..]).unwrap();
    assert_eq!((&answer["v"], &answer["error"]["kind"]), (&json!(1), &json!("Unsupported")));
    for (method, params, kind) in [
        ("volume.frobnicate", json!({}), ErrorKind::Unsupported),
        ("volume.create", json!({ "vmid": 100, "size_bytes": 1, "fast": true }), ErrorKind::InvalidInput),
        ("volume.create", json!({ "vmid": "100" }), ErrorKind::InvalidInput),
        ("volume.grow", json!({ "name": DISK, "size_bytes": -1 }), ErrorKind::InvalidInput),
    ] {
        let error = client.call(method, params).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
    }
    client.call("daemon.ping", json!({})).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut_off() {
    let site = site().await;
    let client = site.client(0);
    let began = Instant::now();
    let mut stream = UnixStream::connect(&client.socket).await.unwrap();
    stream.write_all(&[0, 0]).await.unwrap();
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0);
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
    client.call("daemon.ping", json!({})).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn six_hundred_silent_clients_do_not_stop_the_daemon() {
    let site = site().await;
    let client = site.client(0);
    let mut crowd = Vec::new();
    for _ in 0..600 {
        // Those beyond what the daemon serves at once are turned away, which may show here or later.
        crowd.extend(UnixStream::connect(&client.socket).await.ok());
    }
    let mut served = false;
    for _ in 0..200 {
        if client.call("daemon.ping", json!({})).await.is_ok() {
            served = true;
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(served, "silent clients are cut off after ten seconds");
    drop(crowd);
    client.call("volume.create", create()).await.unwrap();
    assert_eq!(listed(&client).await, [DISK]);
}
