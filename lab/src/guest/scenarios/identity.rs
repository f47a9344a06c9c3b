//! Identity and reuse: right disk or no disk.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use san_core::{ByteSize, Device, DeviceManager as _, ErrorKind, Expected, KnownLegs, Transport as _, Wwid};

use super::bench::{Bench, SPAN, USUAL, addresses, cx, expected, lun};
use super::io::{BLOCK, block, carries, holds, read, write, writing};
use super::play::{play, refused, scenario, wrong};
use super::stock::stacked;
use super::tools::{self, until};
use crate::guest::ledger::legs;
use crate::guest::{Check, Failure, Group, Shown, daemons};

const BOUND: Duration = Duration::from_secs(40);
const LONG: Duration = Duration::from_secs(80);

/// The group.
pub(super) fn group() -> Group {
    Group::new("identity", |recorder| Box::pin(play(recorder, CHECKS)))
}

/// What a guest wants to write to the volume that is gone.
const WAITING: &str = "for the old volume only";

const CHECKS: &[Check<Bench>] = &[
    Check {
        name: "a number passes to another volume after a gap",
        scenarios: &["1"],
        done: "a volume is attached and a write to it is waiting when the array gives its LUN number away",
        run: |bench| scenario(bench, number_passes_on_after_a_gap),
        bound: BOUND,
    },
    Check {
        name: "a number passes to another volume at once",
        scenarios: &["2", "3"],
        done: "the array swaps two volumes under one number while a guest has the first one's map open",
        run: |bench| scenario(bench, number_passes_on_at_once),
        bound: BOUND,
    },
    Check {
        name: "two volumes have one identifier",
        scenarios: &["4"],
        done: "a second volume with the identifier of an attached one is attached",
        run: |bench| scenario(bench, one_identifier_for_two),
        bound: BOUND,
    },
    Check {
        name: "a unit says nothing of itself",
        scenarios: &["5"],
        done: "the unit at the number has no identifier in its pages",
        run: |bench| scenario(bench, no_identity),
        bound: BOUND,
    },
    Check {
        name: "the kernel remembers the unit that was there before",
        scenarios: &["6"],
        done: "legs without a map stay when their number passes to another volume, which is attached",
        run: |bench| scenario(bench, stale_memory),
        bound: BOUND,
    },
    Check {
        name: "one of four legs is another volume",
        scenarios: &["7"],
        done: "one of four portals shows another volume at the number",
        run: |bench| scenario(bench, one_wrong_leg),
        bound: BOUND,
    },
    Check {
        name: "two arrays give the same number",
        scenarios: &["8"],
        done: "volumes of two arrays are attached under one number, and one is detached again",
        run: |bench| scenario(bench, two_arrays),
        bound: BOUND,
    },
    Check {
        name: "a clone with the same contents",
        scenarios: &["9"],
        done: "a volume with a volume group and a file system and its clone are attached together",
        run: |bench| scenario(bench, clone_beside_its_origin),
        bound: LONG,
    },
    Check {
        name: "numbers above 255",
        scenarios: &["13"],
        done: "volumes at the numbers 300 and 16383 are asked for, a stranger's 300 is scanned in by others",
        run: |bench| scenario(bench, high_numbers),
        bound: BOUND,
    },
    Check {
        name: "one identifier in all its spellings",
        scenarios: &["14"],
        done: "what the kernel, udev and multipathd call an attached volume is read back",
        run: |bench| scenario(bench, spellings),
        bound: BOUND,
    },
    Check {
        name: "names pass on",
        scenarios: &["15"],
        done: "volumes are detached while others are attached, again and again",
        run: |bench| scenario(bench, names_pass_on),
        bound: LONG,
    },
];

/// The map of a volume as multipath calls it.
fn map_name(bench: &Bench, volume: u8) -> String {
    bench.array.identity(volume).wwid.multipath_name()
}

