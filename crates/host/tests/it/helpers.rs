//! The helper pool, with helpers that hang on FIFOs.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use san_core::{DeviceNumber, EffectState, ErrorKind};
use san_host::{Host, System, SystemConfig};

use crate::support::{Bench, eventually, helpers_of, millis, soon, wait_for_end};

const STUCK: &str = "/sys/class/scsi_host/host0/scan";
const FINE: &str = "/sys/class/scsi_host/host1/scan";

#[tokio::test]
async fn writes_an_attribute_in_a_prestarted_process() {
    let bench = Bench::new();
    let file = bench.file(FINE, "");
    let before = bench.host.counters();
    bench.host.write_attr(Path::new(FINE), "0 0 3\n", soon()).await.unwrap();
    assert_eq!(std::fs::read(file).unwrap(), b"0 0 3\n");
    let after = bench.host.counters();
    assert_eq!((before.processes, after.processes), (1, 1), "no process was started for it");
    assert_eq!((after.helper_jobs, after.writes, after.abandoned), (1, 1, 0));
}

#[tokio::test]
async fn a_refused_write_names_the_path_and_the_reason() {
    let bench = Bench::new();
    let error = bench.host.write_attr(Path::new(FINE), "x", soon()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::NotFound, EffectState::None));
    assert!(
        error.chain().to_string().ends_with("cannot open it: No such file or directory (os error 2)"),
        "{error:?}"
    );
    let long = bench.host.write_attr(Path::new(FINE), &"x".repeat(100_000), soon()).await.unwrap_err();
    assert_eq!(long.kind(), ErrorKind::InvalidInput);
    for outside in ["/etc/passwd", "/dev/sda", "/sys/../etc/passwd"] {
        let error = bench.host.write_attr(Path::new(outside), "x", soon()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{outside}");
    }
}

#[tokio::test]
async fn a_helper_that_hangs_is_killed_at_the_deadline_and_replaced() {
    let bench = Bench::new();
    bench.fifo(STUCK);
    let file = bench.file(FINE, "");
    let first = bench.helper().await;
    let start = Instant::now();
    let error = bench.host.write_attr(Path::new(STUCK), "x", millis(100)).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, EffectState::Unknown));
    assert!(error.message().contains(&first.to_string()), "{error:?}");
    wait_for_end(first);
    bench.host.write_attr(Path::new(FINE), "y", soon()).await.unwrap();
    assert_eq!(std::fs::read(file).unwrap(), b"y");
    assert_ne!(bench.helper().await, first);
    eventually("the killed helper is reaped", || bench.host.counters().abandoned == 0).await;
    // It could be killed, so its path is free again.
    let error = bench.host.write_attr(Path::new(STUCK), "x", millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn another_device_does_not_wait_for_a_slow_one() {
    let bench = Bench::new();
    bench.fifo(STUCK);
    bench.file(FINE, "");
    let host = Arc::clone(&bench.host);
    let slow = tokio::spawn(async move { host.write_attr(Path::new(STUCK), "x", millis(2000)).await });
    eventually("the helper hangs", || bench.host.counters().helper_jobs == 1).await;
    bench.host.write_attr(Path::new(FINE), "y", millis(1500)).await.unwrap();
    assert!(!slow.is_finished());
    slow.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn calls_for_one_slow_device_take_one_helper() {
    let bench = Bench::with(|config| config.helpers_at_most = 2);
    bench.fifo(STUCK);
    bench.file(FINE, "");
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let host = Arc::clone(&bench.host);
            tokio::spawn(async move { host.write_attr(Path::new(STUCK), "x", millis(1000)).await })
        })
        .collect();
    eventually("the first hangs", || bench.host.counters().helper_jobs == 1).await;
    bench.host.write_attr(Path::new(FINE), "y", millis(900)).await.unwrap();
    let mut effects = Vec::new();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        effects.push(error.effect());
    }
    assert_eq!(effects.iter().filter(|it| **it == EffectState::Unknown).count(), 1, "only one was begun");
}

#[tokio::test]
async fn helpers_beyond_the_kept_ones_end_after_their_job() {
    let bench = Bench::new();
    let pipes = ["a", "b", "c"].map(|name| format!("/sys/class/x/{name}/attribute"));
    for path in &pipes {
        bench.fifo(path);
    }
    let writes: Vec<_> = pipes
        .iter()
        .map(|path| {
            let (host, path) = (Arc::clone(&bench.host), path.clone());
            tokio::spawn(async move { host.write_attr(Path::new(&path), "z", soon()).await })
        })
        .collect();
    eventually("three work", || bench.helpers().len() == 3).await;
    for (path, write) in pipes.iter().zip(writes) {
        assert_eq!(read_fifo(&bench, path).await, b"z");
        write.await.unwrap().unwrap();
    }
    eventually("one is kept", || bench.helpers().len() == 1).await;
}

#[tokio::test]
async fn a_helper_that_dies_in_the_middle_leaves_the_effect_unknown() {
    let bench = Bench::new();
    let _full = bench.full_fifo(STUCK);
    let host = Arc::clone(&bench.host);
    let call = tokio::spawn(async move { host.write_attr(Path::new(STUCK), "x", soon()).await });
    let victim = bench.helper_with_open(STUCK).await;
    kill_process(Pid::from_raw(victim).unwrap(), Signal::KILL).unwrap();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, EffectState::Unknown));
    assert!(error.message().contains(&victim.to_string()), "{error:?}");
}

