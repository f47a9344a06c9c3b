//! The kernel's target for NVMe over TCP: one subsystem, several ports, asymmetric access by group.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::configfs::{link, links, make, objects, remove, unlink, write};
use super::{loops, namespace};

const ROOT: &str = "/sys/kernel/config/nvmet";

/// How many access groups each port has.
const GROUPS: u32 = 2;

/// What a port says of the namespaces of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnaState {
    /// The best way to them.
    Optimized,
    /// A way to them.
    NonOptimized,
    /// No way to them now.
    Inaccessible,
}

impl AnaState {
    fn word(self) -> &'static str {
        match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non-optimized",
            Self::Inaccessible => "inaccessible",
        }
    }
}

/// A namespace over a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its number in the subsystem, from 1.
    pub id: u32,
    /// The file that holds the bytes.
    pub file: PathBuf,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its NGUID.
    pub nguid: [u8; 16],
    /// Its access group: 1 is optimised on the first port, 2 on the others.
    pub group: u32,
}

/// An NVMe/TCP subsystem with its ports.
#[derive(Debug)]
pub struct NvmeTarget {
    root: PathBuf,
    nqn: String,
    ports: usize,
}

impl NvmeTarget {
    /// A subsystem that calls itself an ONTAP controller and serves no host yet, with ports that listen in the network
    /// namespace at `netns`. What an earlier one left in the kernel is removed.
    ///
    /// # Errors
    /// Without root or the kernel's modules; names the path that failed.
    pub fn new(netns: &Path, nqn: &str, serial: &str, ports: &[SocketAddr]) -> io::Result<Self> {
        loops::load("nvmet")?;
        loops::load("nvmet-tcp")?;
        let this = Self { root: PathBuf::from(ROOT), nqn: nqn.to_owned(), ports: ports.len() };
        this.clear()?;
        let subsystem = this.subsystem();
        make(&subsystem)?;
        write(subsystem.join("attr_model"), "NetApp ONTAP Controller")?;
        write(subsystem.join("attr_serial"), serial)?;
        write(subsystem.join("attr_allow_any_host"), "0")?;
        for (at, address) in ports.iter().enumerate() {
            this.make_port(at, *address)?;
            for group in 1..=GROUPS {
                let first = (group == 1) == (at == 0);
                let state = if first { AnaState::Optimized } else { AnaState::NonOptimized };
                this.set_state(at, group, state)?;
            }
        }
        // An answer to discovery names the asked port only; the others are referred to.
        for at in 0..ports.len() {
            for (other, address) in ports.iter().enumerate().filter(|(other, _)| *other != at) {
                this.refer(at, other, *address)?;
            }
        }
        for at in 0..ports.len() {
            // The socket is made in the namespace of the thread that makes this link.
            let place = this.port(at).join("subsystems").join(&this.nqn);
            namespace::within(netns, || link(&subsystem, place))?;
        }
        Ok(this)
    }

    /// Serves one more host.
    ///
    /// # Errors
    /// Names the path that failed.
    pub fn allow(&self, host: &str) -> io::Result<()> {
        let known = self.root.join("hosts").join(host);
        make(&known)?;
        link(known, self.subsystem().join("allowed_hosts").join(host))
    }

    /// Shows a namespace. Hosts learn of it by themselves.
    ///
    /// # Errors
    /// Names the path that failed.
    pub fn add(&self, namespace: &Namespace) -> io::Result<()> {
        let folder = self.namespace(namespace.id);
        make(&folder)?;
        write(folder.join("device_path"), &namespace.file.to_string_lossy())?;
        write(folder.join("device_uuid"), &namespace.uuid.to_string())?;
        write(folder.join("device_nguid"), &Uuid::from_bytes(namespace.nguid).to_string())?;
        write(folder.join("ana_grpid"), &namespace.group.to_string())?;
        write(folder.join("enable"), "1")
    }

    /// Lets a namespace follow the size of its file. Hosts learn of it by themselves.
    ///
    /// # Errors
    /// Names the path that failed.
    pub fn resize(&self, id: u32) -> io::Result<()> {
        write(self.namespace(id).join("revalidate_size"), "1")
    }

    /// Takes a namespace away. Hosts learn of it by themselves.
    ///
    /// # Errors
    /// Names the path that failed.
    pub fn remove(&self, id: u32) -> io::Result<()> {
        let folder = self.namespace(id);
        write(folder.join("enable"), "0")?;
        remove(folder)
    }

    /// What a port (from 0) says of a group from now on.
    ///
    /// # Errors
    /// Names the path that failed.
    pub fn set_state(&self, port: usize, group: u32, state: AnaState) -> io::Result<()> {
        write(self.port(port).join(format!("ana_groups/{group}/ana_state")), state.word())
    }

    /// Removes every port, subsystem and host of the kernel's target: controllers end.
    ///
    /// # Errors
    /// Names the path that failed.
    pub fn clear(&self) -> io::Result<()> {
        for port in objects(self.root.join("ports"))? {
            unlink_all(&port.join("subsystems"))?;
            remove_all(&port.join("referrals"))?;
            for group in 2..=GROUPS {
                remove(port.join(format!("ana_groups/{group}")))?;
            }
            remove(port)?;
        }
        for subsystem in objects(self.root.join("subsystems"))? {
            unlink_all(&subsystem.join("allowed_hosts"))?;
            remove_all(&subsystem.join("namespaces"))?;
            remove(subsystem)?;
        }
        remove_all(&self.root.join("hosts"))
    }

    /// How many ports it has.
    pub fn ports(&self) -> usize {
        self.ports
    }

    fn make_port(&self, at: usize, address: SocketAddr) -> io::Result<()> {
        let folder = self.port(at);
        make(&folder)?;
        write_address(&folder, address)?;
        for group in 2..=GROUPS {
            make(folder.join(format!("ana_groups/{group}")))?;
        }
        Ok(())
    }

    fn refer(&self, at: usize, other: usize, address: SocketAddr) -> io::Result<()> {
        let folder = self.port(at).join(format!("referrals/port{}", number(other)));
        make(&folder)?;
        write_address(&folder, address)?;
        write(folder.join("addr_portid"), &number(other).to_string())?;
        write(folder.join("enable"), "1")
    }

    fn subsystem(&self) -> PathBuf {
        self.root.join("subsystems").join(&self.nqn)
    }

    fn namespace(&self, id: u32) -> PathBuf {
        self.subsystem().join(format!("namespaces/{id}"))
    }

    fn port(&self, at: usize) -> PathBuf {
        self.root.join(format!("ports/{}", number(at)))
    }
}

/// The kernel counts ports from 1.
fn number(at: usize) -> usize {
    at + 1
}

fn write_address(folder: &Path, address: SocketAddr) -> io::Result<()> {
    write(folder.join("addr_trtype"), "tcp")?;
    write(folder.join("addr_adrfam"), if address.is_ipv4() { "ipv4" } else { "ipv6" })?;
    write(folder.join("addr_traddr"), &address.ip().to_string())?;
    write(folder.join("addr_trsvcid"), &address.port().to_string())
}

fn unlink_all(folder: &Path) -> io::Result<()> {
    links(folder)?.into_iter().try_for_each(unlink)
}

fn remove_all(folder: &Path) -> io::Result<()> {
    for it in objects(folder)? {
        if it.join("enable").try_exists()? {
            write(it.join("enable"), "0")?;
        }
        remove(it)?;
    }
    Ok(())
}
