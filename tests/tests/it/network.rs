//! Networks: several management addresses of one array, and by which roads its volumes are reached.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use san_contract::audit::said;
use san_core::{Array as _, Chap, ChapName, Cx, Deadline, Effects, ErrorKind, Initiator, OperationId};
use san_host::{Host as _, Tool};
use san_sim::host::SimNode;
use san_sim::ontap::{OntapConfig as SimConfig, OntapSim, PortalConfig, Version};
use san_sim::server::HttpsServer;
use sanbridge::HttpsWires;
use sanbridge_tests::daemons::{Client, DaemonSite, SimWires};
use sanbridge_tests::site::{PASSWORD, PATIENCE, SPACE, Site};
use serde_json::{Value, json};

use crate::support::{Log, assert_unchanged};

async fn server(array: &OntapSim, listen: &str) -> HttpsServer {
    let listen: SocketAddr = listen.parse().unwrap();
    HttpsServer::start(Arc::new(array.clone()), listen, &[]).await.unwrap()
}

/// A site whose daemon speaks HTTPS, and a client whose section names these servers.
async fn reached_by(site: Site, servers: &[&HttpsServer]) -> (DaemonSite, Client) {
    let site = DaemonSite::on(site, Arc::new(HttpsWires)).await.unwrap();
    let mut client = site.client(0);
    name(&mut client, servers);
    (site, client)
}

/// Makes the client's section name these servers and their certificates.
fn name(client: &mut Client, servers: &[&HttpsServer]) {
    let join = |texts: Vec<String>| Value::from(texts.join(","));
    let addresses = servers.iter().map(|it| it.address().to_string()).collect();
    let pins = servers.iter().map(|it| it.fingerprint().to_string()).collect();
    client.options.insert("sanbridge-address".to_owned(), join(addresses));
    client.options.insert("sanbridge-fingerprint".to_owned(), join(pins));
}

fn new_disk(vmid: u32) -> Value {
    json!({ "vmid": vmid, "name": null, "size_bytes": 8 << 20 })
}

#[tokio::test]
async fn the_array_is_served_while_any_of_its_addresses_answers() {
    let site = Site::new(1).unwrap();
    let first = server(&site.array, "127.0.0.2:0").await;
    let second = server(&site.array, "[::1]:0").await;
    let (site, client) = reached_by(site, &[&first, &second]).await;
    let added = client.add().await.unwrap();
    assert_eq!(added.warnings, [] as [&str; 0]);
    let live = async || {
        client.call("volume.create", new_disk(100)).await.unwrap();
        for method in ["volume.attach", "volume.detach", "volume.delete"] {
            client.call(method, json!({ "name": "vm-100-disk-0" })).await.unwrap();
        }
    };
    live().await;
    let before = site.site.audit();
    let served_by_second = second.connections();
    drop(first);
    live().await;
    assert!(second.connections() > served_by_second, "the second address serves now");
    assert_unchanged(&site.site, &before);
}

#[tokio::test]
async fn an_address_that_is_silent_at_an_add_is_told_and_one_of_another_array_is_refused() {
    let site = Site::new(1).unwrap();
    let folder = site.folder().join("other");
    // Of another seed, so of other keys.
    let other = SimConfig { seed: 2, ..SimConfig::new(Version::new(9, 16, 1), folder) };
    let other = OntapSim::new(other).unwrap();
    let first = server(&site.array, "127.0.0.2:0").await;
    let second = server(&site.array, "127.0.0.3:0").await;
    let foreign = server(&other, "127.0.0.4:0").await;
    let (site, mut client) = reached_by(site, &[&first, &foreign]).await;
    let before = site.site.audit();
    let error = client.add().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    let shown = format!("{error:?}");
    assert!(shown.contains(&foreign.address().to_string()), "{shown}");
    assert_unchanged(&site.site, &before);
    name(&mut client, &[&first, &second]);
    let silent = second.address().to_string();
    drop(second);
    let added = client.add().await.unwrap();
    assert!(matches!(added.warnings.as_slice(), [one] if one.contains(&silent)), "{:?}", added.warnings);
    // A section that names it later is refused as well, and the storage goes on as it was.
    let address = format!("{},{}", first.address(), foreign.address());
    let pins = format!("{},{}", first.fingerprint(), foreign.fingerprint());
    let changes = json!({ "sanbridge-address": address, "sanbridge-fingerprint": pins });
    let error = client.call("storage.update", json!({ "changes": changes })).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    client.call("volume.list", json!({})).await.unwrap();
}

