//! The machine's storage networks. The array lives in a network namespace of its own; each network is a veth pair of
//! its own, so that a cut is a real loss of one link and of nothing else.
//!
//! Network `n` (from 1): the host has 10.77.n.1 on `h<n>`, the array 10.77.n.2 on `t<n>` in the namespace. With a second
//! card of the host, `g<n>` with 10.77.n.101, the array's address is on a bridge that joins `t<n>` and `u<n>`. With a second
//! machine the array's address is on a bridge in the namespace that joins `t<n>` and the machine's network card, and the
//! second machine is 10.77.n.3.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Failure, tools};

/// The namespace's name.
pub const NAMESPACE: &str = "san";

/// The namespace's file.
pub const NAMESPACE_PATH: &str = "/run/netns/san";

/// The iSCSI port.
const PORT: u16 = 3260;

/// The table of the namespace that counts.
const COUNTS: &str = "counts";

/// Programs that configure networks end quickly, even under emulation.
const PATIENCE: Duration = Duration::from_secs(30);

/// How packets of a portal end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// They vanish: a black hole.
    Drop,
    /// The sender is told: connections are reset and refused.
    Reject,
}

/// Which packets of a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those to the array.
    ToArray,
    /// Those from the array.
    FromArray,
    /// All.
    Both,
}

/// The storage networks of this machine.
#[derive(Debug)]
pub struct Network {
    networks: u8,
    blocks: Mutex<BTreeMap<u8, (Block, Direction)>>,
}

impl Network {
    /// Makes `networks` networks between this machine and the namespace, or takes those that are there already and
    /// brings them back to health.
    ///
    /// # Errors
    /// Where `ip` or `nft` fails.
    pub async fn start(networks: u8) -> Result<Self, Failure> {
        let this = Self { networks, blocks: Mutex::default() };
        if Path::new(NAMESPACE_PATH).try_exists()? {
            for n in 1..=networks {
                this.mend(n).await?;
            }
            this.apply().await?;
            return Ok(this);
        }
        this.make_pairs().await?;
        let addresses = (1..=networks).fold(String::new(), |mut batch, n| {
            let _ = writeln!(batch, "addr add 10.77.{n}.2/24 dev t{n}");
            batch
        });
        batch(Some(NAMESPACE), &addresses).await?;
        Ok(this)
    }

    /// The same, with a bridge in each network that the machine's network card is on too.
    ///
    /// # Errors
    /// Where a card is missing, or `ip` fails.
    pub async fn start_bridged(networks: u8) -> Result<Self, Failure> {
        let this = Self { networks, blocks: Mutex::default() };
        this.make_pairs().await?;
        let (mut outside, mut inside) = (String::new(), String::new());
        for n in 1..=networks {
            let card = card(n)?;
            let _ = writeln!(outside, "link set {card} name c{n} netns {NAMESPACE}");
            let _ = writeln!(inside, "link add b{n} type bridge forward_delay 0 mcast_snooping 0");
            let _ =
                writeln!(inside, "link set t{n} master b{n}\nlink set c{n} master b{n}\nlink set c{n} up");
            let _ = writeln!(inside, "addr add 10.77.{n}.2/24 dev b{n}\nlink set b{n} up");
        }
        batch(None, &outside).await?;
        batch(Some(NAMESPACE), &inside).await?;
        Ok(this)
    }

    /// Joins the networks of another machine: this one has 10.77.n.`node` on its network card, as `h<n>`.
    ///
    /// # Errors
    /// Where a card is missing, or `ip` fails.
    pub async fn join(networks: u8, node: u8) -> Result<(), Failure> {
        let mut commands = String::new();
        for n in 1..=networks {
            let card = card(n)?;
            let _ = writeln!(commands, "link set {card} name h{n}\naddr add 10.77.{n}.{node}/24 dev h{n}");
            let _ = writeln!(commands, "link set h{n} up");
        }
        batch(None, &commands).await
    }

