//! `sanbridge check`: each check fires where something is wrong, and all are silent where nothing is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use san_core::Deadline;
use san_host::Host;
use san_rest::Wire;
use san_sim::host::NoPathRetry;
use san_sim::ontap::{Fault, OntapConfig, OntapSim, Times, Version};
use san_sim::target::Target;
use sanbridge::cli::Screen;
use sanbridge_tests::daemons::{DaemonSite, SimWires};
use sanbridge_tests::site::{PATIENCE, SVM, Site};
use serde_json::{Value, json};

use crate::cli::run_on;
use crate::support::{DISK, answer, inject};

const RULES: &str = "/usr/lib/udev/rules.d";

/// A well-kept site with one attached disk, whose array `change` made different from the usual one.
async fn site_with(change: impl FnOnce(&mut OntapConfig)) -> DaemonSite {
    let site = Site::with(1, Version::new(9, 16, 1), change).unwrap();
    let host = site.node(0).host.clone();
    for rule in ["55-sanbridge.rules", "57-sanbridge.rules"] {
        host.put_file(&Path::new(RULES).join(rule), b"# rules\n");
    }
    let wires = Arc::new(SimWires(site.array.clone()));
    let site = DaemonSite::on(site, wires).await.unwrap();
    let client = site.client(0);
    client.add().await.unwrap();
    client.call("volume.create", json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 })).await.unwrap();
    client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    site
}

async fn well_kept() -> DaemonSite {
    site_with(|_| {}).await
}

/// What is found: the checks' names with their severities. Nothing is changed by looking.
async fn found(site: &DaemonSite) -> Vec<(String, String)> {
    let (before, mark) = (site.audit(), site.site.array.mark());
    let ran = run_on(site.socket(0), Screen::Pipe, &["check", "--json"]).await;
    let answer: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
    assert_eq!(crate::support::changes(&site.site.array, mark), []);
    let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    let found: Vec<_> = answer["findings"].as_array().unwrap().iter().collect();
    for it in &found {
        for part in ["check", "subject", "what", "why", "fix"] {
            assert!(!text(it, part).is_empty(), "{part}: {it}");
        }
    }
    let worst = found.iter().any(|it| it["severity"] != "notice");
    assert_eq!(ran.code, if worst { 20 } else { 0 }, "{ran:?}");
    found.into_iter().map(|it| (text(it, "check"), text(it, "severity"))).collect()
}

/// Exactly these are found.
async fn assert_found(site: &DaemonSite, expected: &[(&str, &str)]) {
    let found = found(site).await;
    let found: Vec<(&str, &str)> =
        found.iter().map(|(check, severity)| (check.as_str(), severity.as_str())).collect();
    assert_eq!(found, expected);
}

/// Changes something on the array as its administrator would.
async fn administer(array: &OntapSim, path: &str, body: Value) {
    let request = http::Request::patch(path)
        .header("authorization", "Basic YWRtaW46bmV0YXBwMSE=")
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_string()))
        .unwrap();
    let answer = array.send(request, Deadline::after(PATIENCE)).await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_found_where_nothing_is_wrong() {
    let site = well_kept().await;
    site.site.node(0).host.put_file(
        Path::new("/etc/lvm/lvm.conf"),
        b"devices {\n  global_filter = [ \"r|^/dev/disk/sanbridge/|\" ]\n}\n",
    );
    site.site.node(0).host.put_file(
        Path::new("/etc/multipath.conf"),
        b"blacklist {\n  wwid 3600508b1001c5ad3\n}\ndefaults {\n  find_multipaths strict\n}\n",
    );
    assert_found(&site, &[]).await;
    let shown = run_on(site.socket(0), Screen::Pipe, &["check"]).await;
    assert_eq!((shown.code, shown.out.as_str()), (0, "Nothing wrong was found on node node1.\n"));
}

