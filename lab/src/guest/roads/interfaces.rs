//! Interfaces of open-iscsi: sessions go through those that a storage names, and through no other.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use san_core::ErrorKind;
use serde_json::json;

use super::bench::{Bench, DISK, wrong};
use crate::guest::network::Network;
use crate::guest::{Check, Failure, Shown, tools};

/// The network in which this machine has two cards.
pub(super) const NETWORK: u8 = 1;
const OPTION: &str = "sanbridge-iscsi-interfaces";
const FIRST: &str = "san.first";
const SECOND: &str = "san.second";
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn checks() -> Vec<Check<Bench>> {
    vec![
        Check {
            name: "sessions go through the interfaces that are named",
            scenarios: &[],
            done: "made two interfaces as an add that lacked them said, with a session of an admin's through the usual one; \
                   attached a disk, cut one card, and logged in anew",
            run: |bench| Box::pin(named(bench)),
            bound: Duration::from_secs(120),
        },
        Check {
            name: "a record of somebody else for another interface",
            scenarios: &[],
            done: "an admin made a record of the portal by hand; a disk was attached through a named interface",
            run: |bench| Box::pin(record_of_others(bench)),
            bound: Duration::from_secs(60),
        },
    ]
}

/// Runs the commands of a remedy, for one interface on one card.
async fn make(remedy: &str, name: &str, card: &str) -> Result<(), Failure> {
    let Some((_, commands)) = remedy.split_once("make it: ") else { return wrong(remedy) };
    for command in commands.split("; ") {
        let command = command.replace("NAME", name).replace("DEVICE", card);
        let words: Vec<&str> = command.split(' ').collect();
        let Some((program, arguments)) = words.split_first() else { return wrong(remedy) };
        tools::run(program, arguments, PATIENCE).await?;
    }
    Ok(())
}

async fn remove(name: &str) -> Result<(), Failure> {
    tools::run("iscsiadm", &["-m", "iface", "-I", name, "-o", "delete"], PATIENCE).await.map(drop)
}

/// Removes what a check that failed may have left.
///
/// # Errors
/// Where iscsiadm does not run.
pub(super) async fn clear() -> Result<(), Failure> {
    for name in [FIRST, SECOND] {
        tools::output("iscsiadm", &["-m", "iface", "-I", name, "-o", "delete"], PATIENCE).await?;
    }
    Ok(())
}

/// What has gone out through a card, in bytes.
fn sent(card: &str) -> Result<u64, Failure> {
    let text = fs::read_to_string(format!("/sys/class/net/{card}/statistics/tx_bytes"))?;
    Ok(text.trim().parse()?)
}

/// The usual session with the portal, as an admin makes it.
async fn log_in_by_hand(bench: &Bench) -> Result<(), Failure> {
    let portal = Network::portal(NETWORK).to_string();
    tools::run("iscsiadm", &["-m", "discovery", "-t", "sendtargets", "-p", &portal], PATIENCE).await?;
    for target in bench.site.targets() {
        let node = ["-m", "node", "-T", target, "-p", &portal, "-I", "default"];
        let update = ["-o", "update", "-n", "node.session.scan", "-v", "manual"];
        for tail in [&update[..], &["--login"]] {
            tools::run("iscsiadm", &[&node[..], tail].concat(), PATIENCE).await?;
        }
    }
    Ok(())
}

