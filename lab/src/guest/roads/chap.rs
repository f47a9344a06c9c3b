//! CHAP: the array asks the node for a proof, and is asked for one; secrets change; and nobody sees them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use san_contract::audit::{Audit, said};
use san_core::ErrorKind;
use san_sim::target::{Access, ChapUser};
use sanbridge_tests::daemons::Client;
use serde_json::json;

use super::bench::{Bench, CHAP_NAMES, DISK, fresh_secret, secrets, wrong};
use crate::guest::node::{Form, PVE};
use crate::guest::secrets::{self as hunt, Watch};
use crate::guest::site::until;
use crate::guest::{Check, Failure, Shown, tools};

const USER: &str = "nodes";
const ARRAY_USER: &str = "filer";
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn checks() -> Vec<Check<Bench>> {
    vec![
        Check {
            name: "nodes prove themselves to the array",
            scenarios: &[],
            done: "added a storage with a CHAP name and secret and attached a disk, every process being watched",
            run: |bench| Box::pin(proves(bench, None)),
            bound: Duration::from_secs(60),
        },
        Check {
            name: "the array proves itself to nodes as well",
            scenarios: &[],
            done: "the same with a name and a secret of the array (mutual CHAP)",
            run: |bench| Box::pin(proves(bench, Some(fresh_secret()))),
            bound: Duration::from_secs(60),
        },
        Check {
            name: "a wrong secret of the node",
            scenarios: &["27"],
            done: "the array asked for another secret than the storage has, and for the right one later",
            run: |bench| Box::pin(refused(bench, Side::Node)),
            bound: Duration::from_secs(60),
        },
        Check {
            name: "a wrong secret of the array",
            scenarios: &["27"],
            done: "the array proved another secret than the storage has, and the right one later",
            run: |bench| Box::pin(refused(bench, Side::Array)),
            bound: Duration::from_secs(60),
        },
        Check {
            name: "a new secret while disks are attached",
            scenarios: &[],
            done: "changed the secret under input and output, broke one session, logged out of it, and attached again",
            run: |bench| Box::pin(rotated(bench)),
            bound: Duration::from_secs(90),
        },
    ]
}

/// A storage whose logins prove something: its client, with the section.
fn proving(bench: &Bench, target: Option<&str>) -> Client {
    let own = ("sanbridge-chap-username", USER);
    let both = [own, ("sanbridge-chap-target-username", ARRAY_USER)];
    bench.client(if target.is_some() { &both } else { &both[..1] })
}

/// What the kernel's target has this node prove, in each of our portal groups: user, secret, and those of its own proof.
fn asked_for(bench: &Bench) -> Result<BTreeSet<[String; 5]>, Failure> {
    let mut found = BTreeSet::new();
    for target in bench.site.targets() {
        let folder = Path::new("/sys/kernel/config/target/iscsi").join(target);
        for group in crate::guest::ledger::names(&folder).iter().filter(|it| it.starts_with("tpgt_")) {
            let acl = folder.join(group).join("acls").join(&bench.site.node.initiator);
            let text = |file: &str| -> Result<String, Failure> {
                Ok(fs::read_to_string(acl.join(file))?.trim().to_owned())
            };
            found.insert([
                text("attrib/authentication")?,
                text("auth/userid")?,
                text("auth/password")?,
                text("auth/userid_mutual")?,
                text("auth/password_mutual")?,
            ]);
        }
    }
    Ok(found)
}

/// Every portal group asks for exactly this.
fn require_asked(bench: &Bench, own: &str, target: Option<&str>) -> Result<(), Failure> {
    let (user, secret) = target.map_or(("NULL", "NULL"), |it| (ARRAY_USER, it));
    let wanted = BTreeSet::from([["1", USER, own, user, secret].map(str::to_owned)]);
    let found = asked_for(bench)?;
    if found == wanted { Ok(()) } else { wrong(format!("the kernel's target asks for {found:?}")) }
}

