//! Growth, guests' own layers, many LUNs, and others who work on the same node. All volumes have blocks of 4 KiB here.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use san_core::{ByteSize, Device, DeviceManager as _, ErrorKind, Expected};

use super::bench::{Bench, SPAN, USUAL, cx};
use super::crowd::{excluded, one_more_beside_many, scans_all_the_time, sysfs_changes, the_clock_jumps};
use super::io::{carries, holds, write};
use super::play::{play_with_blocks, refused, scenario, wrong};
use super::stock::stacked;
use super::tools;
use crate::guest::bystander::VerifiedIo;
use crate::guest::{Check, Failure, Group, Shown};

const BOUND: Duration = Duration::from_secs(50);
const LONG: Duration = Duration::from_secs(150);
/// Bytes of a logical block of every volume of this group.
const BLOCKS: u32 = 4096;

/// The group.
pub(super) fn group() -> Group {
    Group::new("scale", |recorder| Box::pin(play_with_blocks(recorder, CHECKS, BLOCKS)))
}

const CHECKS: &[Check<Bench>] = &[
    Check {
        name: "logical blocks of 4 KiB",
        scenarios: &["44"],
        done: "a volume with blocks of 4096 bytes is attached, written, grown and measured",
        run: |bench| scenario(bench, large_blocks),
        bound: BOUND,
    },
    Check {
        name: "growth while it is open",
        scenarios: &["69"],
        done: "a volume under verified input and output grows twice",
        run: |bench| scenario(bench, growth_while_open),
        bound: BOUND,
    },
    Check {
        name: "growth with a leg offline",
        scenarios: &["70"],
        done: "one leg is offline when the volume grows; later it is running again",
        run: |bench| scenario(bench, growth_with_a_leg_offline),
        bound: BOUND,
    },
    Check {
        name: "one leg stays small",
        scenarios: &["71"],
        done: "one portal goes on showing the old size when the volume grows",
        run: |bench| scenario(bench, one_small_leg),
        bound: BOUND,
    },
    Check {
        name: "the array shrank the volume",
        scenarios: &["72"],
        done: "the volume becomes smaller on the array under an open map, and is grown and attached",
        run: |bench| scenario(bench, shrunk),
        bound: BOUND,
    },
    Check {
        name: "a guest's partitions and md member",
        scenarios: &["74"],
        done: "volumes with a partition table and with a member of a mirror are attached anew",
        run: |bench| scenario(bench, guests_layers),
        bound: LONG,
    },
    Check {
        name: "one more beside many",
        scenarios: &["75", "43"],
        done: "a volume is attached on a node with the bystander alone, and again with ten strangers' more",
        run: |bench| scenario(bench, one_more_beside_many),
        bound: LONG,
    },
    Check {
        name: "full scans by others all the time",
        scenarios: &["76"],
        done: "another tool scans all sessions without a pause while volumes are attached and detached",
        run: |bench| scenario(bench, scans_all_the_time),
        bound: LONG,
    },
    Check {
        name: "the admin's configuration excludes the volume",
        scenarios: &["77"],
        done: "an admin's file keeps multipathd from all but the bystander's WWID when a volume is attached",
        run: |bench| scenario(bench, excluded),
        bound: BOUND,
    },
    Check {
        name: "sysfs changes while it is read",
        scenarios: &["80"],
        done: "devices are looked at without a pause while others come and go",
        run: |bench| scenario(bench, sysfs_changes),
        bound: BOUND,
    },
    Check {
        name: "the clock jumps",
        scenarios: &["82"],
        done: "the clock goes an hour ahead, and back, while a volume that is not there is waited for",
        run: |bench| scenario(bench, the_clock_jumps),
        bound: BOUND,
    },
];

async fn grow(bench: &Bench, volume: u8, size: ByteSize) -> Result<san_core::Result<Device>, Failure> {
    let (expect, routes) = (Expected { size, ..bench.expected(volume, 5)? }, bench.routes(USUAL).await?);
    Ok(bench.timed("grow", SPAN, bench.devices.grow(&cx(SPAN), &expect, &routes)).await)
}

async fn resize(bench: &Bench, volume: u8, size: ByteSize) -> Result<(), Failure> {
    bench.array.resize(volume, size)?;
    bench.sync().await
}

/// What the kernel says a block device measures.
fn measured(kernel: &str) -> Result<ByteSize, Failure> {
    let sectors = std::fs::read_to_string(Path::new("/sys/block").join(kernel).join("size"))?;
    let sectors: u64 = sectors.trim().parse()?;
    Ok(ByteSize::from_bytes(sectors * 512))
}

/// Whether the map and every leg of a device measure `size`.
fn all_measure(device: &Device, size: ByteSize) -> Result<(), Failure> {
    let map = std::fs::canonicalize(&device.path)?;
    let mut names: Vec<String> = device.legs.iter().map(|it| it.name.clone()).collect();
    names.extend(map.file_name().and_then(|it| it.to_str()).map(str::to_owned));
    for name in names {
        let found = measured(&name)?;
        if found != size || device.size != size {
            return wrong(format!(
                "{name} measures {found} and the device {} where {size} is due",
                device.size
            ));
        }
    }
    Ok(())
}

async fn large_blocks(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let queue = Path::new("/sys/block").join(&device.legs[0].name).join("queue/logical_block_size");
    let bytes = std::fs::read_to_string(queue)?;
    if bytes.trim() != BLOCKS.to_string() {
        return wrong(format!("blocks of {} bytes", bytes.trim()));
    }
    all_measure(&device, device.size)?;
    carries(&bench, &device, volume).await?;
    let size = ByteSize::from_mib(80);
    resize(&bench, volume, size).await?;
    let device = grow(&bench, volume, size).await??;
    all_measure(&device, size)?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!(
        "attached with {} and grown to {size}, measured at every leg and the map",
        bench.expected(volume, 5)?.size
    )))
}