/// A site over the array in process, and a client whose section holds these options too.
async fn site_with(change: impl FnOnce(&mut SimConfig), options: &[(&str, &str)]) -> (DaemonSite, Client) {
    let site = Site::with(1, Version::new(9, 16, 1), change).unwrap();
    let wires = Arc::new(SimWires(site.array.clone()));
    let site = DaemonSite::on(site, wires).await.unwrap();
    let mut client = site.client(0);
    client.options.extend(options.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))));
    (site, client)
}

async fn attach(client: &Client, disk: &str) -> Vec<String> {
    client.call("volume.attach", json!({ "name": disk })).await.unwrap().warnings
}

/// Takes a disk away again.
async fn discard(client: &Client, disk: &str) {
    client.call("volume.detach", json!({ "name": disk })).await.unwrap();
    client.call("volume.delete", json!({ "name": disk })).await.unwrap();
}

/// The portals behind which a node has legs, and how many legs it has.
fn legs(site: &DaemonSite) -> (BTreeSet<String>, usize) {
    let inventory = site.site.node(0).host.inventory();
    let portal = |host: u32| inventory.sessions.iter().find(|it| it.host == host).map(|it| it.portal);
    let portals = inventory.legs.iter().filter_map(|it| portal(it.address.host));
    (portals.map(|it| it.to_string()).collect(), inventory.legs.len())
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|it| (*it).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn only_portals_that_are_allowed_are_connected_to_and_expected() {
    let (site, client) = site_with(|_| {}, &[("sanbridge-portals", "10.0.0.0/31, 10.0.0.3")]).await;
    client.add().await.unwrap();
    client.call("volume.create", new_disk(100)).await.unwrap();
    assert_eq!(attach(&client, "vm-100-disk-0").await, [] as [&str; 0]);
    let allowed = set(&["10.0.0.1:3260", "10.0.0.3:3260"]);
    assert_eq!(legs(&site), (allowed.clone(), 2));
    let sessions = site.site.node(0).host.inventory().sessions;
    assert_eq!(sessions.iter().map(|it| it.portal.to_string()).collect::<BTreeSet<_>>(), allowed);
    discard(&client, "vm-100-disk-0").await;
    let before = site.site.audit();
    client.call("volume.create", new_disk(100)).await.unwrap();
    attach(&client, "vm-100-disk-0").await;
    discard(&client, "vm-100-disk-0").await;
    assert_unchanged(&site.site, &before);
}

#[tokio::test(start_paused = true)]
async fn portals_that_the_array_does_not_have_are_named_at_the_add() {
    let (site, mut client) = site_with(|_| {}, &[("sanbridge-portals", "10.9.0.0/16")]).await;
    let before = site.site.audit();
    let error = client.add().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    let there = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
    assert!(there.iter().all(|it| format!("{error:?}").contains(it)), "{error:?}");
    assert_unchanged(&site.site, &before);
    client.options.insert("sanbridge-portals".to_owned(), "10.0.0.1".into());
    client.add().await.unwrap();
    // The disk's controller has one that is allowed, and a change of mind is taken.
    let changes = json!({ "sanbridge-portals": "10.9.0.0/16" });
    client.call("storage.update", json!({ "changes": changes })).await.unwrap_err();
    client.call("storage.update", json!({ "changes": { "sanbridge-portals": "10.0.0.2" } })).await.unwrap();
    client.options.insert("sanbridge-portals".to_owned(), "10.0.0.2".into());
    client.call("volume.create", new_disk(100)).await.unwrap();
    attach(&client, "vm-100-disk-0").await;
    assert_eq!(legs(&site), (set(&["10.0.0.2:3260"]), 1));
}

#[tokio::test(start_paused = true)]
async fn paths_are_limited_to_ports_that_are_up_on_both_controllers() {
    let (site, client) = site_with(|_| {}, &[("sanbridge-max-paths", "2")]).await;
    client.add().await.unwrap();
    let mut used = BTreeSet::new();
    // A name that is free again is taken again; the number on the node is another one each time.
    let disk = "vm-100-disk-0";
    for _ in 0..4 {
        client.call("volume.create", new_disk(100)).await.unwrap();
        assert_eq!(attach(&client, disk).await, [] as [&str; 0]);
        let (portals, legs) = legs(&site);
        let controllers = [["10.0.0.1:3260", "10.0.0.2:3260"], ["10.0.0.3:3260", "10.0.0.4:3260"]];
        assert_eq!(legs, 2);
        assert!(
            controllers.iter().all(|it| it.iter().any(|portal| portals.contains(*portal))),
            "{portals:?}"
        );
        used.extend(portals);
        discard(&client, disk).await;
    }
    assert_eq!(used.len(), 4, "other ports for the next disk");
    let host = &site.site.node(0).host;
    for dead in ["10.0.0.1:3260", "10.0.0.3:3260"] {
        host.partition(dead.parse().unwrap());
    }
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    client.call("volume.create", new_disk(100)).await.unwrap();
    attach(&client, "vm-100-disk-0").await;
    assert_eq!(legs(&site), (set(&["10.0.0.2:3260", "10.0.0.4:3260"]), 2));
}

#[tokio::test(start_paused = true)]
async fn sessions_are_made_through_every_interface_that_is_named_and_each_must_be_there() {
    let (site, client) = site_with(|_| {}, &[("sanbridge-iscsi-interfaces", "iface.eth1,iface.eth2")]).await;
    let host = &site.site.node(0).host;
    let make = async |name: &str, card: &str| {
        for tail in [vec!["-o", "new"], vec!["-o", "update", "-n", "iface.net_ifacename", "-v", card]] {
            let arguments = [vec!["-m", "iface", "-I", name], tail].concat();
            let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
            let ran = host.run(Tool::Iscsiadm, &arguments, Deadline::after(PATIENCE)).await.unwrap();
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
    };
    make("iface.eth1", "eth1").await;
    let error = client.add().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    let shown = format!("{error:?}");
    assert!(shown.contains("iface.eth2") && !shown.contains("iface.eth1"), "{shown}");
    make("iface.eth2", "eth2").await;
    client.add().await.unwrap();
    let changes =
        json!({ "changes": { "sanbridge-iscsi-interfaces": "iface.eth1,iface.eth3" }, "delete": null });
    let error = client.call("storage.update", changes).await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && format!("{error:?}").contains("iface.eth3"), "{error:?}");
    client.call("volume.create", new_disk(100)).await.unwrap();
    assert_eq!(attach(&client, "vm-100-disk-0").await, [] as [&str; 0]);
    let (portals, count) = legs(&site);
    assert_eq!((portals.len(), count), (4, 8));
    host.forget_log();
    attach(&client, "vm-100-disk-0").await;
    assert_eq!(host.logged(san_sim::host::LogKind::Program), [] as [&str; 0], "it costs nothing again");
    discard(&client, "vm-100-disk-0").await;
    let before = site.site.audit();
    client.call("volume.create", new_disk(100)).await.unwrap();
    attach(&client, "vm-100-disk-0").await;
    discard(&client, "vm-100-disk-0").await;
    assert_unchanged(&site.site, &before);
}

#[tokio::test(start_paused = true)]
async fn portals_of_version_6_carry_disks() {
    let portals = |config: &mut SimConfig| {
        let portal = |last: u16, node| PortalConfig {
            address: SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, last], 3260)),
            node,
        };
        config.svms[0].portals = vec![portal(1, 0), portal(2, 0), portal(3, 1), portal(4, 1)];
    };
    let (site, client) = site_with(portals, &[("sanbridge-portals", "fd00::/127,[fd00::3]")]).await;
    client.add().await.unwrap();
    client.call("volume.create", new_disk(100)).await.unwrap();
    assert_eq!(attach(&client, "vm-100-disk-0").await, [] as [&str; 0]);
    assert_eq!(legs(&site), (set(&["[fd00::1]:3260", "[fd00::3]:3260"]), 2));
    discard(&client, "vm-100-disk-0").await;
    assert_eq!(legs(&site).1, 0);
}

