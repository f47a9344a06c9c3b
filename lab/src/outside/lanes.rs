//! Runs groups, each in fresh machines, several at once where there are processors for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use super::image::Image;
use super::machine::{Accelerator, Boot, Changes, End, Machine, Plan, panicked};
use super::programs::{Programs, install};
use super::tools::{Trouble, about, say};
use crate::guest::{Group, Machines, REBOOT};
use crate::verdict::{Outcome, Verdict};

/// No group takes longer, on however loaded a computer. On an idle one they take up to five minutes.
const DEADLINE: Duration = Duration::from_secs(20 * 60);

/// How long a machine may take from the wish for a reboot to its end: Debian's units give a stop 90 seconds.
const REBOOTED: Duration = Duration::from_secs(300);

/// So many times a group's machine is booted at most.
const BOOTS: u32 = 6;

/// What to run and how.
#[derive(Debug)]
pub struct Wish {
    /// Only checks whose name contains this.
    pub only: Option<String>,
    /// So many machines at once.
    pub jobs: u32,
    /// What the machines boot.
    pub image: Image,
    /// What runs them.
    pub accelerator: Accelerator,
    /// Where logs go.
    pub logs: PathBuf,
    /// Where machines have their files while they run.
    pub machines: PathBuf,
}

/// A group that was run.
#[derive(Debug)]
pub struct Played {
    /// Its name.
    pub group: &'static str,
    /// What its checks found, and what befell the group itself.
    pub verdicts: Vec<Verdict>,
    /// How long it took, its machines' boots included.
    pub lasted: Duration,
    /// How long each boot took.
    pub boots: Vec<Duration>,
}

/// Runs the groups; their order is that of the answer.
pub async fn run(wish: Wish, programs: Programs, groups: Vec<Group>) -> Vec<Played> {
    let lanes = Rc::new(Semaphore::new(wish.jobs.max(1) as usize));
    let wish = Rc::new((wish, programs));
    // On this thread, and gone with this future: see Plan::boot.
    let local = LocalSet::new();
    let tasks: Vec<_> = groups
        .into_iter()
        .map(|group| {
            let (lanes, wish) = (Rc::clone(&lanes), Rc::clone(&wish));
            local.spawn_local(async move {
                let wanted = if group.machines == Machines::Pair { 2 } else { 1 };
                // Never closed; a lane more than there is would never come.
                let _lane = lanes.acquire_many(wanted.min(wish.0.jobs.max(1))).await;
                Run::new(&wish.0, &wish.1, &group).play().await
            })
        })
        .collect();
    local
        .run_until(async {
            let mut played = Vec::new();
            for task in tasks {
                // A task ends early only with a panic, which goes on here.
                match task.await {
                    Ok(it) => played.push(it),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
            }
            played
        })
        .await
}

/// One group on its way.
struct Run<'a> {
    wish: &'a Wish,
    programs: &'a Programs,
    group: &'a Group,
    folder: PathBuf,
    boots: Vec<Duration>,
}

impl<'a> Run<'a> {
    fn new(wish: &'a Wish, programs: &'a Programs, group: &'a Group) -> Self {
        let folder = wish.machines.join(group.name);
        Self { wish, programs, group, folder, boots: Vec::new() }
    }

    async fn play(mut self) -> Played {
        say(&format!("{}: begins", self.group.name));
        let started = Instant::now();
        let limited = tokio::time::timeout(DEADLINE, self.machines()).await;
        let ended = limited.unwrap_or_else(|_| {
            Err(Trouble::fault(format!("it did not end within {} s", DEADLINE.as_secs())))
        });
        let mut verdicts = self.verdicts();
        let lasted = started.elapsed();
        let complaint = ended.err().map(|it| it.text).or_else(|| self.silence(&verdicts));
        if let Some(found) = complaint {
            verdicts.push(self.own_verdict(found, lasted));
        }
        let failed = verdicts.iter().filter(|it| it.outcome == Outcome::Failed).count();
        if let Err(trouble) = self.bring_out(failed > 0) {
            verdicts.push(self.own_verdict(trouble.text, lasted));
        }
        let _ = fs::remove_dir_all(&self.folder);
        let seconds = lasted.as_secs_f64();
        say(&format!("{}: {} checks, {failed} failed, {seconds:.0} s", self.group.name, verdicts.len()));
        Played { group: self.group.name, verdicts, lasted, boots: self.boots }
    }

