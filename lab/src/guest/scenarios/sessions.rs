//! Sessions: dead portals, broken and foreign sessions, refused logins, and what open-iscsi gets wrong.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use san_core::{DeviceManager as _, ErrorKind, PortState, PortStatus, TargetPort, Transport as _};
use san_host::{Guard, Host};
use san_transport_iscsi::Iscsi;

use super::bench::{Bench, SPAN, USUAL, cx, iscsi_config, system};
use super::io::carries;
use super::play::{play, refused, scenario, wrong};
use super::tools;
use crate::guest::daemons::Daemon;
use crate::guest::network::{Block, Direction};
use crate::guest::watched::Watched;
use crate::guest::{Check, Failure, Group, Shown};

const BOUND: Duration = Duration::from_secs(50);
const LONG: Duration = Duration::from_secs(100);

/// The group.
pub(super) fn group() -> Group {
    Group::new("sessions", |recorder| Box::pin(play(recorder, CHECKS)))
}

const CHECKS: &[Check<Bench>] = &[
    Check {
        name: "one of four portals is dead",
        scenarios: &["23"],
        done: "sessions are made while one portal refuses, and while one does not answer",
        run: |bench| scenario(bench, one_dead_portal),
        bound: BOUND,
    },
    Check {
        name: "all portals are dead",
        scenarios: &["24"],
        done: "sessions are made while no portal answers",
        run: |bench| scenario(bench, all_portals_dead),
        bound: BOUND,
    },
    Check {
        name: "a session that carries nothing",
        scenarios: &["25"],
        done: "a network is cut until its session has failed; then sessions and a volume are asked for",
        run: |bench| scenario(bench, failed_session),
        bound: BOUND,
    },
    Check {
        name: "a session of another tool",
        scenarios: &["26"],
        done: "iscsiadm logs in first; then we connect, attach, detach and disconnect",
        run: |bench| scenario(bench, session_of_others),
        bound: BOUND,
    },
    Check {
        name: "logins are refused",
        scenarios: &["27"],
        done: "the array refuses our name, twelve times we ask, then it takes it",
        run: |bench| scenario(bench, refused_logins),
        bound: BOUND,
    },
    Check {
        name: "a lock of open-iscsi left behind",
        scenarios: &["31"],
        done: "the lock of the record database is there and nobody holds it when sessions are made",
        run: |bench| scenario(bench, lock_left_behind),
        bound: LONG,
    },
    Check {
        name: "iscsid is stopped",
        scenarios: &["32"],
        done: "sessions are made while iscsid is down, and when it is back",
        run: |bench| scenario(bench, iscsid_stopped),
        bound: BOUND,
    },
    Check {
        name: "iscsiadm hangs",
        scenarios: &["33"],
        done: "an iscsiadm that never ends stands in the place of the real one",
        run: |bench| scenario(bench, iscsiadm_hangs),
        bound: BOUND,
    },
    Check {
        name: "a tool or a daemon is missing",
        scenarios: &["81"],
        done: "a node without open-iscsi and one without an iSCSI name are asked for sessions",
        run: |bench| scenario(bench, missing_tools),
        bound: BOUND,
    },
    Check {
        name: "sessions with LUNs stay",
        scenarios: &["62"],
        done: "sessions are left while the bystander's LUN is behind them",
        run: |bench| scenario(bench, sessions_stay),
        bound: BOUND,
    },
];

fn failures(states: &[PortState]) -> Vec<String> {
    states.iter().filter_map(|it| Some(it.status.failure()?.chain().to_string())).collect()
}

async fn connect(
    bench: &Bench,
    roads: &Iscsi,
    ports: &[TargetPort],
) -> Result<(Vec<PortState>, Duration), Failure> {
    let started = Instant::now();
    let states = bench.timed("connect", SPAN, roads.connect(&cx(SPAN), ports)).await?;
    Ok((states, started.elapsed()))
}