#[tokio::test(start_paused = true)]
async fn files_and_daemons_of_the_node_are_looked_at() {
    let site = well_kept().await;
    let host = &site.site.node(0).host;
    host.remove_file(&Path::new(RULES).join("57-sanbridge.rules"));
    assert_found(&site, &[("udev-rule", "failure")]).await;
    host.put_file(&Path::new(RULES).join("57-sanbridge.rules"), b"#\n");
    host.put_file(Path::new("/etc/lvm/lvm.conf"), b"devices {\n  # global_filter = [ \"a|.*|\" ]\n}\n");
    assert_found(&site, &[("lvm-filter", "warning")]).await;
    host.remove_file(Path::new("/etc/lvm/lvm.conf"));
    host.put_file(Path::new("/etc/multipath/conf.d/pve.conf"), b"blacklist {\n  wwid .*\n}\n");
    assert_found(&site, &[("multipath-blacklist", "warning")]).await;
    host.remove_file(Path::new("/etc/multipath/conf.d/pve.conf"));
    host.remove_file(Path::new("/etc/iscsi/initiatorname.iscsi"));
    let seen = found(&site).await;
    assert!(seen.contains(&("initiator-name".to_owned(), "failure".to_owned())), "{seen:?}");
    host.put_file(
        Path::new("/etc/iscsi/initiatorname.iscsi"),
        b"InitiatorName=iqn.1993-08.org.debian:01:node1\n",
    );
    host.stop_multipathd();
    let seen = found(&site).await;
    assert!(seen.contains(&("multipathd".to_owned(), "failure".to_owned())), "{seen:?}");
    let shown = run_on(site.socket(0), Screen::Pipe, &["check"]).await;
    for line in ["FAILURE multipathd: multipathd: ", "  why:  ", "  fix:  apt install multipath-tools"] {
        assert!(shown.out.contains(line), "{line}: {}", shown.out);
    }
}

/// The array with a clock and a certificate of its own, as an answer over HTTPS tells them.
#[derive(Debug, Clone)]
struct Told {
    array: OntapSim,
    date: &'static str,
    valid_for: i64,
}