const FIRST: &str = "first-canary-secret";
const SECOND: &str = "second-canary-secret";
const OF_ARRAY: &str = "canary-of-the-array";

/// Lets a client's section name both sides.
fn name_both(client: &mut Client) {
    client.options.insert("sanbridge-chap-username".to_owned(), "nodes".into());
    client.options.insert("sanbridge-chap-target-username".to_owned(), "filer".into());
}

async fn add_proving(client: &Client) {
    let secrets = json!({
        "sanbridge-password": PASSWORD,
        "sanbridge-chap-password": FIRST,
        "sanbridge-chap-target-password": OF_ARRAY,
    });
    client.call("storage.add", json!({ "secrets": secrets })).await.unwrap();
}

/// Two nodes with daemons and their clients, on a storage whose logins prove themselves both ways.
async fn proving() -> (DaemonSite, Vec<Client>) {
    let site = DaemonSite::started(2).await.unwrap();
    let mut clients = vec![site.client(0), site.client(1)];
    clients.iter_mut().for_each(name_both);
    add_proving(&clients[0]).await;
    clients[0].call("volume.create", new_disk(100)).await.unwrap();
    clients[0].call("volume.create", new_disk(100)).await.unwrap();
    (site, clients)
}

fn users(site: &DaemonSite, node: usize) -> Option<(Option<String>, Option<String>)> {
    site.site.array.credential_users(&site.site.node(node).host.initiator())
}

