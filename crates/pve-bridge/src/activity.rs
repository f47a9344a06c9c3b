//! What is under way with a guest on this node, from what PVE and its guests leave there: whether it runs, and which tasks
//! work on it.

use std::path::Path;

use san_core::{Cx, Result};
use san_host::Guard;

async fn text(cx: &Cx, host: &Guard, path: &str, max: usize) -> Result<Option<String>> {
    let bytes = host.read(cx, Path::new(path), max).await?;
    Ok(bytes.map(|it| String::from_utf8_lossy(&it).into_owned()))
}

/// Whether the guest runs on this node, in words: QEMU by its process, a container by the socket of its supervisor.
pub(crate) async fn running(cx: &Cx, host: &Guard, vmid: u64) -> Result<Option<String>> {
    if let Some(pid) = text(cx, host, &format!("/run/qemu-server/{vmid}.pid"), 64).await? {
        // It is empty for a moment while QEMU starts.
        let Ok(pid) = pid.trim().parse::<u32>() else {
            return Ok(Some(format!("VM {vmid} may run there: its pid file cannot be understood")));
        };
        if text(cx, host, &format!("/proc/{pid}/stat"), 4096).await?.is_some() {
            return Ok(Some(format!("VM {vmid} runs there (QEMU pid {pid})")));
        }
    }
    let supervisor = format!("@/var/lib/lxc/{vmid}/command");
    let is_there = has_socket(cx, host, &supervisor).await? == Some(true);
    Ok(is_there.then(|| format!("CT {vmid} runs there")))
}

/// Whether there is a socket of this name; `None` where the kernel lists none.
pub(crate) async fn has_socket(cx: &Cx, host: &Guard, name: &str) -> Result<Option<bool>> {
    let sockets = text(cx, host, "/proc/net/unix", MAX_SOCKETS).await?;
    Ok(sockets.map(|it| it.lines().any(|it| it.split_whitespace().last() == Some(name))))
}

/// A task of this node that works on the guest and is alive.
pub(crate) async fn task(cx: &Cx, host: &Guard, vmid: u64, is_here: bool) -> Result<Option<String>> {
    let active = text(cx, host, "/var/log/pve/tasks/active", MAX_TASKS).await?.unwrap_or_default();
    for task in active.lines().filter_map(Task::parse) {
        // A backup of many guests names none of them.
        let concerns = task.vmid == Some(vmid) || (is_here && task.vmid.is_none() && task.kind == "vzdump");
        if concerns {
            let stat = text(cx, host, &format!("/proc/{}/stat", task.pid), 4096).await?;
            if stat.is_some_and(|it| task.is(&it)) {
                return Ok(Some(format!("a task of it is running there ({}, pid {})", task.kind, task.pid)));
            }
        }
    }
    Ok(None)
}

/// One line of PVE's list of tasks that are running or have just ended:
/// `UPID:<node>:<pid>:<start of the process>:<time>:<kind>:<what>:<user>: <saved>[ <end>[ <status>]]`, numbers in hexadecimal.
#[derive(Debug, PartialEq, Eq)]
struct Task<'a> {
    pid: u32,
    started: u64,
    kind: &'a str,
    vmid: Option<u64>,
}

impl<'a> Task<'a> {
    /// `None` for one that has ended, or is no task.
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let id = words.next()?;
        if words.nth(1).is_some() {
            return None;
        }
        let parts: Vec<&str> = id.split(':').collect();
        let ["UPID", _, pid, started, _, kind, what, ..] = parts.as_slice() else { return None };
        let digits = what.split(|it: char| !it.is_ascii_digit()).next().unwrap_or_default();
        Some(Self {
            pid: u32::from_str_radix(pid, 16).ok()?,
            started: u64::from_str_radix(started, 16).ok()?,
            kind,
            vmid: digits.parse().ok(),
        })
    }

    /// Whether `process` (of `/proc/<pid>/stat`) is of this task, and not of a later process with its number.
    fn is(&self, process: &str) -> bool {
        // The name in parentheses may hold anything; the start is the 22nd word of all. Where it cannot be told the task
        // counts as alive.
        let start =
            process.rsplit(')').next().and_then(|it| it.split_whitespace().nth(19)?.parse::<u64>().ok());
        start.is_none_or(|it| it == self.started)
    }
}

/// Whether the program of this process was replaced on disk since the process began: the kernel says so in the name it shows
/// (proc(5), `/proc/[pid]/exe`). `None` where it shows none.
pub(crate) async fn is_program_replaced(cx: &Cx, host: &Guard) -> Result<Option<bool>> {
    let shown = host.read_link(cx, Path::new(&format!("/proc/{}/exe", std::process::id()))).await?;
    Ok(shown.map(|it| it.as_os_str().as_encoded_bytes().ends_with(b" (deleted)")))
}

/// A host with thousands of sockets has a list of hundreds of kilobytes.
const MAX_SOCKETS: usize = 16 << 20;
/// PVE keeps a few dozen tasks in its list.
const MAX_TASKS: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_known_by_its_process() {
        let line = "UPID:node1:00001267:0000ABCD:65A1B2C3:qmclone:100:root@pam: 0";
        let task = Task::parse(line).unwrap();
        assert_eq!(task, Task { pid: 0x1267, started: 0xabcd, kind: "qmclone", vmid: Some(100) });
        let stat = |start: u64| format!("4711 (a) b (c) S 1{} {start} 0 0", " 0".repeat(17));
        assert!(task.is(&stat(0xabcd)));
        assert!(!task.is(&stat(0xabce)), "another process has its number by now");
        assert!(task.is("what this is nobody knows"));
        assert_eq!(
            Task::parse("UPID:node1:00001267:0000ABCD:65A1B2C3:imgdel:100@san1:root@pam: 1").unwrap().vmid,
            Some(100)
        );
        assert_eq!(
            Task::parse("UPID:node1:00001267:0000ABCD:65A1B2C3:vzdump::root@pam: 0").unwrap().vmid,
            None
        );
        assert_eq!(Task::parse(&format!("{line} 65A1B2FF OK")), None, "it has ended");
        assert_eq!(Task::parse("nonsense"), None);
    }
}