/// The storage proves nothing any more, and the array asks for nothing: what was made is ended.
async fn withdraw(bench: &Bench, mut client: Client, before: &Audit) -> Result<(), Failure> {
    let names: Vec<&str> = CHAP_NAMES.into_iter().filter(|it| client.options.contains_key(*it)).collect();
    client.call("storage.update", json!({ "delete": names })).await?;
    client.options.retain(|name, _| !names.contains(&name.as_str()));
    let found = asked_for(bench)?;
    if found.iter().any(|it| it[0] != "0") {
        return wrong(format!("the kernel's target still asks for {found:?}"));
    }
    bench.end(&client, before).await
}

/// Where open-iscsi keeps records and the cluster its secrets.
fn may_hold(path: &Path) -> bool {
    let records = ["/var/lib/iscsi/nodes", "/etc/iscsi/nodes"];
    records.iter().any(|it| path.starts_with(it)) || path.starts_with(Path::new(PVE).join("priv/storage"))
}

/// The secrets lie in root's files alone, of open-iscsi and of the cluster's secrets, and nobody said them; how many files.
async fn require_hidden(bench: &Bench, secrets: &[&str]) -> Result<usize, Failure> {
    let files = hunt::files(secrets)?;
    if let Some(odd) = files.iter().find(|it| !may_hold(it)) {
        return wrong(format!("a secret lies in {}", odd.display()));
    }
    let kernel = tools::run("dmesg", &[], PATIENCE).await?;
    let program = bench.site.node.said();
    let records = tools::run("iscsiadm", &["-m", "node", "-o", "show"], PATIENCE).await?;
    let texts = [("the kernel's log", kernel), ("the program's log", program), ("a shown record", records)];
    let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
    for secret in secrets {
        let findings = said(secret, &texts);
        if !findings.is_empty() {
            return wrong(findings.to_string());
        }
    }
    Ok(files.len())
}

async fn proves(bench: Arc<Bench>, target: Option<String>) -> Result<Shown, Failure> {
    let target = target.as_deref();
    let own = fresh_secret();
    let all: Vec<&str> = std::iter::once(own.as_str()).chain(target).collect();
    let before = bench.site.settled_audit().await?;
    let client = proving(&bench, target);
    let watch = Watch::start(&all);
    client.call("storage.add", secrets(&own, target)).await?;
    let reply = bench.disk(&client).await?;
    let (looks, seen) = watch.end().await?;
    if !seen.is_empty() || !reply.warnings.is_empty() || bench.legs()? != [1, 2, 3] {
        return wrong(format!("{seen:?}, {:?}, legs {:?}", reply.warnings, bench.legs()?));
    }
    require_asked(&bench, &own, target)?;
    let files = require_hidden(&bench, &all).await?;
    // The records of the three portals, and the file of the cluster.
    if files != 4 {
        return wrong(format!("the secrets lie in {files} files"));
    }
    let io = bench.io().await?;
    bench.require_well(&io).await?;
    io.end().await?;
    withdraw(&bench, client, &before).await?;
    let left = hunt::files(&all)?;
    if !left.is_empty() {
        return wrong(format!("secrets are left in {left:?}"));
    }
    Ok(Shown::held(format!(
        "three sessions; {looks} looks at every process saw no secret, nor did the kernel's log, the program's and \
         `iscsiadm -o show`; they lay in {files} files of root's, and in none once all was removed"
    )))
}

/// Whose secret is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Node,
    Array,
}

