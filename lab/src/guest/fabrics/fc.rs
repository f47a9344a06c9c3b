//! Fibre Channel with the kernel's FCoE initiator and multipathd.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use san_sim::kernel::{FcTarget, wwpn};
use san_sim::target::Unit;
use serde_json::Value;

use super::bench::{
    Bench, MIB, PATIENCE, SOON, blocking, class, expect, fc_host_end, fc_initiator, fc_target_end, size,
    within, write, wwid,
};
use crate::guest::bystander::VerifiedIo;
use crate::guest::{Check, Failure, Shown, daemons, tools};

pub(super) fn checks() -> Vec<Check<Bench>> {
    vec![
        Check {
            name: "fc-map",
            scenarios: &[],
            done: "two FCoE ports logged in to the target; the map over both legs was written and read",
            run: |bench| Box::pin(map(bench)),
            bound: Duration::from_secs(40),
        },
        Check {
            name: "fc-add-grow-remove",
            scenarios: &[],
            done: "a LUN was added, found by a scan of its target port and number, grown, and taken away in order",
            run: |bench| Box::pin(add_grow_remove(bench)),
            bound: Duration::from_secs(40),
        },
        Check {
            name: "fc-path-loss",
            scenarios: &[],
            done: "one link was taken down and brought up under verified input and output",
            run: |bench| Box::pin(path_loss(bench)),
            bound: Duration::from_secs(40),
        },
        Check {
            name: "fc-down",
            scenarios: &[],
            done: "the map and its legs were removed, the LUN unmapped, the initiator's ports ended",
            run: |bench| Box::pin(down(bench)),
            bound: Duration::from_secs(20),
        },
    ]
}

/// One path of a map as multipathd tells it.
#[derive(Debug, Clone)]
struct Leg {
    disk: PathBuf,
    state: String,
    priority: i64,
}

/// The paths of a map; none where there is no map.
async fn legs(map: &str) -> Result<Vec<Leg>, Failure> {
    let ran = tools::output("multipathd", &["show", "map", map, "json"], PATIENCE).await?;
    let Ok(told) = serde_json::from_str::<Value>(&ran.stdout) else { return Ok(Vec::new()) };
    let groups = told["map"]["path_groups"].as_array().cloned().unwrap_or_default();
    let paths = groups.iter().flat_map(|it| it["paths"].as_array().cloned().unwrap_or_default());
    let leg = |it: Value| Leg {
        disk: Path::new("/dev").join(it["dev"].as_str().unwrap_or_default()),
        state: it["dm_st"].as_str().unwrap_or_default().to_owned(),
        priority: it["pri"].as_i64().unwrap_or_default(),
    };
    Ok(paths.map(leg).collect())
}