async fn one_dead_portal(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let ports = bench.second.ports()?;
    let mut told = Vec::new();
    for block in [Block::Reject, Block::Drop] {
        let roads = Iscsi::new(Guard::new(Arc::new(bench.host.clone())), iscsi_config());
        // Only the second array's portal would be enough; the bystander goes on over its other paths.
        bench.network.block(4, block, Direction::Both).await?;
        let (states, took) = connect(&bench, &roads, &ports).await?;
        let failed = failures(&states);
        if failed.len() != 1 || states[3].status.is_up() {
            return wrong(format!("{states:?}"));
        }
        let again = Instant::now();
        connect(&bench, &roads, &ports).await?;
        // A bound of work, not a deadline: emulation on a loaded machine takes five times as long.
        if again.elapsed() > (iscsi_config().probe_timeout + Duration::from_secs(1)) * 5 {
            return wrong(format!("the repeat took {:?}", again.elapsed()));
        }
        told.push(format!("{} after {} ms", failed.concat(), took.as_millis()));
        bench.network.unblock(4).await?;
        let ended = bench.timed("disconnect", SPAN, roads.disconnect(&cx(SPAN), &ports)).await?;
        if ended != 3 {
            return wrong(format!("{ended} sessions were ended"));
        }
    }
    Ok(Shown::held(format!("three sessions each time: {}", told.join("; "))))
}

async fn all_portals_dead(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let ports = bench.second.ports()?[..USUAL].to_vec();
    let roads = Iscsi::new(Guard::new(Arc::new(bench.host.clone())), iscsi_config());
    for network in [1, 2] {
        bench.network.block(network, Block::Drop, Direction::Both).await?;
    }
    bench.host.forget();
    let (states, took) = connect(&bench, &roads, &ports).await?;
    let told = failures(&states);
    // A bound of work, not a deadline: emulation on a loaded machine takes five times as long.
    if told.len() != USUAL || took > (iscsi_config().probe_timeout + Duration::from_secs(1)) * 5 {
        return wrong(format!("{states:?} after {took:?}"));
    }
    if !bench.host.programs().is_empty() {
        return wrong(format!("programs were started: {:?}", bench.host.programs()));
    }
    for network in [1, 2] {
        bench.network.unblock(network).await?;
    }
    bench.await_sessions().await?;
    Ok(Shown::held(format!("{} after {} ms, without any program", told.join(", "), took.as_millis())))
}

async fn failed_session(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let ports = bench.array.ports()?[..USUAL].to_vec();
    bench.network.cut(2).await?;
    let started = Instant::now();
    while bench.roads.routes(&cx(SPAN), &ports).await?.len() > 1 {
        if started.elapsed() > SPAN {
            return wrong("the session is still taken for live");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bench.host.forget();
    let (states, _) = connect(&bench, &bench.roads, &ports).await?;
    let told = failures(&states);
    if told.len() != 1 || !bench.host.programs().is_empty() {
        return wrong(format!("{states:?}, programs {:?}", bench.host.programs()));
    }
    bench.show(volume, 5).await?;
    let expect = bench.expected(volume, 5)?;
    let routes = bench.roads.routes(&cx(SPAN), &ports).await?;
    let device = bench.timed("attach", SPAN, bench.devices.attach(&cx(SPAN), &expect, &routes)).await?;
    carries(&bench, &device, volume).await?;
    bench.network.mend(2).await?;
    bench.await_sessions().await?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!(
        "no route and no second login ({}); the volume came up without it",
        told.concat()
    )))
}