    /// A group that says nothing has shown nothing.
    fn silence(&self, verdicts: &[Verdict]) -> Option<String> {
        let fine = !verdicts.is_empty() || self.wish.only.is_some();
        (!fine).then(|| "it ended without a verdict".to_owned())
    }

    fn own_verdict(&self, found: String, lasted: Duration) -> Verdict {
        Verdict {
            group: self.group.name.to_owned(),
            check: "(the group)".to_owned(),
            scenarios: Vec::new(),
            outcome: Outcome::Failed,
            done: "run the group to its end".to_owned(),
            found,
            millis: u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
            figures: std::collections::BTreeMap::new(),
        }
    }

    fn share(&self) -> PathBuf {
        self.folder.join("share")
    }

    fn plan(&self, node: u8) -> Plan {
        let (boot, changes) = match self.group.machines {
            Machines::Systemd => (Boot::Systemd, Changes::OnDisk),
            Machines::Script | Machines::Pair => (Boot::Script, Changes::InMemory),
        };
        let wires = (self.group.machines == Machines::Pair).then(|| self.folder.join("wires"));
        Plan {
            image: self.wish.image.clone(),
            folder: self.folder.join(format!("node{node}")),
            share: self.share(),
            boot,
            changes,
            node,
            wires,
            accelerator: self.wish.accelerator,
        }
    }

    async fn machines(&mut self) -> Result<(), Trouble> {
        let exchange = self.share().join("group");
        fs::create_dir_all(&exchange).map_err(about(&exchange))?;
        self.programs.put(&self.share()).await?;
        match self.group.machines {
            Machines::Script => self.once(1).await.map(|boot| self.boots.push(boot)),
            Machines::Systemd => self.over_reboots().await,
            Machines::Pair => {
                let (first, second) = tokio::join!(self.once(1), self.once(2));
                let boots = [first?, second?];
                self.boots.extend(boots);
                Ok(())
            }
        }
    }

    async fn boot(&self, plan: &Plan) -> Result<Machine, Trouble> {
        let mut machine = plan.boot().await?;
        install(&mut machine.channel).await?;
        Ok(machine)
    }

    /// A boot, the group's program, the end. Gives how long the boot took.
    async fn once(&self, node: u8) -> Result<Duration, Trouble> {
        let plan = self.plan(node);
        let mut machine = self.boot(&plan).await?;
        let ended = self.program(&plan, &mut machine).await;
        machine.kill().await;
        match ended? {
            0 => Ok(machine.booted),
            code => Err(self.unwell(&plan, code)),
        }
    }

    async fn over_reboots(&mut self) -> Result<(), Trouble> {
        let plan = self.plan(1);
        for _ in 0..BOOTS {
            let mut machine = self.boot(&plan).await?;
            self.boots.push(machine.booted);
            let code = self.program(&plan, &mut machine).await?;
            if code == 0 {
                machine.kill().await;
                return Ok(());
            }
            if code != i32::from(REBOOT) {
                machine.kill().await;
                return Err(self.unwell(&plan, code));
            }
            if machine.ended(&plan.console(), REBOOTED).await? == End::Panicked {
                return Err(Trouble::fault("its kernel panicked instead of rebooting"));
            }
        }
        Err(Trouble::fault(format!("it wants more than {BOOTS} boots")))
    }