    /// Gives this machine a second card, [`Network::second`], in network `n`. Each card answers for its own address alone, as
    /// cards in one network have to.
    ///
    /// # Errors
    /// Where `ip` fails, or the kernel does not take the settings.
    pub async fn double(&self, n: u8) -> Result<(), Failure> {
        let second = Self::second(n);
        let outside = format!("link add {second} type veth peer name u{n} netns {NAMESPACE}\n");
        let inside = format!(
            "link add b{n} type bridge forward_delay 0 mcast_snooping 0\naddr del 10.77.{n}.2/24 dev t{n}\n\
             link set t{n} master b{n}\nlink set u{n} master b{n}\nlink set u{n} up\n\
             addr add 10.77.{n}.2/24 dev b{n}\nlink set b{n} up\n"
        );
        batch(None, &outside).await?;
        batch(Some(NAMESPACE), &inside).await?;
        for card in [Self::first(n), second.clone()] {
            for (setting, value) in [("arp_ignore", "1"), ("arp_announce", "2"), ("rp_filter", "0")] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{card}/{setting}"), value)?;
            }
        }
        batch(None, &format!("addr add 10.77.{n}.101/24 dev {second}\nlink set {second} up\n")).await
    }

    /// This machine's card in network `n`.
    pub fn first(n: u8) -> String {
        format!("h{n}")
    }

    /// This machine's second card there.
    pub fn second(n: u8) -> String {
        format!("g{n}")
    }

    /// Takes the link of the second card in network `n` down, at the array's side.
    ///
    /// # Errors
    /// Where `ip` fails.
    pub async fn cut_second(&self, n: u8) -> Result<(), Failure> {
        set_link(&format!("u{n}"), "down").await
    }

    /// Brings it back up.
    ///
    /// # Errors
    /// Where `ip` fails.
    pub async fn mend_second(&self, n: u8) -> Result<(), Failure> {
        set_link(&format!("u{n}"), "up").await
    }

    /// Counts from now on how many connections the array's address in each network is asked for on the iSCSI port.
    ///
    /// # Errors
    /// Where `nft` fails.
    pub async fn count_connections(&self) -> Result<(), Failure> {
        let rules = (1..=self.networks).fold(String::new(), |mut rules, n| {
            let wanted = format!("ip daddr 10.77.{n}.2 tcp dport {PORT} tcp flags & (syn | ack) == syn");
            let _ = writeln!(rules, "    {wanted} counter");
            rules
        });
        let chain = format!("  chain input {{\n    type filter hook input priority -10;\n{rules}  }}\n");
        nft(&format!(
            "table inet {COUNTS} {{}}\ndelete table inet {COUNTS}\ntable inet {COUNTS} {{\n{chain}}}\n"
        ))
        .await
    }

    /// How many it was asked for in each network since then.
    ///
    /// # Errors
    /// Where nothing is counted.
    pub async fn connections(&self) -> Result<Vec<u64>, Failure> {
        let arguments = ["netns", "exec", NAMESPACE, "nft", "list", "table", "inet", COUNTS];
        let text = tools::run("ip", &arguments, PATIENCE).await?;
        let counts = counted(&text);
        if counts.len() == usize::from(self.networks) { Ok(counts) } else { Err(Failure(text)) }
    }

    async fn make_pairs(&self) -> Result<(), Failure> {
        tools::run("ip", &["netns", "add", NAMESPACE], PATIENCE).await?;
        let (mut outside, mut inside) = (String::new(), "link set lo up\n".to_owned());
        for n in 1..=self.networks {
            let _ = writeln!(outside, "link add h{n} type veth peer name t{n} netns {NAMESPACE}");
            let _ = writeln!(outside, "addr add 10.77.{n}.1/24 dev h{n}\nlink set h{n} up");
            let _ = writeln!(inside, "link set t{n} up");
        }
        batch(None, &outside).await?;
        batch(Some(NAMESPACE), &inside).await
    }

    /// How many networks there are.
    pub fn networks(&self) -> u8 {
        self.networks
    }

    /// The array's portal in network `n`.
    pub fn portal(n: u8) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(10, 77, n, 2), PORT))
    }

    /// The array's portals, from network 1 on.
    pub fn portals(&self) -> Vec<SocketAddr> {
        (1..=self.networks).map(Self::portal).collect()
    }

    /// Takes the array's link to this machine in network `n` down.
    ///
    /// # Errors
    /// Where `ip` fails.
    pub async fn cut(&self, n: u8) -> Result<(), Failure> {
        set_link(&format!("t{n}"), "down").await
    }

    /// Brings the link back up.
    ///
    /// # Errors
    /// Where `ip` fails.
    pub async fn mend(&self, n: u8) -> Result<(), Failure> {
        set_link(&format!("t{n}"), "up").await
    }

    /// Ends packets between the hosts and the array's address in network `n`; links stay up.
    ///
    /// # Errors
    /// Where `nft` fails.
    pub async fn block(&self, n: u8, block: Block, direction: Direction) -> Result<(), Failure> {
        self.change(|blocks| {
            blocks.insert(n, (block, direction));
        });
        self.apply().await
    }

    /// Lets packets of network `n` through again.
    ///
    /// # Errors
    /// Where `nft` fails.
    pub async fn unblock(&self, n: u8) -> Result<(), Failure> {
        self.change(|blocks| {
            blocks.remove(&n);
        });
        self.apply().await
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<u8, (Block, Direction)>)) {
        change(&mut self.blocks.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Replaces the namespace's whole rule set at once.
    async fn apply(&self) -> Result<(), Failure> {
        let rules = rules(&self.blocks.lock().unwrap_or_else(PoisonError::into_inner));
        nft(&rules).await
    }
}

/// Changes a link of the array's.
async fn set_link(device: &str, state: &str) -> Result<(), Failure> {
    tools::run("ip", &["-n", NAMESPACE, "link", "set", device, state], PATIENCE).await.map(drop)
}

/// Gives the namespace these rules.
async fn nft(rules: &str) -> Result<(), Failure> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), rules)?;
    let path = file.path().to_string_lossy();
    tools::run("ip", &["netns", "exec", NAMESPACE, "nft", "-f", &path], PATIENCE).await.map(drop)
}