async fn number_passes_on_after_a_gap(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (old, new) = (bench.volume(), bench.volume());
    bench.array.show(new, 6, &[])?;
    let device = bench.attach(old, 5).await?;
    carries(&bench, &device, old).await?;
    bench.hide(5).await?;
    let write = writing(&device.path, block(WAITING));
    // A gap that multipathd has noticed: what it has not, no setting of its keeps a waiting write from.
    tools::await_faulty(&device).await?;
    bench.show(new, 5).await?;
    // The checkers look every second or two: several of their rounds pass over the new volume.
    tokio::time::sleep(Duration::from_secs(4)).await;
    // With a single leg it never does: see the host's configuration. With two, multipathd loads the old map's table anew when it
    // takes the first one out, in which the second one, the new volume by now, counts as good until it is looked at. No call of
    // ours has been made yet, and none may do it.
    let has_arrived = bench.array.bytes(new, BLOCK)? == block(WAITING);
    let first = bench.try_attach(new, 5).await?;
    let told = match &first {
        // multipathd has seen by itself that its paths lead elsewhere.
        Ok(_) => "went well over paths that multipathd had taken out of the old map".to_owned(),
        Err(error) if [ErrorKind::InUse, ErrorKind::IdentityMismatch].contains(&error.kind()) => {
            format!("was refused while the old map was there ({})", error.chain())
        }
        Err(error) => return Err(error.clone().into()),
    };
    if !write.is_finished() {
        // The guest is ended, and with it what it wanted to write.
        tools::attempt("multipathd", &["disablequeueing", "map", &map_name(&bench, old)]).await;
    }
    let ended = tokio::time::timeout(SPAN, write).await;
    match (has_arrived, &ended) {
        (true, Ok(Ok(Ok(())))) => {}
        // Told as failed, at the latest now: it was never taken for done.
        (false, Ok(Ok(Err(_)))) => holds(&bench, new, &[0; BLOCK])?,
        _ => return wrong(format!("the waiting write has arrived: {has_arrived}, and ended as {ended:?}")),
    }
    let retired = bench.try_retire(old, 5).await??;
    bench.bury(&retired).await?;
    let device = bench.try_attach(new, 5).await??;
    carries(&bench, &device, new).await?;
    bench.detach(new, 5).await?;
    let fate = if has_arrived { "REACHED" } else { "did not reach" };
    let text = format!(
        "the new volume's first attach {told}, the one after the old volume's end went well; the waiting write {fate} the new \
         volume through multipathd"
    );
    let count = if has_arrived { 1.0 } else { 0.0 };
    Ok(Shown::Held(text, [("waiting_writes_that_reached_the_new_volume".to_owned(), count)].into()))
}

async fn number_passes_on_at_once(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (old, new) = (bench.volume(), bench.volume());
    let device = bench.attach(old, 5).await?;
    carries(&bench, &device, old).await?;
    let guest = File::open(&device.path)?;
    bench.show(new, 5).await?;
    let mismatch = &[ErrorKind::IdentityMismatch][..];
    let places = || legs().into_iter().map(|it| (it.address, it.state)).collect::<Vec<_>>();
    let (before, expect) = (places(), bench.expected(old, 5)?);
    let told = refused(bench.inspect(old, 5).await?, mismatch)?;
    let grown = Expected { size: ByteSize::from_mib(128), ..expect };
    let routes = bench.routes(USUAL).await?;
    refused(bench.timed("grow", SPAN, bench.devices.grow(&cx(SPAN), &grown, &routes)).await, mismatch)?;
    refused(bench.try_retire(old, 5).await?, &[ErrorKind::InUse])?;
    refused(bench.try_attach(old, 5).await?, mismatch)?;
    // The second look made the kernel read the pages again, and multipathd may have let go of the paths by now.
    let first = match bench.try_attach(new, 5).await? {
        Ok(_) => "came up beside it, over legs that multipathd had let go of",
        Err(error) if error.kind() == ErrorKind::InUse => "was refused while it was there",
        Err(error) => return Err(error.into()),
    };
    if places() != before {
        return wrong(format!("under a holder {before:?} became {:?}", places()));
    }
    holds(&bench, new, &[0; BLOCK])?;
    drop(guest);
    let retired = bench.try_retire(old, 5).await??;
    bench.bury(&retired).await?;
    let device = bench.try_attach(new, 5).await??;
    carries(&bench, &device, new).await?;
    bench.detach(new, 5).await?;
    Ok(Shown::held(format!(
        "found by a fresh look alone ({told}); no leg under the open map was removed; the new volume {first}"
    )))
}

