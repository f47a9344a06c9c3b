//! A machine that stands between commands: `lab up`, `lab shell`, `lab down`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Output};
use super::machine::{Machine, Plan};
use super::programs::{Programs, install};
use super::tools::{Trouble, about};

/// How long a machine may take to power off by itself.
const POWER_OFF: Duration = Duration::from_secs(60);

/// A machine by its folder.
#[derive(Debug)]
pub struct Standing {
    folder: PathBuf,
}

/// What is noted of a machine that runs. A number alone could by now be another process's.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Note {
    process: i32,
    started: u64,
}

/// When a process started, in the kernel's ticks since boot; `None` where there is no such process.
fn started(process: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name may hold anything; what follows its last parenthesis does not. Field 22, the name being field 2.
    let rest = stat.rsplit_once(')')?.1;
    let state = rest.split_whitespace().next()?;
    let ticks = rest.split_whitespace().nth(19)?.parse().ok()?;
    (state != "Z").then_some(ticks)
}

impl Standing {
    /// The machine whose files lie in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn note_path(&self) -> PathBuf {
        self.folder.join("machine.json")
    }

    fn note(&self) -> Option<Note> {
        let note: Note = serde_json::from_slice(&fs::read(self.note_path()).ok()?).ok()?;
        (started(note.process) == Some(note.started)).then_some(note)
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.note().is_some()
    }

    /// Boots it by a plan for its folder, with everything in place, and lets it stand; a machine that stands gets the
    /// present programs.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn up(&self, plan: &Plan, programs: &Programs) -> Result<Option<Duration>, Trouble> {
        programs.put(&plan.share).await?;
        if self.runs() {
            install(&mut self.channel().await?).await?;
            return Ok(None);
        }
        let mut machine = plan.boot_to_stay().await?;
        let booted = machine.booted;
        install(&mut machine.channel).await?;
        self.release(machine)?;
        Ok(Some(booted))
    }

    fn release(&self, machine: Machine) -> Result<(), Trouble> {
        let process = machine.process().and_then(|it| i32::try_from(it).ok());
        let note = process.and_then(|process| Some(Note { process, started: started(process)? }));
        let note = note.ok_or_else(|| Trouble::fault("the machine has ended"))?;
        let path = self.note_path();
        let text = serde_json::to_vec(&note).map_err(|error| Trouble::fault(error.to_string()))?;
        fs::write(&path, text).map_err(about(&path))?;
        machine.release();
        Ok(())
    }

    async fn channel(&self) -> Result<Channel, Trouble> {
        if !self.runs() {
            return Err(Trouble::fault("no machine stands: cargo xtask lab up"));
        }
        let folder = self.folder.join("share/io-1");
        Channel::open(&self.folder.join("command.sock"), &folder, Duration::from_secs(60)).await
    }

    /// Runs a shell text in it.
    ///
    /// # Errors
    /// Where there is no machine, or it does not answer.
    pub async fn shell(&self, text: &str, deadline: Duration) -> Result<Output, Trouble> {
        self.channel().await?.run(text, deadline).await
    }

    /// Ends it, and takes its files away. Says whether it ran.
    ///
    /// # Errors
    /// Where it cannot be ended.
    pub async fn down(&self) -> Result<bool, Trouble> {
        let Some(note) = self.note() else {
            self.clear()?;
            return Ok(false);
        };
        let Some(pid) = Pid::from_raw(note.process) else { return Ok(false) };
        let process = pidfd_open(pid, PidfdFlags::empty());
        // Only once it is open is it certain that no other process gets the signal.
        if let (Ok(process), true) = (&process, self.runs()) {
            if let Ok(mut channel) = self.channel_within(Duration::from_secs(5)).await {
                let _ = channel.run("systemctl --no-block poweroff", Duration::from_secs(5)).await;
                let _ = channel.end().await;
            }
            if !self.gone_within(POWER_OFF).await {
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
        }
        if !self.gone_within(Duration::from_secs(10)).await {
            return Err(Trouble::fault(format!("process {} does not end", note.process)));
        }
        self.clear()?;
        Ok(true)
    }

    async fn channel_within(&self, within: Duration) -> Result<Channel, Trouble> {
        let folder = self.folder.join("share/io-1");
        Channel::open(&self.folder.join("command.sock"), &folder, within).await
    }

    async fn gone_within(&self, within: Duration) -> bool {
        let gone = async {
            while self.runs() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(within, gone).await.is_ok()
    }

    /// Takes away what the lab made, and nothing that somebody else put there.
    fn clear(&self) -> Result<(), Trouble> {
        let absent_is_fine = |path: &Path, result: std::io::Result<()>| match result {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(about(path)(error)),
            _ => Ok(()),
        };
        for name in ["machine.json", "command.sock", "scratch.img", "state.img", "qemu.log", "console.log"] {
            let path = self.folder.join(name);
            absent_is_fine(&path, fs::remove_file(&path))?;
        }
        let share = self.folder.join("share");
        absent_is_fine(&share, fs::remove_dir_all(&share))?;
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let standing = Standing::new(folder.path().to_owned());
        assert!(!standing.runs());
        let process = i32::try_from(std::process::id()).unwrap();
        let started = started(process).unwrap();
        let write = |note: &Note| fs::write(standing.note_path(), serde_json::to_vec(note).unwrap()).unwrap();
        write(&Note { process, started });
        assert!(standing.runs());
        write(&Note { process, started: started + 1 });
        assert!(!standing.runs());
    }
}
