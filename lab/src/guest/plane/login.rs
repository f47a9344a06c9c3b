//! Sessions: who may log in, where, and what a LUN says of itself.

use std::sync::Arc;
use std::time::Duration;

use san_sim::target::{Access, ChapUser, Reachability};

use super::bench::{Bench, IGROUP, MIB, PATIENCE, SOON, SVM, attribute, delete, device, hex, rescan, within};
use crate::guest::network::{Block, Direction, Network};
use crate::guest::{Check, Failure, Shown, tools};

pub(super) fn checks() -> Vec<Check<Bench>> {
    vec![
        Check {
            name: "identity",
            scenarios: &[],
            done: "a LUN was made and mapped over REST; both legs were asked who they are",
            run: |bench| Box::pin(identity(bench)),
            bound: Duration::from_secs(15),
        },
        Check {
            name: "refusing-portal",
            scenarios: &[],
            done: "a portal was told to refuse, and to serve again",
            run: |bench| Box::pin(refusing(bench)),
            bound: Duration::from_secs(20),
        },
        Check {
            name: "two-initiators",
            scenarios: &[],
            done: "a second initiator of this machine was shown another LUN under the same number",
            run: |bench| Box::pin(two_initiators(bench)),
            bound: Duration::from_secs(25),
        },
        Check {
            name: "blocked-portal",
            scenarios: &[],
            done: "packets of one portal were dropped in each direction, then rejected; the other portal was tried too",
            run: |bench| Box::pin(blocked(bench)),
            bound: Duration::from_secs(25),
        },
        Check {
            name: "access",
            scenarios: &["27"],
            done: "logins were made with a missing, a wrong and the right CHAP secret, and as one who is refused",
            run: |bench| Box::pin(access(bench)),
            bound: Duration::from_secs(30),
        },
    ]
}

/// VPD page 0x83 in words: the NAA-6 identifier of a page as the kernel keeps it.
fn naa(page: &[u8]) -> Option<String> {
    let at = page.windows(4).position(|it| it[0] & 0xf == 1 && it[1] & 0xf == 3 && it[3] == 16)?;
    Some(hex(page.get(at + 4..at + 20)?))
}

async fn identity(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (lun, legs) = bench.mapped(64 * MIB).await?;
    let info = bench.array.array().lun(SVM, &lun.path);
    let serial = info.ok_or_else(|| Failure("the array has no such LUN".to_owned()))?.serial;
    let digits = hex(serial.as_bytes());
    for leg in &legs {
        let said = [attribute(leg, "vendor")?, attribute(leg, "model")?, attribute(leg, "rev")?];
        if said[..2] != ["NETAPP", "LUN C-Mode"] {
            return Err(Failure(format!("{} calls itself {said:?}", leg.display())));
        }
        let page = std::fs::read(device(leg).join("vpd_pg83"))?;
        let found = naa(&page).unwrap_or_default();
        if found != format!("600a0980{digits}") {
            return Err(Failure(format!("{} says {found} for serial number {serial}", leg.display())));
        }
        let page = std::fs::read(device(leg).join("vpd_pg80"))?;
        let found =
            String::from_utf8_lossy(page.get(4..).unwrap_or_default()).trim_end_matches('\0').to_owned();
        if found != format!("0{digits}") {
            return Err(Failure(format!("{} has the serial number {found}", leg.display())));
        }
    }
    let mut states = Vec::new();
    // The kernel asks for the states when it looks again, not when it first sees a disk.
    for leg in &legs {
        rescan(leg)?;
    }
    within(SOON, || {
        states = legs.iter().map(|it| attribute(it, "access_state")).collect::<Result<_, _>>()?;
        states.sort();
        Ok(states == ["active/non-optimized", "active/optimized"])
    })
    .await
    .map_err(|_| Failure(format!("the access states are {states:?}")))?;
    bench.retire(&lun).await?;
    Ok(Shown::held(format!("both legs are naa.600a0980{digits}, one optimized and one not")))
}

/// How many sessions say that they are logged in.
fn logged_in() -> Result<usize, Failure> {
    let mut count = 0;
    for entry in std::fs::read_dir("/sys/class/iscsi_session")? {
        let state = std::fs::read_to_string(entry?.path().join("state")).unwrap_or_default();
        count += usize::from(state.trim() == "LOGGED_IN");
    }
    Ok(count)
}

async fn refusing(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let portal = Network::portal(2);
    within(SOON, || Ok(logged_in()? == 2)).await?;
    bench.array.array().set_portal(portal, Reachability::Refusing)?;
    bench.follow().await?;
    within(SOON, || Ok(logged_in()? == 1)).await?;
    let refused = tokio::net::TcpStream::connect(portal).await;
    if refused.as_ref().map_err(std::io::Error::kind).err() != Some(std::io::ErrorKind::ConnectionRefused) {
        return Err(Failure(format!("a connection to the portal gave {refused:?}")));
    }
    bench.array.array().set_portal(portal, Reachability::Up)?;
    bench.follow().await?;
    let back = within(SOON, || Ok(logged_in()? == 2)).await?;
    Ok(Shown::held(format!(
        "the session ended, connections were refused; {back:?} after it served again it was back"
    )))
}

/// The name of an interface record of open-iscsi, and of the initiator behind it.
const OTHER: (&str, &str) = ("labother", "iqn.2010-10.org.example:other");

