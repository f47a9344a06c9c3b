//! One virtual machine: how QEMU is told to run it, until when it counts as started, and how it ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::channel::Channel;
use super::image::Image;
use super::tools::{Trouble, about, command, finish, say};

/// How many times a boot is tried: emulated machines now and then do not come up.
const TRIES: u32 = 3;

/// A machine is ready by then, or is tried anew: some ten times what it takes on an idle computer.
const READY: Duration = Duration::from_secs(150);

const GIB: u64 = 1 << 30;

/// What runs the machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The computer's own processor.
    Kvm,
    /// Software.
    Emulation,
}

/// The init of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// A script of ours: udev, iscsid, multipathd and nothing more.
    Script,
    /// systemd with Debian's units.
    Systemd,
}

/// Where what the machine changes in its root lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// In its memory: gone when it ends.
    InMemory,
    /// On a disk in its folder: there again at its next boot, as is the scratch disk.
    OnDisk,
}

/// What a machine is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it boots.
    pub image: Image,
    /// Where its files lie; made if it is not there.
    pub folder: PathBuf,
    /// The folder it shares with the outside: `/lab/share` inside.
    pub share: PathBuf,
    /// Its init.
    pub boot: Boot,
    /// Whether its state is to outlive it.
    pub changes: Changes,
    /// Its number, from 1.
    pub node: u8,
    /// A folder for the sockets that join it to the machine with the other number.
    pub wires: Option<PathBuf>,
    /// What runs it.
    pub accelerator: Accelerator,
}

/// A machine that runs.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    /// The way into it.
    pub channel: Channel,
    /// How long it took to be ready.
    pub booted: Duration,
}

/// How a machine ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It powered off or asked for a reboot.
    Clean,
    /// Its kernel gave up.
    Panicked,
}

/// QEMU, so that it ends with whoever started it.
fn bound() -> Command {
    let mut qemu = command("setpriv");
    qemu.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
    qemu
}