async fn refused(bench: Arc<Bench>, side: Side) -> Result<Shown, Failure> {
    let (own, of_array) = (fresh_secret(), fresh_secret());
    let target = (side == Side::Array).then_some(of_array.as_str());
    let before = bench.site.settled_audit().await?;
    let client = proving(&bench, target);
    client.call("storage.add", secrets(&own, target)).await?;
    bench.create(&client).await?;
    let user = |name: &str, secret: &str| ChapUser { user: name.to_owned(), secret: secret.to_owned() };
    let another = match side {
        Side::Node => Access::Chap { initiator: user(USER, &fresh_secret()), target: None },
        Side::Array => {
            Access::Chap { initiator: user(USER, &own), target: Some(user(ARRAY_USER, &fresh_secret())) }
        }
    };
    let plane = bench.site.live.plane();
    plane.plane().set_access(&bench.site.node.initiator, another);
    bench.site.sync().await?;
    let answer = client.call("volume.attach", json!({ "name": DISK })).await;
    plane.plane().set_access(&bench.site.node.initiator, None);
    bench.site.sync().await?;
    let told = match answer {
        Err(error) if error.kind() == ErrorKind::Unavailable => error,
        other => return wrong(format!("{other:?}")),
    };
    let words = match side {
        Side::Node => "refused this initiator",
        Side::Array => "did not prove itself",
    };
    let said = format!("{} ({})", told.chain(), told.remedy().unwrap_or("no remedy"));
    let advises = told.remedy().is_some_and(|it| it.contains("CHAP"));
    if !said.contains(words) || !advises || !bench.sessions().is_empty() {
        return wrong(format!("{said}; sessions {:?}", bench.sessions()));
    }
    // What just failed is left alone for a while; a program that is started anew knows nothing of that.
    bench.site.node.stop().await?;
    bench.site.node.start(Form::Program).await?;
    client.call("volume.attach", json!({ "name": DISK })).await?;
    let io = bench.io().await?;
    bench.require_well(&io).await?;
    io.end().await?;
    withdraw(&bench, client, &before).await?;
    Ok(Shown::held(format!("no session, and told: {said}; with the right one it was attached")))
}

async fn rotated(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (first, second) = (fresh_secret(), fresh_secret());
    let before = bench.site.settled_audit().await?;
    let client = proving(&bench, None);
    client.call("storage.add", secrets(&first, None)).await?;
    bench.disk(&client).await?;
    let io = bench.io().await?;
    let sessions = bench.sessions();
    let watch = Watch::start(&[&first, &second]);
    client.call("storage.update", json!({ "secrets": { "sanbridge-chap-password": second } })).await?;
    require_asked(&bench, &second, None)?;
    bench.require_well(&io).await?;
    if bench.sessions() != sessions {
        return wrong(format!("before {sessions:?}, after {:?}", bench.sessions()));
    }
    // iscsid repairs a session with what it was made with: this one stays broken, and the others carry the disk.
    bench.site.network.cut(2).await?;
    bench.await_state(2, "FAILED").await?;
    bench.site.network.mend(2).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.require_well(&io).await?;
    let states: Vec<_> = bench.sessions().into_iter().map(|it| (it.network, it.state)).collect();
    if !states.iter().any(|(network, state)| *network == 2 && state != "LOGGED_IN") {
        return wrong(format!(
            "a session came back with a secret that is not asked for any more: {states:?}"
        ));
    }
    let reply = client.call("volume.attach", json!({ "name": DISK })).await?;
    // The cure that the documentation names.
    let portal = crate::guest::network::Network::portal(2).to_string();
    tools::run("iscsiadm", &["-m", "node", "-p", &portal, "--logout"], PATIENCE).await?;
    until("the broken session is gone", || bench.networks() == [1, 3]).await?;
    let again = client.call("volume.attach", json!({ "name": DISK })).await?;
    let (_, seen) = watch.end().await?;
    if !seen.is_empty() || bench.legs()? != [1, 2, 3] {
        return wrong(format!("{seen:?}, legs {:?}, warned {:?}", bench.legs()?, again.warnings));
    }
    bench.require_well(&io).await?;
    io.end().await?;
    let files = require_hidden(&bench, &[&second]).await?;
    withdraw(&bench, client, &before).await?;
    let left = hunt::files(&[&first, &second])?;
    if !left.is_empty() {
        return wrong(format!("secrets are left in {left:?}"));
    }
    Ok(Shown::held(format!(
        "three sessions stayed as they were; a broken one did not come back, of which an attach said {:?}; after a logout \
         the next login proved the new secret, which lay in {files} files",
        reply.warnings
    )))
}