async fn one_identifier_for_two(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (one, other) = (bench.volume(), bench.volume());
    bench.array.make_alike(other, one)?;
    let device = bench.attach(one, 5).await?;
    carries(&bench, &device, one).await?;
    let kept = bench.array.bytes(one, BLOCK)?;
    let guest = File::open(&device.path)?;
    bench.show(other, 6).await?;
    let mut expect = bench.expected(other, 6)?;
    expect.identity.wwid = bench.array.identity(one).wwid;
    let routes = bench.routes(USUAL).await?;
    let answer = bench.timed("attach", SPAN, bench.devices.attach(&cx(SPAN), &expect, &routes)).await;
    let told = refused(answer, &[ErrorKind::IdentityMismatch])?;
    holds(&bench, one, &kept)?;
    holds(&bench, other, &[0; BLOCK])?;
    drop(guest);
    if legs().into_iter().any(|it| it.address.ends_with(":6")) {
        return wrong("a leg of the second volume stays under the first one's map");
    }
    carries(&bench, &device, one).await?;
    bench.hide(6).await?;
    bench.detach(one, 5).await?;
    Ok(Shown::held(format!(
        "refused ({told}), and what multipathd had put under the first one's map was gone again"
    )))
}

async fn no_identity(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.array.make_nameless(volume)?;
    bench.show(volume, 5).await?;
    let told = refused(bench.try_attach(volume, 5).await?, &[ErrorKind::IdentityMismatch])?;
    bench.hide(5).await?;
    Ok(Shown::held(format!("refused ({told}), and what the scan made is gone")))
}

async fn stale_memory(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (old, new) = (bench.volume(), bench.volume());
    bench.attach(old, 5).await?;
    daemons::remove_map(&map_name(&bench, old)).await?;
    bench.show(new, 5).await?;
    let remembered = bench.array.identity(old).wwid.multipath_name();
    let stale = legs().into_iter().filter(|it| it.wwid == remembered).count();
    if stale != USUAL {
        return wrong(format!("{stale} legs are remembered as the old volume"));
    }
    let device = bench.try_attach(new, 5).await??;
    carries(&bench, &device, new).await?;
    bench.detach(new, 5).await?;
    Ok(Shown::held(format!("{stale} legs the kernel still took for the old volume were made anew")))
}

async fn one_wrong_leg(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (right, wrong_one) = (bench.volume(), bench.volume());
    bench.array.show(right, 5, bench.array.addresses())?;
    bench.array.show(wrong_one, 5, &bench.array.addresses()[3..])?;
    bench.sync().await?;
    let (expect, routes) = (bench.expected(right, 5)?, bench.routes(4).await?);
    let device = bench.timed("attach", SPAN, bench.devices.attach(&cx(SPAN), &expect, &routes)).await?;
    let [missing] = device.missing.as_slice() else {
        return wrong(format!("missing: {:?}", device.missing));
    };
    if device.legs.len() != 3
        || missing.error.kind() != ErrorKind::IdentityMismatch
        || missing.route != routes[3]
    {
        return wrong(format!("{} legs, missing {missing:?}", device.legs.len()));
    }
    carries(&bench, &device, right).await?;
    holds(&bench, wrong_one, &[0; BLOCK])?;
    let known = KnownLegs { identity: expect.identity, lun: lun(5)?, addresses: addresses(&routes, lun(5)?) };
    let retired = bench.timed("retire", SPAN, bench.devices.retire(&cx(SPAN), &known)).await?;
    bench.hide(5).await?;
    bench.bury(&retired).await?;
    Ok(Shown::held(format!("three legs serve; the fourth was left out and told: {}", missing.error.chain())))
}