async fn session_of_others(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let ports = bench.second.ports()?[..USUAL].to_vec();
    let portal = bench.second.addresses()[0].to_string();
    let target = bench.second.target();
    let node = ["-m", "node", "-T", &target, "-p", &portal];
    let with =
        |more: &[&'static str]| node.iter().copied().chain(more.iter().copied()).collect::<Vec<&str>>();
    tools::run("iscsiadm", &with(&["-o", "new"])).await?;
    tools::run("iscsiadm", &with(&["--login"])).await?;
    let roads = Iscsi::new(Guard::new(Arc::new(bench.host.clone())), iscsi_config());
    let (states, _) = connect(&bench, &roads, &ports).await?;
    let told: Vec<_> = states.iter().map(|it| format!("{:?}", it.status)).collect();
    let ended = bench.timed("disconnect", SPAN, roads.disconnect(&cx(SPAN), &ports)).await?;
    let left = bench.roads.routes(&cx(SPAN), &ports).await?.len();
    tools::run("iscsiadm", &with(&["--logout"])).await?;
    tools::run("iscsiadm", &with(&["-o", "delete"])).await?;
    if told != ["Connected", "Joined"] || ended != 1 || left != 1 {
        return wrong(format!("{told:?}; {ended} ended, {left} left"));
    }
    Ok(Shown::held("theirs was used and stayed, ours was made and ended"))
}

async fn refused_logins(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let ports = bench.second.ports()?[..1].to_vec();
    let roads = Iscsi::new(Guard::new(Arc::new(bench.host.clone())), iscsi_config());
    let portal = bench.second.addresses()[0].to_string();
    // Only the second array's target asks for a name and a secret that nobody gave us.
    let group = Path::new("/sys/kernel/config/target/iscsi").join(bench.second.target()).join("tpgt_1028");
    let acl = group.join("acls").join(tools::initiator()?).join("attrib/authentication");
    std::fs::write(group.join("attrib/authentication"), "1")?;
    let kept = std::fs::read_to_string(&acl)?;
    std::fs::write(&acl, "1")?;
    bench.host.forget();
    let mut told = String::new();
    for _ in 0..12 {
        let (states, _) = connect(&bench, &roads, &ports).await?;
        let [PortState { status: PortStatus::Failed(error), .. }] = states.as_slice() else {
            return wrong(format!("{portal}: {states:?}"));
        };
        if error.kind() != ErrorKind::Unauthenticated {
            return wrong(format!("{error:?}"));
        }
        told = error.chain().to_string();
    }
    let logins = bench.host.programs().iter().filter(|it| it.contains("--login")).count();
    std::fs::write(&acl, kept.trim())?;
    std::fs::write(group.join("attrib/authentication"), "0")?;
    if logins > 2 {
        return wrong(format!("{logins} logins for twelve calls"));
    }
    tokio::time::sleep(iscsi_config().login_hold * 4).await;
    let (states, _) = connect(&bench, &roads, &ports).await?;
    let joined = states.iter().all(|it| it.status.is_up());
    bench.timed("disconnect", SPAN, roads.disconnect(&cx(SPAN), &ports)).await?;
    if !joined {
        return wrong(format!("{states:?}"));
    }
    Ok(Shown::held(format!(
        "{logins} logins for twelve calls ({told}), and one that went well when it could"
    )))
}

async fn lock_left_behind(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let folder = Path::new("/run/lock/iscsi");
    std::fs::create_dir_all(folder)?;
    let (lock, write) = (folder.join("lock"), folder.join("lock.write"));
    if !lock.is_file() {
        std::fs::write(&lock, "")?;
    }
    std::fs::hard_link(&lock, &write)?;
    let ports = bench.second.ports()?[..1].to_vec();
    let roads = Iscsi::new(Guard::new(Arc::new(bench.host.clone())), iscsi_config());
    let started = Instant::now();
    let answer = bench.timed("connect", SPAN, roads.connect(&cx(SPAN), &ports)).await;
    let took = started.elapsed();
    let told = match answer {
        Ok(states) => failures(&states).concat(),
        Err(error) => error.chain().to_string(),
    };
    let is_kept = write.is_file();
    std::fs::remove_file(&write)?;
    if !told.contains("locked") || !is_kept || took > Duration::from_secs(30) {
        return wrong(format!("{told:?} after {took:?}; the lock is kept: {is_kept}"));
    }
    tokio::time::sleep(iscsi_config().login_hold * 2).await;
    let (states, _) = connect(&bench, &roads, &ports).await?;
    let ended = bench.timed("disconnect", SPAN, roads.disconnect(&cx(SPAN), &ports)).await?;
    if ended != 1 {
        return wrong(format!("without the lock: {states:?}"));
    }
    Ok(Shown::held(format!(
        "told after {} s ({told}), the lock left alone; without it all went well",
        took.as_secs()
    )))
}

async fn iscsid_stopped(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let ports = bench.second.ports()?[..1].to_vec();
    let roads = Iscsi::new(Guard::new(Arc::new(bench.host.clone())), iscsi_config());
    Daemon::Iscsid.stop().await?;
    let started = Instant::now();
    let answer = bench.timed("connect", SPAN, roads.connect(&cx(SPAN), &ports)).await;
    let took = started.elapsed();
    let error = match answer {
        Err(error) if error.kind() == ErrorKind::Unavailable => error,
        other => return wrong(format!("{other:?}")),
    };
    if !error.remedy().is_some_and(|it| it.contains("iscsid")) {
        return wrong(format!("iscsid is not named: {error:?}"));
    }
    Daemon::Iscsid.start().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (states, _) = connect(&bench, &roads, &ports).await?;
    let ended = bench.timed("disconnect", SPAN, roads.disconnect(&cx(SPAN), &ports)).await?;
    if ended != 1 {
        return wrong(format!("with iscsid: {states:?}"));
    }
    bench.await_sessions().await?;
    Ok(Shown::held(format!(
        "named after {} ms ({}); with it the login went well",
        took.as_millis(),
        error.chain()
    )))
}

/// A device-less node whose tools are in `folder` alone.
fn roads_with_tools(folder: PathBuf) -> Result<Iscsi, Failure> {
    let host: Arc<dyn Host> = system(Some(vec![folder]))?;
    Ok(Iscsi::new(Guard::new(Arc::new(Watched::new(host))), iscsi_config()))
}

async fn iscsiadm_hangs(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let folder = tempfile::tempdir()?;
    let tool = folder.path().join("iscsiadm");
    std::fs::write(&tool, "#!/bin/sh\nexec sleep 300\n")?;
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755))?;
    let told = {
        let roads = roads_with_tools(folder.path().to_owned())?;
        let ports = bench.second.ports()?[..1].to_vec();
        let short = Duration::from_secs(15);
        match bench.timed("connect", short, roads.connect(&cx(short), &ports)).await {
            Ok(states) => format!("{states:?}"),
            Err(error) => format!("{error:?}"),
        }
    };
    let sleeping = tools::run("pgrep", &["-c", "-x", "sleep"]).await.is_ok();
    if sleeping || !told.contains("2.1.10") {
        return wrong(format!("still running: {sleeping}; {told}"));
    }
    Ok(Shown::held("ended in time, the program killed, and the release that is known for it named"))
}