impl Plan {
    /// Where the console's output goes.
    pub fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// The socket of the command channel.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("command.sock")
    }

    /// The folder of the command channel's files.
    pub fn channel_folder(&self) -> PathBuf {
        self.share.join(format!("io-{}", self.node))
    }

    fn kernel_line(&self) -> String {
        let boot = match self.boot {
            Boot::Script => "script",
            Boot::Systemd => "systemd systemd.show_status=false",
        };
        let root = match self.changes {
            Changes::InMemory => "memory",
            Changes::OnDisk => "disk",
        };
        // Nothing of what makes a boot of production slower and this one no better; a panic ends the machine.
        format!(
            "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr random.trust_cpu=on \
             nvme_core.multipath=Y lab.node={} lab.root={root} lab.boot={boot}",
            self.node
        )
    }

    fn arguments(&self) -> Vec<String> {
        let show = |path: PathBuf| path.display().to_string();
        let mut list = Vec::new();
        let mut add = |words: &[&str]| list.extend(words.iter().map(|it| (*it).to_owned()));
        add(&["-machine", "q35,hpet=off", "-smp", "1", "-m", "2048"]);
        match self.accelerator {
            Accelerator::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
            Accelerator::Emulation => {
                add(&["-accel", "tcg,thread=multi,tb-size=256"]);
                // Left out is what emulation makes slow: the copying instructions cost more than plain loops.
                add(&["-cpu", "max,la57=off,smap=off,smep=off,pku=off,umip=off,erms=off,fsrm=off"]);
            }
        }
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        add(&["-kernel", &show(self.image.kernel()), "-initrd", &show(self.image.initramfs())]);
        add(&["-append", &self.kernel_line()]);
        add(&["-chardev", &format!("file,id=console,path={},append=on", self.console().display())]);
        add(&["-serial", "chardev:console", "-device", "virtio-rng-pci"]);
        let mut disk = |name: &str, path: PathBuf, more: &str| {
            add(&[
                "-drive",
                &format!("if=none,id={name},file={},format=raw,cache=unsafe{more}", path.display()),
            ]);
            add(&["-device", &format!("virtio-blk-pci,drive={name},serial=lab{name}")]);
        };
        disk("root", self.image.root(), ",readonly=on");
        disk("scratch", self.folder.join("scratch.img"), ",discard=unmap");
        if self.changes == Changes::OnDisk {
            disk("state", self.folder.join("state.img"), "");
        }
        add(&["-device", "virtio-serial-pci"]);
        add(&["-chardev", &format!("socket,id=command,path={},server=on,wait=off", self.socket().display())]);
        add(&["-device", "virtserialport,chardev=command,name=lab.command"]);
        add(&["-fsdev", &format!("local,id=share,path={},security_model=none", self.share.display())]);
        add(&["-device", "virtio-9p-pci,fsdev=share,mount_tag=lab"]);
        for (card, wires) in (1..=4).zip(std::iter::repeat(self.wires.as_ref())) {
            let Some(wires) = wires else { break };
            let end = |node: u8| wires.join(format!("{card}-{node}")).display().to_string();
            let (here, there) = (end(self.node), end(3 - self.node));
            let ends = format!("local.type=unix,local.path={here},remote.type=unix,remote.path={there}");
            add(&["-netdev", &format!("dgram,id=wire{card},{ends}")]);
            let mac = format!("52:54:00:4d:0{}:0{card}", self.node);
            add(&["-device", &format!("virtio-net-pci,netdev=wire{card},mac={mac},romfile=")]);
        }
        list
    }

    /// The folder and the disks; what a kept state needs is made only once.
    async fn prepare(&self) -> Result<(), Trouble> {
        for folder in [Some(&self.folder), Some(&self.share), self.wires.as_ref()].into_iter().flatten() {
            fs::create_dir_all(folder).map_err(about(folder))?;
        }
        // The limit is that of a socket's address.
        if self.socket().as_os_str().len() > 100 {
            return Err(Trouble::lacking(format!(
                "{}: too long for a socket; use --cache",
                self.folder.display()
            )));
        }
        let _ = fs::remove_file(self.socket());
        let sparse = |name: &str, size: u64| {
            let path = self.folder.join(name);
            let made = File::create(&path).and_then(|it| it.set_len(size));
            made.map_err(about(&path)).map(|()| path)
        };
        let kept = self.changes == Changes::OnDisk && self.folder.join("state.img").is_file();
        if !kept {
            sparse("scratch.img", 16 * GIB)?;
        }
        if self.changes == Changes::OnDisk && !kept {
            let state = sparse("state.img", 2 * GIB)?;
            finish(command("mke2fs").args(["-q", "-F", "-t", "ext4", "-m", "0"]).arg(state)).await?;
        }
        Ok(())
    }

    /// Boots it, anew where that fails, and waits until it can be used. It ends when the handle is dropped, and when
    /// the calling thread ends.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn boot(&self) -> Result<Machine, Trouble> {
        self.boot_with(bound, TRIES, READY).await
    }

    /// As [`Plan::boot`], but one try within a bound.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn try_boot(&self, within: Duration) -> Result<Machine, Trouble> {
        self.boot_with(bound, 1, within).await
    }

    /// As [`Plan::boot`], for a machine that is to outlive this program: see [`Machine::release`].
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn boot_to_stay(&self) -> Result<Machine, Trouble> {
        self.boot_with(|| command("qemu-system-x86_64"), TRIES, READY).await
    }

    async fn boot_with(
        &self,
        qemu: impl Fn() -> Command,
        tries: u32,
        within: Duration,
    ) -> Result<Machine, Trouble> {
        self.prepare().await?;
        let mut last = None;
        for attempt in 1..=tries {
            match self.boot_once(qemu(), within).await {
                Ok(machine) => return Ok(machine),
                Err(trouble) if attempt < tries => say(&format!("boot {attempt}: {trouble}; trying again")),
                Err(trouble) => last = Some(trouble),
            }
        }
        Err(last.unwrap_or_else(|| Trouble::fault("no boot was tried")))
    }

    async fn boot_once(&self, mut qemu: Command, within: Duration) -> Result<Machine, Trouble> {
        let started = Instant::now();
        let log = self.folder.join("qemu.log");
        let output = File::create(&log).map_err(about(&log))?;
        let _ = fs::remove_file(self.socket());
        if let Some(wires) = &self.wires {
            for card in 1..=4 {
                let _ = fs::remove_file(wires.join(format!("{card}-{}", self.node)));
            }
        }
        let also = output.try_clone().map_err(about(&log))?;
        // A group of its own: an interrupt of the terminal reaches us, and we end it in order.
        qemu.args(self.arguments()).stdout(output).stderr(also).process_group(0);
        let mut qemu = qemu.spawn().map_err(|error| Trouble::lacking(format!("qemu: {error}")))?;
        let (socket, folder) = (self.socket(), self.channel_folder());
        let channel = Channel::open(&socket, &folder, within);
        let opened = tokio::select! {
            opened = channel => opened,
            ended = qemu.wait() => {
                let said = fs::read_to_string(&log).unwrap_or_default();
                Err(Trouble::fault(format!("qemu ended with {ended:?}: {}", said.trim_end())))
            }
        };
        match opened {
            Ok(channel) => Ok(Machine { qemu, channel, booted: started.elapsed() }),
            Err(trouble) => {
                let _ = qemu.kill().await;
                Err(trouble)
            }
        }
    }
}

impl Machine {
    /// The process of the machine.
    pub fn process(&self) -> Option<u32> {
        self.qemu.id()
    }

    /// Waits until the machine ends by itself.
    ///
    /// # Errors
    /// Where it does not, in time; it is ended then.
    pub async fn ended(&mut self, console: &Path, within: Duration) -> Result<End, Trouble> {
        let waited = tokio::time::timeout(within, self.qemu.wait()).await;
        if waited.is_err() {
            self.kill().await;
            return Err(Trouble::fault(format!("the machine did not end within {} s", within.as_secs())));
        }
        Ok(if panicked(console) { End::Panicked } else { End::Clean })
    }

    /// Ends it at once.
    pub async fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.qemu.kill().await;
    }

    /// Lets the machine run on after this program.
    pub fn release(self) -> Option<u32> {
        let id = self.qemu.id();
        // The handle would end the machine when dropped.
        std::mem::forget(self.qemu);
        id
    }
}

/// Whether the console tells of a kernel that gave up.
pub fn panicked(console: &Path) -> bool {
    let text = fs::read(console).unwrap_or_default();
    String::from_utf8_lossy(&text).contains("Kernel panic")
}