async fn growth_while_open(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let guest = VerifiedIo::start(&device.path, Duration::from_millis(10))?;
    let mut took = Vec::new();
    for size in [96, 128].map(ByteSize::from_mib) {
        resize(&bench, volume, size).await?;
        let started = Instant::now();
        let grown = grow(&bench, volume, size).await??;
        took.push(started.elapsed().as_millis());
        if grown.number != device.number {
            return wrong("the device became another one");
        }
        all_measure(&grown, size)?;
        guest.another_round(SPAN).await?;
    }
    let report = guest.end().await?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!(
        "every leg and the map had the new sizes after {took:?} ms; {} rounds of the guest without an error, the longest \
         pause {} ms",
        report.rounds,
        report.longest_gap.as_millis()
    )))
}

async fn growth_with_a_leg_offline(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let guest = File::open(&device.path)?;
    let state = format!("/sys/class/scsi_device/{}/device/state", device.legs[1].hctl);
    std::fs::write(&state, "offline\n")?;
    let size = ByteSize::from_mib(96);
    resize(&bench, volume, size).await?;
    let told = match grow(&bench, volume, size).await? {
        Ok(grown) if grown.size == size => {
            format!("it grew over {} legs, missing were {}", grown.legs.len(), grown.missing.len())
        }
        Ok(grown) => return wrong(format!("{grown:?}")),
        Err(error) => format!("it was refused ({})", error.chain()),
    };
    if std::fs::read_to_string(&state)?.trim() == "offline" {
        std::fs::write(&state, "running\n")?;
    }
    let whole = grow(&bench, volume, size).await??;
    if whole.legs.len() != USUAL {
        return wrong(format!("missing {:?}", whole.missing));
    }
    all_measure(&whole, size)?;
    carries(&bench, &whole, volume).await?;
    drop(guest);
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!("{told}; with the leg running again it is whole, at every leg")))
}

async fn one_small_leg(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (volume, twin) = (bench.volume(), bench.volume());
    let device = bench.attach(volume, 5).await?;
    // The same unit by all it says, and another size.
    let identity = bench.array.identity(volume);
    let san_core::Wwid::Naa6(naa) = identity.wwid else { return wrong("no identifier") };
    bench.array.change(twin, |unit| {
        unit.naa = naa;
        unit.serial = identity.serial.clone().into_bytes();
    })?;
    bench.array.show(twin, 5, &bench.array.addresses()[1..USUAL])?;
    let size = ByteSize::from_mib(96);
    resize(&bench, volume, size).await?;
    let told = refused(grow(&bench, volume, size).await?, &[ErrorKind::Busy])?;
    let map = std::fs::canonicalize(&device.path)?;
    let found = measured(map.file_name().and_then(|it| it.to_str()).unwrap_or_default())?;
    if found != device.size {
        return wrong(format!("the map measures {found}"));
    }
    resize(&bench, twin, size).await?;
    let grown = grow(&bench, volume, size).await??;
    all_measure(&grown, size)?;
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!("refused with the map as it was ({told}), and done once all legs had the size")))
}

async fn shrunk(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    carries(&bench, &device, volume).await?;
    let bytes = bench.array.bytes(volume, 4096)?;
    let guest = File::open(&device.path)?;
    let small = ByteSize::from_mib(32);
    let asked = refused(grow(&bench, volume, small).await?, &[ErrorKind::InvalidInput])?;
    resize(&bench, volume, small).await?;
    let done = refused(grow(&bench, volume, device.size).await?, &[ErrorKind::Conflict, ErrorKind::Busy])?;
    let map = std::fs::canonicalize(&device.path)?;
    let found = measured(map.file_name().and_then(|it| it.to_str()).unwrap_or_default())?;
    if found != device.size {
        return wrong(format!("the map measures {found}"));
    }
    holds(&bench, volume, &bytes)?;
    resize(&bench, volume, device.size).await?;
    drop(guest);
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!("asked for: {asked}; done by the array: {done}; the map kept its size")))
}

/// A partition table of the oldest kind: one partition from block 64 on.
fn partition_table() -> Vec<u8> {
    let mut sector = vec![0; 4096];
    let entry = [0x80, 0, 0, 0, 0x83, 0, 0, 0, 64, 0, 0, 0, 0, 16, 0, 0];
    sector[446..462].copy_from_slice(&entry);
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    sector
}

async fn guests_layers(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (parted, mirror) = (bench.volume(), bench.volume());
    let one = bench.attach(parted, 5).await?;
    let two = bench.attach(mirror, 6).await?;
    write(&one.path, partition_table()).await?;
    let path = two.path.to_string_lossy().into_owned();
    let create = [
        "--create",
        "/dev/md/guest",
        "--run",
        "--level=1",
        "--raid-devices=2",
        "--metadata=1.2",
        &path,
        "missing",
    ];
    tools::run("mdadm", &create).await?;
    tools::run("mdadm", &["--stop", "/dev/md/guest"]).await?;
    bench.detach(parted, 5).await?;
    bench.detach(mirror, 6).await?;
    bench.attach(parted, 5).await?;
    bench.attach(mirror, 6).await?;
    tools::quiet().await?;
    let found = stacked();
    if !found.is_empty() {
        return wrong(format!("the host opened the guests' disks: {found:?}"));
    }
    bench.detach(parted, 5).await?;
    bench.detach(mirror, 6).await?;
    Ok(Shown::held("no mirror was assembled and no partition mapped; both were detached at once"))
}
