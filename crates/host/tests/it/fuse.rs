//! A helper that no signal ends: it opens a file of a file system whose server has taken the request and stays silent.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use san_core::{EffectState, ErrorKind};
use san_host::Host;

use crate::support::{Bench, eventually, millis, soon};

const SILENT: &str = "/sys/silent/disk";
const OTHER: &str = "/sys/silent/other";
const FINE: &str = "/sys/fine/disk";

/// A file system with any file one asks for, whose `open` is not answered until it is told to.
struct Silent {
    mounted: PathBuf,
    device: File,
    waiting: Arc<Mutex<Vec<u64>>>,
}

impl Silent {
    /// `None` where this user may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let options = format!("fd={},rootmode=40755,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        mount("silent", &at, "fuse", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()).ok()?;
        let waiting = Arc::default();
        let (requests, taken) = (device.try_clone().unwrap(), Arc::clone(&waiting));
        std::thread::spawn(move || serve(&requests, &taken));
        Some(Self { mounted: at, device, waiting })
    }

    /// Answers every waiting `open` with an error.
    fn release(&self) {
        for unique in self.waiting.lock().unwrap().drain(..) {
            reply(&self.device, unique, ENXIO, &[]);
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.release();
        let _ = unmount(&self.mounted, UnmountFlags::DETACH);
    }
}

const ENXIO: i32 = 6;
const ENOSYS: i32 = 38;

/// Answers as `linux/fuse.h` says: a request is a head of 40 bytes (length, opcode, unique, node, ...) and a body.
fn serve(mut device: &File, waiting: &Mutex<Vec<u64>>) {
    const LOOKUP: u32 = 1;
    const FORGET: u32 = 2;
    const GETATTR: u32 = 3;
    const OPEN: u32 = 14;
    const INIT: u32 = 26;
    const INTERRUPT: u32 = 36;
    let mut request = vec![0; 1 << 17];
    while let Ok(40..) = device.read(&mut request) {
        let opcode = u32::from_ne_bytes(request[4..8].try_into().unwrap());
        let unique = u64::from_ne_bytes(request[8..16].try_into().unwrap());
        let node = u64::from_ne_bytes(request[16..24].try_into().unwrap());
        match opcode {
            INIT => {
                // Protocol 7.31, no options; the rest of the 64 bytes are limits, of which only max_write must not be 0.
                let mut body = [0; 64];
                body[0] = 7;
                body[4] = 31;
                body[20..24].copy_from_slice(&4096_u32.to_ne_bytes());
                reply(device, unique, 0, &body);
            }
            LOOKUP => {
                let node = if request[40..].starts_with(b"disk") { 2 } else { 3 };
                reply(device, unique, 0, &[&entry(node)[..], &attributes(node)].concat());
            }
            GETATTR => reply(device, unique, 0, &[&[0; 16][..], &attributes(node)].concat()),
            OPEN => waiting.lock().unwrap().push(unique),
            FORGET | INTERRUPT => {}
            _ => reply(device, unique, ENOSYS, &[]),
        }
    }
}

fn reply(mut device: &File, unique: u64, error: i32, body: &[u8]) {
    let length = u32::try_from(16 + body.len()).unwrap();
    let head = [&length.to_ne_bytes()[..], &(-error).to_ne_bytes(), &unique.to_ne_bytes()].concat();
    // Fails where the file system was unmounted meanwhile.
    let _ = device.write_all(&[&head, body].concat());
}

/// The part of `fuse_entry_out` before the attributes.
fn entry(node: u64) -> [u8; 40] {
    let mut entry = [0; 40];
    entry[..8].copy_from_slice(&node.to_ne_bytes());
    entry
}

/// `fuse_attr`: a folder for the root, else a file.
fn attributes(node: u64) -> [u8; 88] {
    let mode: u32 = if node == 1 { 0o040_755 } else { 0o100_644 };
    let mut attributes = [0; 88];
    attributes[..8].copy_from_slice(&node.to_ne_bytes());
    attributes[60..64].copy_from_slice(&mode.to_ne_bytes());
    attributes[64..68].copy_from_slice(&1_u32.to_ne_bytes());
    attributes
}

#[tokio::test]
async fn a_helper_that_no_signal_ends_is_abandoned() {
    let bench = Bench::with(|config| config.abandoned_at_most = 1);
    bench.file(FINE, "");
    let Some(silent) = Silent::mount(bench.real("/sys/silent")) else {
        println!("skipped: this user may not mount a file system that hangs");
        return;
    };
    let error = bench.host.write_attr(Path::new(SILENT), "x", millis(300)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, EffectState::Unknown));
    assert_eq!(bench.host.counters().abandoned, 1);

    let start = Instant::now();
    let error = bench.host.write_attr(Path::new(SILENT), "x", soon()).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "refused at once");
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Busy, EffectState::None));
    assert!(error.subject().unwrap().ends_with(SILENT), "{error:?}");
    assert!(error.message().contains("an earlier write") && error.message().contains("state D"), "{error:?}");
    assert!(error.message().contains("helper process") && error.remedy().is_some());

    // The cap: nothing is begun any more that could get stuck too.
    let error = bench.host.write_attr(Path::new(FINE), "x", soon()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, EffectState::None));
    assert_eq!(bench.host.counters().helper_jobs, 1);

    silent.release();
    eventually("the abandoned helper ends", || bench.host.counters().abandoned == 0).await;
    bench.host.write_attr(Path::new(FINE), "x", soon()).await.unwrap();
}

#[tokio::test]
async fn other_devices_do_not_notice_an_abandoned_helper() {
    let bench = Bench::new();
    let fine = bench.file(FINE, "");
    let Some(silent) = Silent::mount(bench.real("/sys/silent")) else {
        println!("skipped: this user may not mount a file system that hangs");
        return;
    };
    // Two attributes of one hung device: two helpers are lost, each path once.
    for path in [SILENT, OTHER, SILENT, OTHER, SILENT] {
        let _ = bench.host.write_attr(Path::new(path), "x", millis(300)).await.unwrap_err();
    }
    assert_eq!(bench.host.counters().abandoned, 2);
    assert_eq!(bench.host.counters().helper_jobs, 2);
    bench.host.write_attr(Path::new(FINE), "fine", soon()).await.unwrap();
    assert_eq!(std::fs::read(fine).unwrap(), b"fine");
    drop(silent);
    eventually("the abandoned helpers end", || bench.host.counters().abandoned == 0).await;
}