async fn two_arrays(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (ours, theirs) = (bench.volume(), bench.volume());
    bench.second.show(theirs, 5, &bench.second.addresses()[..USUAL])?;
    bench.sync().await?;
    let ports = bench.second.ports()?[..USUAL].to_vec();
    bench.timed("connect", SPAN, bench.roads.connect(&cx(SPAN), &ports)).await?;
    let device = bench.attach(ours, 5).await?;
    let routes = bench.roads.routes(&cx(SPAN), &ports).await?;
    let expect = expected(&bench.second, theirs, 5)?;
    let other = bench.timed("attach", SPAN, bench.devices.attach(&cx(SPAN), &expect, &routes)).await?;
    carries(&bench, &device, ours).await?;
    let bytes = block("on the other array");
    write(&other.path, bytes.clone()).await?;
    if bench.second.bytes(theirs, BLOCK)? != bytes || bench.array.bytes(ours, BLOCK)? == bytes {
        return wrong("bytes went to the wrong array");
    }
    bench.detach(ours, 5).await?;
    if read(&other.path, BLOCK).await? != bytes {
        return wrong("the other array's volume changed when ours was detached");
    }
    let known = KnownLegs { identity: expect.identity, lun: lun(5)?, addresses: addresses(&routes, lun(5)?) };
    let retired = bench.timed("retire", SPAN, bench.devices.retire(&cx(SPAN), &known)).await?;
    bench.second.hide(5, bench.second.addresses());
    bench.sync().await?;
    bench.bury(&retired).await?;
    bench.timed("disconnect", SPAN, bench.roads.disconnect(&cx(SPAN), &ports)).await?;
    Ok(Shown::held("each volume over its own legs, and the detach of one left the other as it was"))
}

/// Makes a volume group with a logical volume and a file system in it, as a guest would, and lets go of it.
async fn fill_like_a_guest(device: &Device) -> Result<(), Failure> {
    let path = device.path.to_string_lossy().into_owned();
    let only = format!("devices {{ filter=[\"a|^{path}$|\",\"r|.*|\"] global_filter=[\"a|.*|\"] }}");
    tools::run("pvcreate", &["-qq", "--config", &only, &path]).await?;
    tools::run("vgcreate", &["-qq", "--config", &only, "guest", &path]).await?;
    let make = ["-qq", "-an", "-Wn", "-Zn", "--config", &only, "-L", "16m", "-n", "root", "guest"];
    tools::run("lvcreate", &make).await?;
    Ok(())
}

async fn clone_beside_its_origin(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let (origin, clone) = (bench.volume(), bench.volume());
    let device = bench.attach(origin, 5).await?;
    fill_like_a_guest(&device).await?;
    bench.detach(origin, 5).await?;
    bench.array.show(clone, 6, &[])?;
    std::fs::copy(bench.array.file(origin), bench.array.file(clone))?;
    let one = bench.attach(origin, 5).await?;
    let two = bench.attach(clone, 6).await?;
    // Whatever an event sets off is over then; the audit after the scenario finds what it has left.
    tools::quiet().await?;
    let looked_at = stacked();
    if !looked_at.is_empty() {
        return wrong(format!("the host opened the guests' disks: {looked_at:?}"));
    }
    let same = read(&one.path, BLOCK).await? == read(&two.path, BLOCK).await?;
    carries(&bench, &two, clone).await?;
    if !same || one.number == two.number || read(&one.path, BLOCK).await? == read(&two.path, BLOCK).await? {
        return wrong("origin and clone are not two volumes with the same contents");
    }
    bench.detach(clone, 6).await?;
    bench.detach(origin, 5).await?;
    Ok(Shown::held(
        "told apart by their serial numbers; no volume group was taken up, no link made for contents",
    ))
}

