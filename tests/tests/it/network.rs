//! Networks: several management addresses of one array.

use std::net::SocketAddr;
use std::sync::Arc;

use san_core::ErrorKind;
use san_sim::ontap::{OntapConfig as SimConfig, OntapSim, Version};
use san_sim::server::HttpsServer;
use sanbridge::HttpsWires;
use sanbridge_tests::daemons::{Client, DaemonSite};
use sanbridge_tests::site::Site;
use serde_json::{Value, json};

use crate::support::assert_unchanged;

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