/// Waits until a map's paths are as `wanted`.
async fn legs_become(map: &str, what: &str, wanted: fn(&[Leg]) -> bool) -> Result<Vec<Leg>, Failure> {
    let started = Instant::now();
    loop {
        let found = legs(map).await?;
        if wanted(&found) {
            return Ok(found);
        }
        if started.elapsed() > SOON {
            return Err(Failure(format!("{map}: {what} did not come about within {SOON:?}: {found:?}")));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn both_active(legs: &[Leg]) -> bool {
    legs.len() == 2 && legs.iter().all(|it| it.state == "active")
}

fn both_active_by_priority(legs: &[Leg]) -> bool {
    let mut priorities: Vec<i64> = legs.iter().map(|it| it.priority).collect();
    priorities.sort_unstable();
    both_active(legs) && priorities == [10, 50]
}

fn node(unit: &Unit) -> PathBuf {
    Path::new("/dev/mapper").join(wwid(unit))
}

/// The map every check here is about; there already, or made now.
async fn mapped(bench: &Bench) -> Result<Unit, Failure> {
    let unit = bench.unit(1, 64 * MIB)?;
    if node(&unit).try_exists()? {
        return Ok(unit);
    }
    bench.fc().map(&unit, 1)?;
    for n in [1, 2] {
        FcTarget::start_port(&fc_host_end(n))?;
    }
    let online = || Ok(class("fc_host", "port_state")?.iter().filter(|(_, it)| it == "Online").count() == 4);
    within("four ports are online", online).await?;
    within("two remote ports are targets", || Ok(targets()?.len() == 2)).await?;
    within("the map appears", || Ok(node(&unit).try_exists()?)).await?;
    Ok(unit)
}

/// The remote ports that are targets: the target's own ports are here too, and see the initiators.
fn targets() -> Result<Vec<String>, Failure> {
    let roles = class("fc_remote_ports", "roles")?;
    Ok(roles.into_iter().filter(|(_, it)| it.contains("Target")).map(|(name, _)| name).collect())
}

async fn map(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let unit = mapped(&bench).await?;
    // What the kernel found out of one port while the other came up it keeps until it is told to look again.
    for leg in legs_become(&wwid(&unit), "two active paths", both_active).await? {
        let name = leg.disk.file_name().unwrap_or_default();
        std::fs::write(Path::new("/sys/block").join(name).join("device/rescan"), "1")?;
    }
    let legs = legs_become(&wwid(&unit), "two active paths of priorities 50 and 10", both_active_by_priority)
        .await?;
    let names = class("fc_host", "port_name")?;
    for n in [1, 2] {
        let wanted = format!("0x{}", wwpn(fc_initiator(n)).replace(':', ""));
        if !names.iter().any(|(_, it)| *it == wanted) {
            return Err(Failure(format!("no port is called {wanted}: {names:?}")));
        }
    }
    write(&node(&unit), 1).await?;
    expect(&node(&unit), &unit.file, 1, "after it was written").await?;
    Ok(Shown::held(format!(
        "{} has {} paths, by rights 50 and 10, and reads what was written",
        wwid(&unit),
        legs.len()
    )))
}

/// The SCSI address of a remote port: host and target number.
fn address(port: &str) -> Result<(String, String), Failure> {
    let number =
        std::fs::read_to_string(Path::new("/sys/class/fc_remote_ports").join(port).join("scsi_target_id"))?;
    let host = port.strip_prefix("rport-").and_then(|it| it.split(':').next()).unwrap_or_default();
    Ok((host.to_owned(), number.trim().to_owned()))
}

async fn add_grow_remove(bench: Arc<Bench>) -> Result<Shown, Failure> {
    mapped(&bench).await?;
    let unit = bench.unit(2, 64 * MIB)?;
    let name = wwid(&unit);
    bench.fc().map(&unit, 2)?;
    for port in targets()? {
        let (host, target) = address(&port)?;
        let scan = format!("/sys/class/scsi_host/host{host}/scan");
        blocking(move || std::fs::write(scan, format!("0 {target} 2"))).await?;
    }
    let found = legs_become(&name, "two active paths", both_active).await?;
    within("the map's node appears", || Ok(node(&unit).try_exists()?)).await?;
    write(&node(&unit), 2).await?;
    bench.file("fc2", 96 * MIB)?;
    bench.fc().resize(2)?;
    for leg in &found {
        let device = Path::new("/sys/block").join(leg.disk.file_name().unwrap_or_default());
        let rescan = device.join("device/rescan");
        blocking(move || std::fs::write(rescan, "1")).await?;
        within("the leg grows", || Ok(size(&leg.disk)? == 96 * MIB)).await?;
    }
    tools::run("multipathd", &["resize", "map", &name], PATIENCE).await?;
    let disk = std::fs::canonicalize(node(&unit))?;
    within("the map grows", || Ok(size(&disk)? == 96 * MIB)).await?;
    expect(&node(&unit), &unit.file, 2, "after it grew").await?;
    remove(&name).await?;
    let this = Arc::clone(&bench);
    blocking(move || this.fc().unmap(2)).await?;
    Ok(Shown::held("both legs and the map came, grew to 96 MiB with their bytes, and went"))
}

/// Takes a map and its legs away.
async fn remove(map: &str) -> Result<(), Failure> {
    let found = legs(map).await?;
    daemons::remove_map(map).await?;
    for leg in &found {
        let device = Path::new("/sys/block").join(leg.disk.file_name().unwrap_or_default());
        let delete = device.join("device/delete");
        blocking(move || std::fs::write(delete, "1")).await?;
    }
    let gone = || Ok(!Path::new("/dev/mapper").join(map).try_exists()?);
    within("the map goes", gone).await.map(drop)
}

async fn path_loss(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let unit = mapped(&bench).await?;
    let name = wwid(&unit);
    legs_become(&name, "two active paths", both_active).await?;
    let io = VerifiedIo::start(&node(&unit), Duration::from_millis(50))?;
    io.another_round(PATIENCE).await?;
    let started = Instant::now();
    link(1, "down").await?;
    let blocked = || Ok(class("fc_remote_ports", "port_state")?.iter().any(|(_, it)| it == "Blocked"));
    let blocked = within("a remote port is blocked", blocked).await;
    let lost = legs_become(&name, "a failed path", |it| it.iter().any(|leg| leg.state == "failed")).await;
    let failed = started.elapsed();
    let went_on = io.another_round(PATIENCE).await;
    link(1, "up").await?;
    let blocked = blocked?;
    lost?;
    went_on?;
    let started = Instant::now();
    legs_become(&name, "two active paths again", both_active).await?;
    let back = started.elapsed();
    let report = io.end().await?;
    Ok(Shown::held(format!(
        "blocked after {blocked:?}, failed after {failed:?}, back after {back:?}; {} rounds without an error, longest \
         gap {:?}",
        report.rounds, report.longest_gap
    )))
}

async fn link(n: u8, state: &str) -> Result<(), Failure> {
    tools::run("ip", &["link", "set", &fc_target_end(n), state], PATIENCE).await.map(drop)
}

async fn down(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let unit = mapped(&bench).await?;
    remove(&wwid(&unit)).await?;
    let this = Arc::clone(&bench);
    blocking(move || this.fc().unmap(1)).await?;
    for n in [1, 2] {
        blocking(move || FcTarget::end_port(&fc_host_end(n))).await?;
    }
    within("no remote port is a target", || Ok(targets()?.is_empty())).await?;
    Ok(Shown::held("no leg, no map and no port of the initiator is left"))
}