/// The counters of a table, as `nft` lists it.
fn counted(text: &str) -> Vec<u64> {
    let counters = text.lines().filter_map(|it| it.split_once("counter packets ")?.1.split(' ').next());
    counters.filter_map(|it| it.parse().ok()).collect()
}

/// The rule set for these blocks.
fn rules(blocks: &BTreeMap<u8, (Block, Direction)>) -> String {
    let (mut input, mut output) = (String::new(), String::new());
    for (n, (block, direction)) in blocks {
        // The sender learns of it by a reset, which must get out; from the array's side there is nobody to tell.
        let (verdict, spared) = match block {
            Block::Drop => ("drop", ""),
            Block::Reject => ("meta l4proto tcp reject with tcp reset", "tcp flags & rst == 0 "),
        };
        if *direction != Direction::FromArray {
            let _ = writeln!(input, "    ip daddr 10.77.{n}.2 {verdict}");
        }
        if *direction != Direction::ToArray {
            let _ = writeln!(output, "    ip saddr 10.77.{n}.2 {spared}drop");
        }
    }
    let chain = |name: &str, rules: &str| {
        format!("  chain {name} {{\n    type filter hook {name} priority 0; policy accept;\n{rules}  }}\n")
    };
    let chains = chain("input", &input) + &chain("output", &output);
    format!("table inet lab {{}}\ndelete table inet lab\ntable inet lab {{\n{chains}}}\n")
}

/// Runs commands of `ip` in one process.
async fn batch(namespace: Option<&str>, commands: &str) -> Result<(), Failure> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), commands)?;
    let path = file.path().to_string_lossy();
    let mut arguments = namespace.map_or_else(Vec::new, |it| vec!["-n", it]);
    arguments.extend(["-batch", &*path]);
    tools::run("ip", &arguments, PATIENCE).await.map(drop)
}

/// The machine's network card for network `n`, which the outside tells by the end of its address.
fn card(n: u8) -> Result<String, Failure> {
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
        let bytes: Vec<&str> = address.trim().split(':').collect();
        if let ["52", "54", "00", "4d", _, last] = bytes[..]
            && u8::from_str_radix(last, 16) == Ok(n)
        {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Err(Failure(format!("this machine has no card for network {n}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_in_their_order() {
        let text = "table inet counts {\n\tchain input {\n\t\ttype filter hook input priority -10; policy accept;\n\
                    \t\tip daddr 10.77.1.2 tcp dport 3260 tcp flags & (syn | ack) == syn counter packets 3 bytes 180\n\
                    \t\tip daddr 10.77.2.2 tcp dport 3260 tcp flags & (syn | ack) == syn counter packets 0 bytes 0\n\t}\n}\n";
        assert_eq!(counted(text), [3, 0]);
        assert_eq!(counted(""), [0; 0]);
    }

    #[test]
    fn a_rule_set_replaces_the_one_before_and_names_each_direction() {
        let none = rules(&BTreeMap::new());
        assert!(none.starts_with("table inet lab {}\ndelete table inet lab\n"), "{none}");
        assert!(!none.contains("10.77"));
        let some = rules(&BTreeMap::from([
            (1, (Block::Drop, Direction::ToArray)),
            (2, (Block::Reject, Direction::Both)),
            (3, (Block::Drop, Direction::FromArray)),
        ]));
        assert!(some.contains("ip daddr 10.77.1.2 drop\n") && !some.contains("ip saddr 10.77.1.2"), "{some}");
        assert!(some.contains("ip daddr 10.77.2.2 meta l4proto tcp reject with tcp reset\n"));
        assert!(some.contains("ip saddr 10.77.2.2 tcp flags & rst == 0 drop\n"));
        assert!(some.contains("ip saddr 10.77.3.2 drop\n") && !some.contains("ip daddr 10.77.3.2"));
    }
}