#[tokio::test]
async fn a_helper_that_died_while_idle_is_not_given_a_job() {
    let bench = Bench::new();
    let file = bench.file(FINE, "");
    let victim = bench.helper().await;
    kill_process(Pid::from_raw(victim).unwrap(), Signal::KILL).unwrap();
    wait_for_end(victim);
    bench.host.write_attr(Path::new(FINE), "y", soon()).await.unwrap();
    assert_eq!(std::fs::read(file).unwrap(), b"y");
}

#[tokio::test]
async fn a_helper_shares_nothing_with_us() {
    let folder = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(folder.path().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    // Not even what was not marked to close by itself, like a socket that systemd has handed over.
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let bench = Bench::new();
    bench.file(FINE, "");
    bench.host.write_attr(Path::new(FINE), "y", soon()).await.unwrap();
    let helper = bench.helper().await;
    let mut open: Vec<_> = std::fs::read_dir(format!("/proc/{helper}/fd"))
        .unwrap()
        .map(|it| {
            let it = it.unwrap();
            let target = std::fs::read_link(it.path()).unwrap().display().to_string();
            (it.file_name().into_string().unwrap(), target)
        })
        .collect();
    open.sort();
    assert_eq!(open.len(), 3, "{open:?}");
    assert!(open[0].1.starts_with("socket:") && open[1].1 == open[0].1, "{open:?}");
    assert_eq!(open[2], ("2".into(), "/dev/null".into()));
    let status = std::fs::read_to_string(format!("/proc/{helper}/stat")).unwrap();
    let fields: Vec<_> = status.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[3], helper.to_string(), "a session of its own");
    assert_eq!(std::fs::read_link(format!("/proc/{helper}/cwd")).unwrap(), Path::new("/"));
    let environment = std::fs::read(format!("/proc/{helper}/environ")).unwrap();
    assert_eq!(environment, b"LC_ALL=C\0");
}

#[test]
fn helpers_end_with_the_daemon_even_in_the_middle_of_a_job() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (bench, _full, pids) = runtime.block_on(async {
        let bench = Bench::with(|config| config.helpers = 2);
        let full = bench.full_fifo(STUCK);
        let host = Arc::clone(&bench.host);
        tokio::spawn(async move { host.write_attr(Path::new(STUCK), "x", soon()).await });
        bench.helper_with_open(STUCK).await;
        eventually("both are there", || bench.helpers().len() == 2).await;
        let pids = bench.helpers();
        (bench, full, pids)
    });
    // What a dying process does: every descriptor is closed, nothing else happens.
    runtime.shutdown_background();
    let Bench { folder, host } = bench;
    drop(host);
    pids.into_iter().for_each(wait_for_end);
    assert!(helpers_of(folder.path()).is_empty());
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_stop_the_job() {
    let bench = Bench::new();
    bench.fifo(STUCK);
    let call = bench.host.write_attr(Path::new(STUCK), "x", soon());
    assert!(tokio::time::timeout(Duration::from_millis(200), call).await.is_err());
    assert_eq!(read_fifo(&bench, STUCK).await, b"x");
}

#[tokio::test]
async fn a_passed_deadline_begins_nothing() {
    let bench = Bench::new();
    let file = bench.file(FINE, "");
    let error = bench.host.write_attr(Path::new(FINE), "y", millis(0)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, EffectState::None));
    assert_eq!(std::fs::read(file).unwrap(), b"");
    assert_eq!(bench.host.counters().helper_jobs, 0);
}

#[tokio::test]
async fn what_is_no_device_is_refused() {
    let bench = Bench::new();
    bench.file("/dev/sdb", [0; 4096]);
    let device = Path::new("/dev/sdb");
    assert_eq!(bench.host.flush(device, soon()).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    let error = bench.host.read_block(device, 0, 4096, soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = bench.host.read_block(device, 0, 2 << 20, soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = bench.host.inquiry(device, Some(0x80), soon()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::InvalidInput, EffectState::None));
    let error = bench.host.inquiry(Path::new("/dev/sg9"), None, soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let map = DeviceNumber { major: 253, minor: 0 };
    let error = bench.host.open_count(map, soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "no device-mapper proves nothing about a map");
    let error = bench.host.open_count(DeviceNumber { major: 0, minor: 0 }, soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_wrong_program_is_noticed() {
    let missing = System::start(SystemConfig::new("/nonexistent/helper", ["helper"])).unwrap_err();
    assert_eq!((missing.kind(), missing.effect()), (ErrorKind::Unavailable, EffectState::None));
    let relative = System::start(SystemConfig::new("helper", ["helper"])).unwrap_err();
    assert_eq!(relative.kind(), ErrorKind::InvalidInput);
    // A program that ends at once is no helper either.
    let bench = Bench::with(|config| config.helper = "/bin/true".into());
    bench.file(FINE, "");
    let error = bench.host.write_attr(Path::new(FINE), "x", soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

async fn read_fifo(bench: &Bench, path: &str) -> Vec<u8> {
    let fifo = bench.real(path);
    tokio::task::spawn_blocking(move || std::fs::read(fifo).unwrap()).await.unwrap()
}