#[async_trait::async_trait]
impl Wire for Told {
    async fn send(
        &self,
        request: http::Request<Bytes>,
        deadline: Deadline,
    ) -> Result<http::Response<Bytes>, san_rest::WireError> {
        let mut answer = self.array.send(request, deadline).await?;
        if !self.date.is_empty() {
            answer.headers_mut().insert("date", http::HeaderValue::from_static(self.date));
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        answer.extensions_mut().insert(san_rest::ValidUntil(i64::try_from(now).unwrap() + self.valid_for));
        Ok(answer)
    }
}

impl sanbridge::Wires for Told {
    fn wire(&self, _endpoint: &san_rest::Endpoint) -> san_core::Result<Arc<dyn Wire>> {
        Ok(Arc::new(self.clone()))
    }
}

#[tokio::test(start_paused = true)]
async fn the_clock_and_the_certificate_of_the_array_are_looked_at() {
    const DAY: i64 = 86_400;
    for (date, valid_for, expected) in [
        ("", 40 * DAY, None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 40 * DAY, Some(("clock-skew", "warning"))),
        ("Fri, 01 Jan 2126 00:00:00 GMT", 40 * DAY, Some(("clock-skew", "warning"))),
        ("", 20 * DAY, Some(("certificate-expiry", "warning"))),
        ("", -DAY, Some(("certificate-expiry", "failure"))),
    ] {
        let site = Site::new(1).unwrap();
        for rule in ["55-sanbridge.rules", "57-sanbridge.rules"] {
            site.node(0).host.put_file(&Path::new(RULES).join(rule), b"#\n");
        }
        let told = Told { array: site.array.clone(), date, valid_for };
        let site = DaemonSite::on(site, Arc::new(told)).await.unwrap();
        site.client(0).add().await.unwrap();
        assert_found(&site, expected.as_slice()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_array_that_refuses_is_named_with_the_reason() {
    for (fault, check) in [
        (Fault::Refuse, "array-unreachable"),
        (Fault::Unauthorized, "array-credentials"),
        (answer(403, 6), "array-privilege"),
    ] {
        let site = well_kept().await;
        inject(&site.site.array, "GET", "", Times::Always, fault);
        assert_found(&site, &[(check, "failure")]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn settings_of_the_array_are_looked_at() {
    let site = well_kept().await;
    let array = &site.site.array;
    array.set_aggregate_free("aggr1", 1 << 20).unwrap();
    assert_found(&site, &[("nearly-full", "warning")]).await;
    array.set_aggregate_free("aggr1", 1 << 50).unwrap();
    let igroup = array.igroups().into_iter().find(|it| it.name.starts_with("sb_")).unwrap();
    administer(
        array,
        &format!("/api/protocols/san/igroups/{}", igroup.uuid),
        json!({ "os_type": "windows" }),
    )
    .await;
    assert_found(&site, &[("igroup-os-type", "failure")]).await;
    administer(array, &format!("/api/protocols/san/igroups/{}", igroup.uuid), json!({ "os_type": "linux" }))
        .await;
    let volume = array.volumes().into_iter().find(|it| it.name.starts_with("sb_")).unwrap();
    let path = format!("/api/storage/volumes/{}", volume.uuid);
    administer(array, &path, json!({ "snapshot_policy": { "name": "default" } })).await;
    assert_found(&site, &[("snapshot-policy", "notice")]).await;
    administer(array, &path, json!({ "snapshot_policy": { "name": "none" } })).await;
    array.add_igroup(SVM, "clone_of_node1", &["iqn.1993-08.org.debian:01:node1"]).unwrap();
    assert_found(&site, &[("initiator-elsewhere", "failure")]).await;
    administer(array, &path, json!({ "state": "offline" })).await;
    let seen = found(&site).await;
    assert!(seen.contains(&("volume-offline".to_owned(), "failure".to_owned())), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn few_portals_and_controllers_are_noticed() {
    let site = site_with(|it| it.svms[0].portals.truncate(1)).await;
    assert_found(&site, &[("single-portal", "warning")]).await;
    let site = site_with(|it| it.svms[0].portals.truncate(2)).await;
    assert_found(&site, &[("single-controller", "warning")]).await;
}

/// What the node sees of its paths counts, not what it should see.
#[tokio::test(start_paused = true)]
async fn a_disk_whose_paths_all_lead_to_one_controller_is_noticed() {
    let site = well_kept().await;
    let host = &site.site.node(0).host;
    let portals = site.site.array.portals();
    let other = portals.iter().filter(|it| it.node != portals[0].node);
    let other: Vec<_> = other.map(|it| it.address).collect();
    let inventory = host.inventory();
    let hosts = inventory.sessions.iter().filter(|it| other.contains(&it.portal)).map(|it| it.host);
    let hosts: Vec<u32> = hosts.collect();
    let of_other: Vec<_> = inventory.legs.iter().filter(|it| hosts.contains(&it.address.host)).collect();
    assert_eq!((inventory.legs.len(), of_other.len()), (4, 2));
    for leg in of_other {
        let path = format!("/sys/class/scsi_device/{}/device/delete", leg.address);
        host.write_attr(Path::new(&path), "1", Deadline::after(PATIENCE)).await.unwrap();
    }
    // multipathd is told of it by udev. The daemon mends it within half a minute.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_found(&site, &[("disk-single-controller", "warning"), ("paths-missing", "warning")]).await;
}

/// Long before a guest has to start here.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_see_what_all_nodes_see_is_noticed() {
    let site = DaemonSite::started(1).await.unwrap();
    let array = &site.site.array;
    inject(array, "POST", "/protocols/san/igroups", Times::Always, answer(403, 6));
    let mut client = site.client(0);
    client.options.insert("sanbridge-all-nodes".to_owned(), "1".into());
    client.add().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let outside = async || {
        let checked = client.call("admin.check", json!({})).await.unwrap().ok;
        let findings = checked["findings"].as_array().unwrap().clone();
        findings.into_iter().find(|it| it["check"] == "outside-all-nodes")
    };
    let found = outside().await.unwrap();
    assert!(found["severity"] == "failure" && found["what"].as_str().unwrap().contains("igroup"), "{found}");
    array.clear_faults();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(outside().await, None);
    // And where all is well, an igroup of all nodes is nobody's who should not be there.
    assert_eq!(array.igroups().iter().filter(|it| it.name.starts_with("sb-all_")).count(), 1);
    let checked = client.call("admin.check", json!({})).await.unwrap().ok;
    assert!(!checked.to_string().contains("initiator-elsewhere"), "{checked}");
}

/// An upgrade replaces the program on disk; the daemon goes on as it was until somebody restarts it.
#[tokio::test(start_paused = true)]
async fn a_daemon_whose_program_was_replaced_says_so() {
    let site = well_kept().await;
    let host = &site.site.node(0).host;
    let exe = format!("/proc/{}/exe", std::process::id());
    let note = "The program was replaced since this daemon began -- systemctl restart sanbridge.service";
    for (shown, expected) in [("/usr/bin/sanbridge", false), ("/usr/bin/sanbridge (deleted)", true)] {
        host.make_link(Path::new(&exe), Path::new(shown), Deadline::after(PATIENCE)).await.unwrap();
        let found = found(&site).await;
        assert_eq!(found.iter().any(|(check, _)| check == "daemon-outdated"), expected, "{found:?}");
        let status = run_on(site.socket(0), Screen::Pipe, &["status"]).await;
        assert_eq!(status.out.contains(note), expected, "{}", status.out);
        let status = site.client(0).call("admin.status", json!({})).await.unwrap().ok;
        assert_eq!(status["replaced"], expected);
    }
}

#[tokio::test(start_paused = true)]
async fn lost_paths_are_traced_to_their_portals() {
    let site = well_kept().await;
    let portals: Vec<_> = site.site.array.portals().iter().map(|it| it.address).collect();
    let host = &site.site.node(0).host;
    host.partition(portals[0]);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_found(&site, &[("paths-missing", "warning"), ("portal-unreachable", "warning")]).await;
    for portal in &portals {
        host.partition(*portal);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let seen = found(&site).await;
    assert!(seen.contains(&("no-path".to_owned(), "failure".to_owned())), "{seen:?}");
    // Nobody repairs sessions while iscsid rests.
    host.stop_iscsid();
    for portal in &portals {
        host.heal(*portal);
    }
    let seen = found(&site).await;
    assert!(seen.contains(&("session-missing".to_owned(), "warning".to_owned())), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn impatient_and_stubborn_settings_are_noticed() {
    let site = well_kept().await;
    let host = &site.site.node(0).host;
    let path = "/sys/class/iscsi_session/session1/recovery_tmo";
    host.write_attr(Path::new(path), "120", Deadline::after(PATIENCE)).await.unwrap();
    assert_found(&site, &[("recovery-timeout", "warning")]).await;
    let site = Site::new(1).unwrap();
    site.node(0).host.set_multipath(|it| it.no_path_retry = NoPathRetry::Fail);
    let wires = Arc::new(SimWires(site.array.clone()));
    let site = DaemonSite::on(site, wires).await.unwrap();
    site.client(0).add().await.unwrap();
    let create = json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 });
    site.client(0).call("volume.create", create).await.unwrap();
    site.client(0).call("volume.attach", json!({ "name": DISK })).await.unwrap();
    let seen = found(&site).await;
    assert!(seen.contains(&("no-path-retry".to_owned(), "warning".to_owned())), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn records_without_a_device_and_files_nobody_understands_are_noticed() {
    let site = well_kept().await;
    let host = &site.site.node(0).host;
    host.crash();
    host.boot();
    for rule in ["55-sanbridge.rules", "57-sanbridge.rules"] {
        host.put_file(&Path::new(RULES).join(rule), b"#\n");
    }
    let seen = found(&site).await;
    assert!(seen.contains(&("no-device".to_owned(), "failure".to_owned())), "{seen:?}");
    let intents = site.site.node(0).state.join("storages").join("san1").join("intents");
    std::fs::create_dir_all(&intents).unwrap();
    std::fs::write(intents.join("00112233445566778899aabbccddeeff"), b"{\"version\":99}").unwrap();
    let seen = found(&site).await;
    assert!(seen.contains(&("unreadable-operation".to_owned(), "failure".to_owned())), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_daemon_of_iscsi_and_the_folder_of_records_are_looked_at() {
    use std::os::unix::fs::PermissionsExt;
    let site = well_kept().await;
    let host = &site.site.node(0).host;
    let line = |name: &str| format!("0000: 00000002 00000000 00010000 0001 01 4711 {name}\n");
    host.put_file(Path::new("/proc/net/unix"), line("/run/systemd/notify").as_bytes());
    assert_found(&site, &[("iscsid", "failure")]).await;
    host.put_file(Path::new("/proc/net/unix"), line("@ISCSIADM_ABSTRACT_NAMESPACE").as_bytes());
    assert_found(&site, &[]).await;
    let state = &site.site.node(0).state;
    std::fs::set_permissions(state, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_found(&site, &[("state-folder", "warning")]).await;
    std::fs::set_permissions(state, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_found(&site, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_with_another_package_or_none_are_noticed() {
    let site = well_kept().await;
    let members = |names: &[&str]| {
        let nodes: serde_json::Map<String, Value> =
            names.iter().map(|it| ((*it).to_owned(), json!({ "id": 1, "online": 1 }))).collect();
        let text = json!({ "nodename": "node1", "nodelist": nodes }).to_string();
        std::fs::write(site.pve().join(".members"), text).unwrap();
    };
    members(&["node1"]);
    assert_found(&site, &[]).await;
    members(&["node1", "node2", "node3"]);
    let notes = site.pve().join("priv/sanbridge/nodes");
    std::fs::write(notes.join("node2"), b"{\"version\":\"0.0.1\"}").unwrap();
    // Of a node that has left nothing is said.
    std::fs::write(notes.join("node4"), b"{\"version\":\"0.0.1\"}").unwrap();
    assert_found(&site, &[("package-missing", "warning"), ("package-version", "warning")]).await;
}

/// A cluster without a quorum takes no notes; its nodes are no nodes without the package for that.
#[tokio::test(start_paused = true)]
async fn a_node_introduces_itself_as_soon_as_the_cluster_lets_it() {
    let mut site = well_kept().await;
    let notes = site.pve().join("priv/sanbridge/nodes");
    site.kill(0);
    std::fs::remove_dir_all(&notes).unwrap();
    std::fs::write(&notes, b"no folder").unwrap();
    site.start(0, san_core::Effects::unobserved()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    std::fs::remove_file(&notes).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(notes.join("node1").try_exists().unwrap());
}
