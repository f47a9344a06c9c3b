//! Running tools, with shell scripts in the tool's place.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use san_core::{EffectState, ErrorKind};
use san_host::{Host, Tool};

use crate::support::{Bench, millis, soon, wait_for_end};

fn script(bench: &Bench, body: &str) {
    let path = bench.file("/usr/sbin/iscsiadm", format!("#!/bin/sh\n{body}\n"));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|it| (*it).to_owned()).collect()
}

#[tokio::test]
async fn a_tool_gets_its_arguments_and_nothing_else() {
    let bench = Bench::new();
    script(&bench, "for it in \"$@\"; do echo \"<$it>\"; done; env; pwd; cat; echo oops >&2; exit 21");
    let output = bench.host.run(Tool::Iscsiadm, &words(&["-m", "a b", "$HOME;x"]), soon()).await.unwrap();
    assert_eq!(output.code, Some(21));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> =
        stdout.lines().filter(|it| !it.starts_with("PWD=") && !it.starts_with("_=")).collect();
    assert_eq!(lines, ["<-m>", "<a b>", "<$HOME;x>", "LC_ALL=C", "/"]);
    assert_eq!(output.stderr, b"oops\n");
    assert_eq!(bench.host.counters().processes, 2, "a helper and the tool");
}

#[tokio::test]
async fn a_signal_is_no_exit_code() {
    let bench = Bench::new();
    script(&bench, "kill -9 $$");
    assert_eq!(bench.host.run(Tool::Iscsiadm, &[], soon()).await.unwrap().code, None);
}

#[tokio::test]
async fn a_missing_tool_names_its_package() {
    let bench = Bench::new();
    bench.file("/usr/sbin/iscsiadm", "not executable");
    let error = bench.host.run(Tool::Iscsiadm, &[], soon()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, EffectState::None));
    assert_eq!(error.remedy(), Some("apt install open-iscsi"));
    // Found as soon as it is there.
    script(&bench, "exit 0");
    assert_eq!(bench.host.run(Tool::Iscsiadm, &[], soon()).await.unwrap().code, Some(0));
}

#[tokio::test]
async fn too_much_output_is_dropped_and_does_not_block() {
    let bench = Bench::new();
    script(&bench, "head -c 3000000 /dev/zero; head -c 300000 /dev/zero >&2; exit 3");
    let output = bench.host.run(Tool::Iscsiadm, &[], soon()).await.unwrap();
    assert_eq!((output.code, output.stdout.len(), output.stderr.len()), (Some(3), 1 << 20, 1 << 16));
}

#[tokio::test]
async fn a_hanging_tool_is_killed_with_what_it_started() {
    let bench = Bench::new();
    let pids = bench.real("/pids");
    script(&bench, &format!("sleep 300 & echo $$ $! > {}.new; mv {0}.new {0}; wait", pids.display()));
    let start = Instant::now();
    let secret = words(&["-v", "hunter2"]);
    let error = bench.host.run(Tool::Iscsiadm, &secret, millis(1500)).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, EffectState::Unknown));
    assert!(!format!("{error:?}").contains("hunter2"));
    let pids = std::fs::read_to_string(pids).unwrap();
    let pids: Vec<_> = pids.split_whitespace().map(|it| it.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2);
    pids.into_iter().for_each(wait_for_end);
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_pipes_is_not_waited_for() {
    let bench = Bench::new();
    script(&bench, "sleep 5 & echo done; exit 0");
    let start = Instant::now();
    let output = bench.host.run(Tool::Iscsiadm, &[], soon()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(4));
    assert_eq!((output.code, output.stdout.as_slice()), (Some(0), &b"done\n"[..]));
}

#[tokio::test]
async fn a_passed_deadline_starts_nothing() {
    let bench = Bench::new();
    let mark = bench.real("/started");
    script(&bench, &format!("touch {}", mark.display()));
    let error = bench.host.run(Tool::Iscsiadm, &[], millis(0)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, EffectState::None));
    assert!(!mark.try_exists().unwrap());
}