fn both() -> (Option<String>, Option<String>) {
    (Some("nodes".to_owned()), Some("filer".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn logins_prove_themselves_both_ways_and_nobody_else_sees_the_secrets() {
    let (log, capturing) = Log::capture();
    let (site, clients) = proving().await;
    assert_eq!(attach(&clients[0], "vm-100-disk-0").await, [] as [&str; 0]);
    assert_eq!(attach(&clients[1], "vm-100-disk-1").await, [] as [&str; 0]);
    assert_eq!((users(&site, 0), users(&site, 1)), (Some(both()), Some(both())));
    drop(capturing);
    let mut texts = vec![log.text()];
    for node in 0..2 {
        texts.extend(site.site.node(node).host.log().iter().map(ToString::to_string));
    }
    let requests = site.site.array.requests(san_sim::ontap::Mark::START);
    texts.extend(requests.iter().map(|it| format!("{it:?}")));
    for secret in [FIRST, OF_ARRAY] {
        let texts: Vec<(&str, &str)> = texts.iter().map(|it| ("a text", it.as_str())).collect();
        let findings = said(secret, &texts);
        assert!(findings.is_empty(), "{findings}");
    }
    for (client, disk) in clients.iter().zip(["vm-100-disk-0", "vm-100-disk-1"]) {
        discard(client, disk).await;
    }
    let before = site.site.audit();
    clients[1].call("volume.create", new_disk(100)).await.unwrap();
    attach(&clients[1], "vm-100-disk-0").await;
    discard(&clients[1], "vm-100-disk-0").await;
    assert_unchanged(&site.site, &before);
}

#[tokio::test(start_paused = true)]
async fn a_new_secret_reaches_the_array_and_every_node_before_its_next_login() {
    let (site, clients) = proving().await;
    attach(&clients[0], "vm-100-disk-0").await;
    attach(&clients[1], "vm-100-disk-1").await;
    let sessions = site.site.node(0).host.inventory().sessions;
    let update = json!({ "secrets": { "sanbridge-chap-password": SECOND } });
    clients[0].call("storage.update", update).await.unwrap();
    assert_eq!(site.site.node(0).host.inventory().sessions, sessions, "sessions stay up");
    attach(&clients[0], "vm-100-disk-0").await;
    // After a restart of the nodes every session is made anew, with what the file holds now.
    for (node, disk) in [(0, "vm-100-disk-0"), (1, "vm-100-disk-1")] {
        let host = &site.site.node(node).host;
        host.crash();
        host.boot();
        assert_eq!(attach(&clients[node], disk).await, [] as [&str; 0]);
        assert_eq!(host.inventory().sessions.len(), 4);
        let records = record_files(host).await;
        assert!(records.iter().all(|it| it.contains(SECOND) && !it.contains(FIRST)), "{}", records.len());
        assert_eq!(records.len(), 4);
    }
}

/// The texts of a node's records.
async fn record_files(host: &SimNode) -> Vec<String> {
    let mut texts = Vec::new();
    for it in host.inventory().records {
        let path = format!("/var/lib/iscsi/nodes/{}/{},{}", it.target, it.portal.ip(), it.portal.port());
        let text = host.read(Path::new(&path), 1 << 16, Deadline::after(PATIENCE)).await.unwrap();
        texts.push(String::from_utf8(text.unwrap()).unwrap());
    }
    texts
}

#[tokio::test(start_paused = true)]
async fn a_login_that_the_array_refuses_is_named_and_a_proof_that_is_removed_is_asked_for_no_more() {
    let (site, mut clients) = proving().await;
    attach(&clients[0], "vm-100-disk-0").await;
    let other = |secret: &str| ChapName { user: "nodes".to_owned(), secret: secret.into() };
    let strange = Chap { initiator: other("not-what-we-know"), target: None };
    let array = site.site.connect(Effects::unobserved()).await.unwrap();
    let cx = Cx::new(Deadline::after(PATIENCE), OperationId::random(), Effects::unobserved());
    let initiator = Initiator::Iscsi(site.site.node(0).host.initiator().parse().unwrap());
    let logins = array.host_logins().unwrap();
    logins.ensure_login(&cx, std::slice::from_ref(&initiator), Some(&strange)).await.unwrap();
    site.site.node(0).host.crash();
    site.site.node(0).host.boot();
    let error = clients[0].call("volume.attach", json!({ "name": "vm-100-disk-0" })).await.unwrap_err();
    let shown = format!("{error:?}");
    assert!(shown.contains("refused this initiator") && shown.contains("exit code 24"), "{shown}");
    assert!(error.remedy().is_some_and(|it| it.contains("CHAP settings")), "{error:?}");
    let delete = ["sanbridge-chap-username", "sanbridge-chap-target-username"];
    clients[0].call("storage.update", json!({ "delete": delete })).await.unwrap();
    assert_eq!(users(&site, 0), None);
    for client in &mut clients {
        client.options.retain(|key, _| !delete.contains(&key.as_str()));
    }
    // What failed proved something else: it is not left alone because of that.
    assert_eq!(attach(&clients[0], "vm-100-disk-0").await, [] as [&str; 0]);
    assert_eq!(attach(&clients[1], "vm-100-disk-1").await, [] as [&str; 0]);
    assert_eq!(users(&site, 1), None);
    let secret = std::fs::read_to_string(site.pve().join("priv/storage").join(format!("{SPACE}.sanbridge")));
    assert!(!secret.unwrap().contains("canary"), "what nobody proves is forgotten");
    assert!(record_files(&site.site.node(0).host).await.iter().all(|it| !it.contains("canary")));
}

/// open-iscsi breaks such a login off itself, with the code of a login that failed for good.
#[tokio::test(start_paused = true)]
async fn an_array_that_does_not_prove_itself_is_told_from_one_that_refuses() {
    let (site, clients) = proving().await;
    attach(&clients[0], "vm-100-disk-0").await;
    let name = |user: &str, secret: &str| ChapName { user: user.to_owned(), secret: secret.into() };
    let array = site.site.connect(Effects::unobserved()).await.unwrap();
    let initiator = Initiator::Iscsi(site.site.node(0).host.initiator().parse().unwrap());
    let logins = array.host_logins().unwrap();
    for target in [Some(name("filer", "another-secret-of-it")), Some(name("another", OF_ARRAY)), None] {
        let strange = Chap { initiator: name("nodes", FIRST), target };
        let cx = Cx::new(Deadline::after(PATIENCE), OperationId::random(), Effects::unobserved());
        logins.ensure_login(&cx, std::slice::from_ref(&initiator), Some(&strange)).await.unwrap();
        site.site.node(0).host.crash();
        site.site.node(0).host.boot();
        tokio::time::sleep(std::time::Duration::from_secs(600)).await;
        let error = clients[0].call("volume.attach", json!({ "name": "vm-100-disk-0" })).await.unwrap_err();
        let shown = format!("{error:?}");
        assert!(shown.contains("did not prove itself") && shown.contains("exit code 19"), "{shown}");
        assert!(error.remedy().is_some_and(|it| it.contains("mutual CHAP")), "{error:?}");
        assert!(site.site.node(0).host.inventory().sessions.is_empty());
    }
}

/// A node that was away when the proof was removed, and was started more than once before it needed a session again.
#[tokio::test(start_paused = true)]
async fn a_proof_that_is_removed_is_taken_back_by_a_node_that_was_away() {
    let (mut site, mut clients) = proving().await;
    attach(&clients[1], "vm-100-disk-1").await;
    assert_eq!(users(&site, 1), Some(both()));
    site.kill(1);
    site.site.node(1).host.crash();
    site.site.node(1).host.boot();
    let delete = ["sanbridge-chap-username", "sanbridge-chap-target-username"];
    clients[0].call("storage.update", json!({ "delete": delete })).await.unwrap();
    for client in &mut clients {
        client.options.retain(|key, _| !delete.contains(&key.as_str()));
    }
    for _ in 0..3 {
        site.start(1, Effects::unobserved()).await.unwrap();
        clients[1].call("volume.list", json!({})).await.unwrap();
        site.kill(1);
    }
    site.start(1, Effects::unobserved()).await.unwrap();
    assert_eq!(attach(&clients[1], "vm-100-disk-1").await, [] as [&str; 0]);
    assert_eq!(users(&site, 1), None);
}

#[tokio::test(start_paused = true)]
async fn two_storages_of_one_tenant_must_log_in_in_the_same_way() {
    let (site, clients) = proving().await;
    let mut second = site.client(0);
    second.storage = "san2".to_owned();
    let error = second.add().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    attach(&clients[0], "vm-100-disk-0").await;
    name_both(&mut second);
    let secrets = json!({
        "sanbridge-password": PASSWORD,
        "sanbridge-chap-password": SECOND,
        "sanbridge-chap-target-password": OF_ARRAY,
    });
    let error = second.call("storage.add", json!({ "secrets": secrets })).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "the names alone say nothing: {error:?}");
    add_proving(&second).await;
    // One after the other can be changed, and the difference is told meanwhile.
    for (client, is_told) in [(&clients[0], true), (&second, false)] {
        let delete = ["sanbridge-chap-username", "sanbridge-chap-target-username"];
        let warnings = client.call("storage.update", json!({ "delete": delete })).await.unwrap().warnings;
        assert_eq!(
            warnings.iter().any(|it| it.contains("do not log in in the same way")),
            is_told,
            "{warnings:?}"
        );
    }
    assert_eq!(users(&site, 0), None);
}