    /// Runs the group's program in a machine and gives its exit code.
    async fn program(&self, plan: &Plan, machine: &mut Machine) -> Result<i32, Trouble> {
        let node = plan.node;
        let only = self.wish.only.as_ref().map(|it| format!(" --only '{}'", it.replace('\'', "'\\''")));
        // Its log is written outside as it grows: a machine that dies does not take it along.
        let text = format!(
            "cd / && exec sanbridge-lab-guest run {} --node {node} --verdicts /lab/share/group/verdicts-{node}.jsonl{} \
             >>/lab/share/group/log-{node}.txt 2>&1",
            self.group.name,
            only.unwrap_or_default()
        );
        let output = machine.channel.run(&text, DEADLINE).await;
        let output = output.map_err(|trouble| {
            let panic = if panicked(&plan.console()) { "; its kernel panicked" } else { "" };
            Trouble::fault(format!("machine {node}: {trouble}{panic}"))
        })?;
        if output.code != 0 && output.code != i32::from(REBOOT) {
            // Whatever can still be learnt; a machine that no longer answers has its console's log.
            let _ = machine.channel.run(&diagnosis(node), Duration::from_secs(60)).await;
        }
        Ok(output.code)
    }

    fn unwell(&self, plan: &Plan, code: i32) -> Trouble {
        let log = fs::read(self.share().join(format!("group/log-{}.txt", plan.node))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last = log.lines().next_back().unwrap_or("no word").to_owned();
        Trouble::fault(format!("machine {}: its program ended with {code}: {last}", plan.node))
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for node in 1..=2 {
            let path = self.share().join(format!("group/verdicts-{node}.jsonl"));
            let text = fs::read_to_string(path).unwrap_or_default();
            verdicts.extend(text.lines().map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| {
                    self.own_verdict(
                        format!("a verdict that cannot be read, {error}: {line}"),
                        Duration::ZERO,
                    )
                })
            }));
        }
        verdicts
    }

    /// Takes logs and recordings to where they are kept: all of them after a failure.
    fn bring_out(&self, failed: bool) -> Result<(), Trouble> {
        let to = self.wish.logs.join(self.group.name);
        let mut wanted = vec![("share/recordings", "recordings"), ("share/out", "out")];
        if failed {
            wanted.extend([("share/group", "group")]);
            for (node, target) in [("node1", "node1"), ("node2", "node2")] {
                for file in ["console.log", "qemu.log"] {
                    let from = self.folder.join(node).join(file);
                    if from.is_file() {
                        let target = to.join(target);
                        fs::create_dir_all(&target).map_err(about(&target))?;
                        fs::copy(&from, target.join(file)).map_err(about(&from))?;
                    }
                }
            }
        }
        for (from, target) in wanted {
            let from = self.folder.join(from);
            if from.is_dir() {
                copy_folder(&from, &to.join(target))?;
            }
        }
        Ok(())
    }
}

/// What is asked of a machine in which a group did not end well.
fn diagnosis(node: u8) -> String {
    format!(
        "cd /lab/share/group; exec >state-{node}.txt 2>&1; set -x; dmesg | tail -n 400; \
         timeout 10 multipathd show maps json; timeout 10 multipathd show paths; dmsetup status; dmsetup table; \
         iscsiadm -m session -P 1; lsblk; ps axo pid,ppid,stat,wchan:30,args; find /sys/kernel/config/target -maxdepth 6"
    )
}

/// Copies the files of a folder and of all below it.
pub(super) fn copy_folder(from: &Path, to: &Path) -> Result<(), Trouble> {
    fs::create_dir_all(to).map_err(about(to))?;
    for entry in fs::read_dir(from).map_err(about(from))? {
        let path = entry.map_err(about(from))?.path();
        let Some(name) = path.file_name() else { continue };
        let kind = fs::symlink_metadata(&path).map_err(about(&path))?;
        if kind.is_dir() {
            copy_folder(&path, &to.join(name))?;
        } else if kind.is_file() {
            fs::copy(&path, to.join(name)).map_err(about(&path))?;
        }
    }
    Ok(())
}
