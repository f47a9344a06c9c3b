//! Reading: a value, a proved absence, or an error; and nothing waits.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use san_core::{EffectState, ErrorKind};
use san_host::{Attr, Host};

use crate::support::{Bench, millis, soon};

const DISK: &str = "/sys/class/scsi_device/2:0:0:3/device";

#[tokio::test]
async fn an_attribute_has_three_answers() {
    let bench = Bench::new();
    bench.file(&format!("{DISK}/state"), "running\n");
    bench.file(&format!("{DISK}/vpd_pg80"), b"\0\x80\0\x01\n");
    bench.file(&format!("{DISK}/block/sdb/size"), "2048\n");
    let attr = async |device: &str, name: &str| bench.host.attr(Path::new(device), name, soon()).await;
    assert_eq!(attr(DISK, "state").await.unwrap(), Attr::Value(b"running".to_vec()));
    assert_eq!(attr(DISK, "vpd_pg80").await.unwrap(), Attr::Value(b"\0\x80\0\x01\n".to_vec()));
    assert_eq!(attr(DISK, "block/sdb/size").await.unwrap().text(), Some("2048"));
    assert_eq!(attr(DISK, "wwid").await.unwrap(), Attr::Missing);
    assert_eq!(attr(DISK, "block/sdc/size").await.unwrap(), Attr::Missing);
    assert_eq!(attr("/sys/class/scsi_device/2:0:0:4/device", "wwid").await.unwrap(), Attr::DeviceGone);
}

#[tokio::test]
async fn a_dangling_device_link_is_a_gone_device() {
    let bench = Bench::new();
    bench.file("/sys/devices/host2/2:0:0:3/state", "running\n");
    std::fs::create_dir_all(bench.real("/sys/class/scsi_device/2:0:0:3")).unwrap();
    symlink("../../../devices/host2/2:0:0:3", bench.real(DISK)).unwrap();
    let device = Path::new(DISK);
    assert_eq!(bench.host.attr(device, "state", soon()).await.unwrap().text(), Some("running"));
    std::fs::remove_dir_all(bench.real("/sys/devices/host2/2:0:0:3")).unwrap();
    assert_eq!(bench.host.attr(device, "state", soon()).await.unwrap(), Attr::DeviceGone);
}

#[tokio::test]
async fn every_other_trouble_is_an_error() {
    let bench = Bench::new();
    bench.file(&format!("{DISK}/state"), "running\n");
    bench.file(&format!("{DISK}/huge"), vec![b'x'; 100_000]);
    bench.fifo(&format!("{DISK}/pipe"));
    for (name, kind) in [
        ("huge", ErrorKind::Protocol),
        ("pipe", ErrorKind::Unsupported),
        (".", ErrorKind::InvalidInput),
        ("../state", ErrorKind::InvalidInput),
        ("/etc/passwd", ErrorKind::InvalidInput),
        ("", ErrorKind::InvalidInput),
        ("state/x", ErrorKind::Conflict),
    ] {
        let error = bench.host.attr(Path::new(DISK), name, soon()).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (kind, EffectState::None), "{name}: {error:?}");
    }
    let outside = bench.host.attr(Path::new("/etc"), "passwd", soon()).await.unwrap_err();
    assert_eq!(outside.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn lists_are_sorted_and_absence_is_not_emptiness() {
    let bench = Bench::new();
    for name in ["sdc", "sda", "dm-1"] {
        bench.file(&format!("/sys/block/{name}/size"), "1");
    }
    std::fs::create_dir_all(bench.real("/sys/block/sda/holders")).unwrap();
    let list = async |path: &str| bench.host.list(Path::new(path), soon()).await;
    assert_eq!(list("/sys/block").await.unwrap().unwrap(), ["dm-1", "sda", "sdc"]);
    assert_eq!(list("/sys/block/sda/holders").await.unwrap(), Some(vec![]));
    assert_eq!(list("/sys/block/sdx/holders").await.unwrap(), None);
    assert_eq!(list("/sys/block/sda/size").await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(list("sys/block").await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn links_are_read_as_stored() {
    let bench = Bench::new();
    bench.file("/dev/x", "");
    symlink("../../dm-1", bench.real("/dev/link")).unwrap();
    let read_link = async |path: &str| bench.host.read_link(Path::new(path), soon()).await;
    assert_eq!(read_link("/dev/link").await.unwrap().unwrap(), Path::new("../../dm-1"));
    assert_eq!(read_link("/dev/none").await.unwrap(), None);
    assert_eq!(read_link("/dev/x").await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn files_are_bounded_and_regular() {
    let bench = Bench::new();
    bench.file("/etc/iscsi/initiatorname.iscsi", "InitiatorName=x\n");
    bench.fifo("/etc/pipe");
    let read = async |path: &str, max| bench.host.read(Path::new(path), max, soon()).await;
    assert_eq!(read("/etc/iscsi/initiatorname.iscsi", 16).await.unwrap().unwrap(), b"InitiatorName=x\n");
    assert_eq!(read("/etc/iscsi/initiatorname.iscsi", 15).await.unwrap_err().kind(), ErrorKind::LimitReached);
    assert_eq!(read("/etc/none", 16).await.unwrap(), None);
    assert_eq!(read("/etc/pipe", 16).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(read("/etc/iscsi", 16).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_process_that_has_ended_has_no_files() {
    let bench = Bench::with(|config| config.root = "/".into());
    let own = bench.host.read(Path::new("/proc/self/stat"), 4096, soon()).await.unwrap();
    assert!(own.is_some());
    let none = bench.host.read(Path::new("/proc/4194304/stat"), 4096, soon()).await.unwrap();
    assert_eq!(none, None, "above the largest process number");
}

#[tokio::test]
async fn a_look_ends_by_its_deadline() {
    let bench = Bench::new();
    bench.file(&format!("{DISK}/state"), "running\n");
    let start = Instant::now();
    // A deadline that has passed: the look may still be faster, but it never takes longer.
    let _ = bench.host.attr(Path::new(DISK), "state", millis(0)).await;
    assert!(start.elapsed() < Duration::from_secs(5));
}