async fn two_initiators(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (name, initiator) = OTHER;
    let (lun, legs) = bench.mapped(64 * MIB).await?;
    let theirs = bench.make(64 * MIB).await?;
    let sim = bench.array.array();
    sim.add_igroup(SVM, "other", &[initiator])?;
    sim.add_map(SVM, &theirs.path, "other", Some(lun.number))?;
    bench.array.plane().admit(initiator);
    bench.follow().await?;
    let portal = Network::portal(1).to_string();
    for arguments in [
        &["-m", "iface", "-I", name, "-o", "new"][..],
        &["-m", "iface", "-I", name, "-o", "update", "-n", "iface.initiatorname", "-v", initiator],
        &["-m", "discovery", "-t", "sendtargets", "-p", &portal, "-I", name],
        &["-m", "node", "-I", name, "--login"],
    ] {
        tools::run("iscsiadm", arguments, PATIENCE).await?;
    }
    let all = bench.legs(lun.number, 4).await?;
    let others: Vec<_> = all.iter().filter(|it| !legs.contains(it)).cloned().collect();
    let names = |legs: &[std::path::PathBuf]| -> Result<Vec<String>, Failure> {
        legs.iter().map(|it| attribute(it, "wwid")).collect()
    };
    let (ours, their) = (names(&legs)?, names(&others)?);
    for leg in &others {
        delete(leg)?;
    }
    for arguments in [
        &["-m", "node", "-I", name, "--logout"][..],
        &["-m", "node", "-I", name, "-o", "delete"],
        &["-m", "iface", "-I", name, "-o", "delete"],
    ] {
        tools::run("iscsiadm", arguments, PATIENCE).await?;
    }
    bench.retire(&lun).await?;
    if ours[0] != ours[1] || their[0] != their[1] || ours[0] == their[0] {
        return Err(Failure(format!("igroup {IGROUP} sees {ours:?}, the other one {their:?}")));
    }
    Ok(Shown::held(format!("under LUN {} one sees {}, the other {}", lun.number, ours[0], their[0])))
}

/// How a portal answers a connection now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Taken,
    Refused,
    Silent,
}

async fn knock(n: u8) -> Result<Answer, Failure> {
    let connection = tokio::net::TcpStream::connect(Network::portal(n));
    match tokio::time::timeout(Duration::from_secs(1), connection).await {
        Err(_) => Ok(Answer::Silent),
        Ok(Ok(_)) => Ok(Answer::Taken),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(Answer::Refused),
        Ok(Err(error)) => Err(error.into()),
    }
}

async fn blocked(bench: Arc<Bench>) -> Result<Shown, Failure> {
    for (block, direction, wanted) in [
        (Block::Drop, Direction::ToArray, Answer::Silent),
        (Block::Drop, Direction::FromArray, Answer::Silent),
        (Block::Reject, Direction::Both, Answer::Refused),
    ] {
        bench.network.block(2, block, direction).await?;
        let found = [knock(1).await?, knock(2).await?];
        bench.network.unblock(2).await?;
        if found != [Answer::Taken, wanted] || knock(2).await? != Answer::Taken {
            return Err(Failure(format!("{block:?} {direction:?}: the portals were {found:?}")));
        }
    }
    within(SOON, || Ok(logged_in()? == 2)).await?;
    Ok(Shown::held(
        "dropped packets gave silence, rejected ones a refusal, the other portal took every connection",
    ))
}

async fn access(bench: Arc<Bench>) -> Result<Shown, Failure> {
    const NOT_AUTHORISED: Option<i32> = Some(24);
    let plane = bench.array.plane().plane();
    let login = || tools::output("iscsiadm", &["-m", "node", "--login"], PATIENCE);
    let out = || tools::run("iscsiadm", &["-m", "node", "--logout"], PATIENCE);
    out().await?;
    let initiator = ChapUser { user: "lab".to_owned(), secret: "labsecret1234".to_owned() };
    plane.set_access(&bench.initiator, Access::Chap { initiator, target: None });
    bench.follow().await?;
    let missing = login().await?.code;
    bench.setting("node.session.auth.authmethod", "CHAP").await?;
    bench.setting("node.session.auth.username", "lab").await?;
    bench.setting("node.session.auth.password", "wrongsecret12").await?;
    let wrong = login().await?.code;
    bench.setting("node.session.auth.password", "labsecret1234").await?;
    login().await?.success()?;
    plane.set_access(&bench.initiator, Access::Refused);
    bench.follow().await?;
    within(SOON, || Ok(logged_in()? == 0)).await?;
    plane.set_access(&bench.initiator, Access::Open);
    bench.follow().await?;
    // The sessions of a moment ago try again by themselves: out with them before the next login.
    out().await?;
    plane.set_access(&bench.initiator, Access::Refused);
    bench.follow().await?;
    let refused = login().await?.code;
    plane.set_access(&bench.initiator, Access::Open);
    bench.follow().await?;
    // The secret goes with the records.
    bench.logout().await?;
    bench.login().await?;
    if [missing, wrong, refused] != [NOT_AUTHORISED; 3] {
        return Err(Failure(format!(
            "exit codes: missing {missing:?}, wrong {wrong:?}, refused {refused:?}"
        )));
    }
    Ok(Shown::held(
        "no secret, a wrong one and a refused initiator ended with 24; the right secret logged in",
    ))
}