async fn missing_tools(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let folder = tempfile::tempdir()?;
    let ports = bench.second.ports()?[..1].to_vec();
    let tool = {
        let roads = roads_with_tools(folder.path().to_owned())?;
        let answer = bench.timed("connect", SPAN, roads.connect(&cx(SPAN), &ports)).await;
        refused(answer, &[ErrorKind::Unavailable])?
    };
    let file = Path::new("/etc/iscsi/initiatorname.iscsi");
    let kept = std::fs::read(file)?;
    std::fs::remove_file(file)?;
    let answer = bench.timed("initiators", SPAN, bench.roads.initiators(&cx(SPAN))).await;
    std::fs::write(file, kept)?;
    let name = refused(answer, &[ErrorKind::NotFound])?;
    if !tool.contains("iscsi") || !name.contains("name") {
        return wrong(format!("{tool}; {name}"));
    }
    Ok(Shown::held(format!("{tool}; {name}")))
}

async fn sessions_stay(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let ports = bench.array.ports()?;
    let ended = bench.timed("disconnect", SPAN, bench.roads.disconnect(&cx(SPAN), &ports)).await?;
    if ended != 0 {
        return wrong(format!("{ended} sessions were ended under the bystander"));
    }
    let volume = bench.volume();
    bench.attach(volume, 5).await?;
    bench.detach(volume, 5).await?;
    let ended = bench.timed("disconnect", SPAN, bench.roads.disconnect(&cx(SPAN), &ports)).await?;
    if ended != 0 {
        return wrong(format!("{ended} sessions were ended with our last LUN"));
    }
    // Where nothing is behind them, they end.
    let ports = bench.second.ports()?[..USUAL].to_vec();
    bench.timed("connect", SPAN, bench.roads.connect(&cx(SPAN), &ports)).await?;
    let ended = bench.timed("disconnect", SPAN, bench.roads.disconnect(&cx(SPAN), &ports)).await?;
    if ended != USUAL {
        return wrong(format!("{ended} of {USUAL} empty sessions were ended"));
    }
    Ok(Shown::held("none was ended while any LUN was behind it, whoever's; those without a LUN were"))
}
