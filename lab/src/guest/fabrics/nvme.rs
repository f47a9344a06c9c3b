//! NVMe over TCP with nvme-cli and the kernel's own multipathing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use san_sim::kernel::{AnaState, Namespace};
use serde_json::Value;

use super::bench::{Bench, HOST_ID, MIB, NQN, PATIENCE, class, expect, host_nqn, size, within, write};
use crate::guest::bystander::VerifiedIo;
use crate::guest::{Check, Failure, Shown, tools};

pub(super) fn checks() -> Vec<Check<Bench>> {
    vec![
        Check {
            name: "nvme-connect",
            scenarios: &[],
            done: "nvme-cli connected both ports; the namespace was written and read",
            run: |bench| Box::pin(connect(bench)),
            bound: Duration::from_secs(25),
        },
        Check {
            name: "nvme-events",
            scenarios: &[],
            done: "a namespace was added, grown and removed, and an access state changed, without any scan",
            run: |bench| Box::pin(events(bench)),
            bound: Duration::from_secs(25),
        },
        Check {
            name: "nvme-path-loss",
            scenarios: &[],
            done: "one network was cut and mended under verified input and output",
            run: |bench| Box::pin(path_loss(bench)),
            bound: Duration::from_secs(40),
        },
    ]
}

/// The link udev makes for a namespace, by its UUID.
fn by_id(namespace: &Namespace) -> PathBuf {
    Path::new("/dev/disk/by-id").join(format!("nvme-uuid.{}", namespace.uuid))
}

fn is_there(link: &Path) -> Result<bool, Failure> {
    Ok(link.try_exists()?)
}

/// The disk a link leads to.
fn disk(namespace: &Namespace) -> Result<PathBuf, Failure> {
    Ok(std::fs::canonicalize(by_id(namespace))?)
}

/// How many controllers are live.
fn live() -> Result<usize, Failure> {
    Ok(class("nvme", "state")?.into_iter().filter(|(_, state)| state == "live").count())
}

async fn connect_ports() -> Result<(), Failure> {
    let host = host_nqn();
    for n in [1, 2] {
        let address = Bench::nvme_address(n);
        let arguments = [
            "connect",
            "-t",
            "tcp",
            "-a",
            &address,
            "-s",
            "4420",
            "-n",
            NQN,
            "--hostnqn",
            &host,
            "--hostid",
            HOST_ID,
            "--keep-alive-tmo=2",
            "--reconnect-delay=1",
            "--ctrl-loss-tmo=600",
            "--fast_io_fail_tmo=3",
        ];
        tools::run("nvme", &arguments, PATIENCE).await?;
    }
    Ok(())
}

/// The namespace every check here is about; connected already, or connected now.
async fn connected(bench: &Bench) -> Result<Namespace, Failure> {
    let namespace = bench.namespace(1, 64 * MIB)?;
    if !is_there(&by_id(&namespace))? {
        bench.nvme.add(&namespace)?;
        connect_ports().await?;
        within("the namespace appears", || is_there(&by_id(&namespace))).await?;
    }
    Ok(namespace)
}

/// The states of a namespace's paths, which are hidden disks, by the path's name.
fn path_states() -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    for (controller, _) in class("nvme", "state")? {
        for entry in std::fs::read_dir(Path::new("/sys/class/nvme").join(&controller))? {
            let entry = entry?;
            if let Ok(state) = std::fs::read_to_string(entry.path().join("ana_state")) {
                found.insert(entry.file_name().to_string_lossy().into_owned(), state.trim().to_owned());
            }
        }
    }
    Ok(found)
}

async fn connect(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let namespace = connected(&bench).await?;
    let disk = disk(&namespace)?;
    let folder = Path::new("/sys/block").join(disk.file_name().unwrap_or_default());
    let said = |name: &str| std::fs::read_to_string(folder.join(name)).map(|it| it.trim().to_owned());
    let nguid = uuid::Uuid::from_bytes(namespace.nguid).to_string();
    if said("uuid")? != namespace.uuid.to_string() || said("nguid")? != nguid {
        return Err(Failure(format!("the namespace is {:?} {:?}", said("uuid"), said("nguid"))));
    }
    let mut states: Vec<String> = path_states()?.into_values().collect();
    states.sort();
    if states != ["non-optimized", "optimized"] {
        return Err(Failure(format!("the paths are {states:?}")));
    }
    let listed: Value =
        serde_json::from_str(&tools::run("nvme", &["list-subsys", "-o", "json"], PATIENCE).await?)?;
    let text = listed.to_string();
    for n in [1, 2] {
        if !text.contains(&Bench::nvme_address(n)) {
            return Err(Failure(format!("nvme list-subsys does not name port {n}: {text}")));
        }
    }
    write(&disk, 1).await?;
    expect(&disk, &namespace.file, 1, "after it was written").await?;
    Ok(Shown::held(
        "one disk with both ports behind it, UUID and NGUID as given, one path optimized and one not",
    ))
}

async fn events(bench: Arc<Bench>) -> Result<Shown, Failure> {
    connected(&bench).await?;
    let second = bench.namespace(2, 64 * MIB)?;
    bench.nvme.add(&second)?;
    let came = within("the namespace appears", || is_there(&by_id(&second))).await?;
    let disk = disk(&second)?;
    write(&disk, 2).await?;
    bench.file("namespace2", 96 * MIB)?;
    bench.nvme.resize(2)?;
    let grew = within("the namespace grows", || Ok(size(&disk)? == 96 * MIB)).await?;
    expect(&disk, &second.file, 2, "after it grew").await?;
    let has = |state: &'static str| move || Ok(path_states()?.values().any(|it| it == state));
    bench.nvme.set_state(1, 2, AnaState::Inaccessible)?;
    let changed = within("a path becomes inaccessible", has("inaccessible")).await?;
    expect(&disk, &second.file, 2, "over the path that is left").await?;
    bench.nvme.set_state(1, 2, AnaState::Optimized)?;
    within("the path is back", || Ok(!has("inaccessible")()?)).await?;
    bench.nvme.remove(2)?;
    let went = within("the namespace goes", || Ok(!is_there(&by_id(&second))?)).await?;
    let figures = [("came_ms", came), ("grew_ms", grew), ("changed_ms", changed), ("went_ms", went)];
    let figures = figures.map(|(name, took)| (name.to_owned(), took.as_secs_f64() * 1000.0)).into();
    Ok(Shown::Held("the host followed each change by itself, the bytes stayed".to_owned(), figures))
}

async fn path_loss(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let namespace = connected(&bench).await?;
    within("both controllers are live", || Ok(live()? == 2)).await?;
    let io = VerifiedIo::start(&disk(&namespace)?, Duration::from_millis(50))?;
    io.another_round(PATIENCE).await?;
    bench.network.cut(1).await?;
    let noticed = within("the controller is not live", || Ok(live()? == 1)).await;
    let went_on = io.another_round(PATIENCE).await;
    bench.network.mend(1).await?;
    let noticed = noticed?;
    went_on?;
    let back = within("the controller is live again", || Ok(live()? == 2)).await?;
    let report = io.end().await?;
    Ok(Shown::held(format!(
        "noticed after {noticed:?}, back after {back:?}; {} rounds without an error, longest gap {:?}",
        report.rounds, report.longest_gap
    )))
}