async fn high_numbers(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    bench.host.forget();
    let told = refused(bench.try_attach(volume, 300).await?, &[ErrorKind::Unsupported])?;
    let mut asked = bench.host.changes();
    asked.extend(bench.host.programs());
    if !asked.is_empty() || lun(16384).is_ok() {
        return wrong(format!("something was done for number 300: {asked:?}"));
    }
    bench.show(volume, 300).await?;
    tools::run("iscsiadm", &["-m", "session", "--rescan"]).await?;
    tools::quiet().await?;
    let addresses: Vec<String> = legs().into_iter().map(|it| it.address).collect();
    let high = addresses.iter().filter(|it| it.ends_with(":300") || it.ends_with(":16684")).count();
    let occupied = bench.devices.occupied(&cx(SPAN), &bench.routes(USUAL).await?).await?;
    if high != USUAL || !occupied.contains(&lun(300)?) {
        return wrong(format!("a full scan brought {addresses:?}; occupied: {occupied:?}"));
    }
    let other = bench.volume();
    let device = bench.attach(other, 44).await?;
    carries(&bench, &device, other).await?;
    bench.detach(other, 44).await?;
    tools::remove_strangers(&bench, 300).await?;
    bench.hide(300).await?;
    Ok(Shown::held(format!(
        "refused by name before anything was done ({told}); a stranger's 300 counts as occupied"
    )))
}

async fn spellings(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volume = bench.volume();
    let device = bench.attach(volume, 5).await?;
    let wanted = device.identity.wwid;
    let leg = legs().into_iter().find(|it| it.address == device.legs[0].hctl.to_string());
    let sysfs = std::fs::read_to_string(format!("/sys/block/{}/device/wwid", device.legs[0].name))?;
    let udev = tools::run("udevadm", &["info", "--query=property", &format!("/dev/{}", device.legs[0].name)])
        .await?;
    let property = |name: &str| udev.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
    let serial = property("ID_SERIAL").unwrap_or_default().to_owned();
    let wwn = property("ID_WWN_WITH_EXTENSION").unwrap_or_default().to_owned();
    let map = leg.map(|it| it.wwid).unwrap_or_default();
    let spelled = [sysfs.trim().to_owned(), serial, wwn, map.to_uppercase(), wanted.to_string()];
    for text in &spelled {
        match text.parse::<Wwid>() {
            Ok(found) if found == wanted => {}
            other => return wrong(format!("{text:?} became {other:?}")),
        }
    }
    bench.detach(volume, 5).await?;
    Ok(Shown::held(format!("one value from {}", spelled.join(", "))))
}

async fn names_pass_on(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let volumes = [bench.volume(), bench.volume(), bench.volume()];
    let mut here = bench.attach(volumes[0], 5).await?;
    let mut names = vec![here.legs[0].name.clone()];
    for round in 0..3_usize {
        let (going, coming) = (volumes[round % 3], volumes[(round + 1) % 3]);
        let (from, to) = if round % 2 == 0 { (5, 6) } else { (6, 5) };
        bench.show(coming, to).await?;
        let bytes = bench.array.bytes(going, BLOCK)?;
        let (down, up) = tokio::join!(bench.detach(going, from), bench.try_attach(coming, to));
        down?;
        here = up??;
        carries(&bench, &here, coming).await?;
        holds(&bench, going, &bytes)?;
        names.push(here.legs[0].name.clone());
    }
    bench.detach(volumes[0], if 3 % 2 == 0 { 5 } else { 6 }).await?;
    until("an empty node", SPAN, || legs().iter().all(|it| it.wwid == bench.bystander_map)).await?;
    let _ = here;
    Ok(Shown::held(format!("each volume had its own bytes; first legs were called {}", names.join(", "))))
}