async fn named(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (first, second) = (Network::first(NETWORK), Network::second(NETWORK));
    log_in_by_hand(&bench).await?;
    let before = bench.site.settled_audit().await?;
    let portal = Network::portal(NETWORK).ip().to_string();
    let client = bench.client(&[(OPTION, "san.first,san.second"), ("sanbridge-portals", &portal)]);
    let told = match client.add().await {
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        other => return wrong(format!("{other:?}")),
    };
    let remedy = told.remedy().unwrap_or_default();
    make(remedy, FIRST, &first).await?;
    match client.add().await {
        Err(error) if error.message().contains(SECOND) && !error.message().contains(FIRST) => {}
        other => return wrong(format!("with one of two: {other:?}")),
    }
    make(remedy, SECOND, &second).await?;
    client.add().await?;
    let reply = bench.disk(&client).await?;
    let ours = through(&bench);
    let wanted = [(FIRST.to_owned(), "10.77.1.1".to_owned()), (SECOND.to_owned(), "10.77.1.101".to_owned())];
    let usual = bench.sessions().iter().filter(|it| it.interface == "default").count();
    if ours != wanted || usual != 1 || !reply.warnings.is_empty() || !only_named(&bench)? {
        return wrong(format!(
            "{:?}, warned {:?}, legs on {:?}",
            bench.sessions(),
            reply.warnings,
            bench.hosts()?
        ));
    }
    let io = bench.io().await?;
    let carried = [sent(&first)?, sent(&second)?];
    for _ in 0..20 {
        bench.require_well(&io).await?;
    }
    let carried = [sent(&first)? - carried[0], sent(&second)? - carried[1]];
    // The card alone: the other one's session is not touched.
    bench.site.network.cut_second(NETWORK).await?;
    let of_second = |state: &'static str| {
        let bench = &bench;
        let is = move || bench.sessions().iter().any(|it| it.interface == SECOND && it.state == state);
        crate::guest::site::until("the session through the second card changes", is)
    };
    of_second("FAILED").await?;
    bench.require_well(&io).await?;
    let is_up = |it: &super::bench::Session| it.interface == FIRST && it.state == "LOGGED_IN";
    if !bench.sessions().iter().any(is_up) {
        return wrong(format!("a card was cut, and {:?}", bench.sessions()));
    }
    bench.site.network.mend_second(NETWORK).await?;
    of_second("LOGGED_IN").await?;
    io.end().await?;
    client.call("volume.detach", json!({ "name": DISK })).await?;
    // All sessions anew, over whatever records open-iscsi has of the former ones.
    for name in [FIRST, SECOND] {
        tools::run("iscsiadm", &["-m", "node", "-I", name, "--logout"], PATIENCE).await?;
    }
    let reply = client.call("volume.attach", json!({ "name": DISK })).await?;
    if through(&bench) != wanted || !reply.warnings.is_empty() || !only_named(&bench)? {
        return wrong(format!("{:?}, warned {:?}", bench.sessions(), reply.warnings));
    }
    client.call("volume.detach", json!({ "name": DISK })).await?;
    client.call("volume.delete", json!({ "name": DISK })).await?;
    crate::guest::site::remove_guest(100)?;
    client.call("storage.remove", json!({})).await?;
    bench.site.require_as(&before).await?;
    bench.leave().await?;
    remove(FIRST).await?;
    remove(SECOND).await?;
    Ok(Shown::held(format!(
        "an interface that is not there was named with commands that make it; one session through each card, none of the \
         disk's legs behind the admin's; {carried:?} bytes went out through them, and with one cut the other went on"
    )))
}

/// Our sessions through other interfaces than the usual one, and this machine's address of each.
fn through(bench: &Bench) -> Vec<(String, String)> {
    let named = bench.sessions().into_iter().filter(|it| it.interface != "default");
    let mut named: Vec<_> = named.map(|it| (it.interface, it.address)).collect();
    named.sort();
    named
}

/// Whether the disk has two legs, both behind sessions through the interfaces that are named.
fn only_named(bench: &Bench) -> Result<bool, Failure> {
    let named = bench.sessions().into_iter().filter(|it| [FIRST, SECOND].contains(&it.interface.as_str()));
    let mut hosts: Vec<String> = named.map(|it| it.host).collect();
    hosts.sort();
    Ok(hosts.len() == 2 && bench.hosts()? == hosts)
}

async fn record_of_others(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let portal = Network::portal(NETWORK);
    let targets: Vec<&String> = bench.site.targets().iter().collect();
    let [target] = targets.as_slice() else { return wrong(format!("{targets:?}")) };
    let node = ["-m", "node", "-T", target, "-p", &portal.to_string(), "-I", "default"].map(str::to_owned);
    let node: Vec<&str> = node.iter().map(String::as_str).collect();
    let iface = ["-m", "iface", "-I", FIRST, "-o", "new"];
    tools::run("iscsiadm", &iface, PATIENCE).await?;
    tools::run("iscsiadm", &[&node[..], &["-o", "new"]].concat(), PATIENCE).await?;
    let before = bench.site.settled_audit().await?;
    let client = bench.client(&[(OPTION, FIRST), ("sanbridge-portals", &portal.ip().to_string())]);
    client.add().await?;
    bench.create(&client).await?;
    let told = match client.call("volume.attach", json!({ "name": DISK })).await {
        Err(error) => error,
        Ok(reply) => return wrong(format!("attached: {reply:?}")),
    };
    let said = format!("{} ({})", told.chain(), told.remedy().unwrap_or("no remedy"));
    // It is still there, and still that interface's.
    tools::run("iscsiadm", &node, PATIENCE).await?;
    if !said.contains("interface default") || !said.contains("discovery") || !bench.sessions().is_empty() {
        return wrong(format!("{said}; {:?}", bench.sessions()));
    }
    bench.end_without_detach(&client, &before).await?;
    remove(FIRST).await?;
    Ok(Shown::held(format!("the record stayed, and it was told: {said}")))
}
