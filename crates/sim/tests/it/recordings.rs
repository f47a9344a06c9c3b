//! The simulated host plays the scenes that the lab plays on real ones, and both have to write the same.

use std::any::Any;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use san_host::Host;
use san_sim::host::{FindMultipaths, NodeSpec, SimNode, World};
use san_sim::recording::{Act, INITIATOR, Shelf, Stage, Trouble, play, scenes};
use tempfile::TempDir;

/// A simulated node and the scenes' array.
struct Rig {
    shelf: Arc<Shelf>,
    node: SimNode,
    _folder: TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Arc::new(Shelf::new(folder.path()));
        let world = World::new();
        world.add_array(shelf.clone());
        let mut spec = NodeSpec::new("pve1", INITIATOR);
        spec.station = Some(1);
        spec.multipath.find_multipaths = FindMultipaths::Strict;
        spec.timing.checker = Duration::from_secs(1);
        Self { shelf, node: world.add_node(spec), _folder: folder }
    }
}

#[async_trait]
impl Stage for Rig {
    fn host(&self) -> &dyn Host {
        &self.node
    }

    async fn act(&self, act: Act) -> Result<(), Trouble> {
        match act {
            Act::Map { lun, volume, mebibytes } => {
                self.shelf.map(lun, volume, mebibytes << 20).map_err(|it| Trouble(it.to_string()))?;
            }
            Act::Unmap(lun) => self.shelf.unmap(lun),
            Act::Road(portal, reachability) => self.shelf.set_portal(portal, reachability),
            Act::Admit(admission) => self.shelf.admit(admission),
        }
        Ok(())
    }

    async fn forget(&self) -> Result<(), Trouble> {
        self.node.remove_file(Path::new("/etc/multipath/wwids"));
        Ok(())
    }

    async fn open(&self, device: &str) -> Result<Box<dyn Any + Send + Sync>, Trouble> {
        let handle = self.node.open(Path::new(device)).map_err(|it| Trouble(it.to_string()))?;
        Ok(Box::new(handle))
    }
}

/// What the simulated host leaves out or says otherwise on purpose.
struct LeftOut {
    /// The beginning of a step.
    step: &'static str,
    /// The beginning of a line in its answer; both sides may have it or not.
    line: &'static str,
    why: &'static str,
}

const SERIAL: &str = "the kernel's target ends the serial number with a NUL byte, NetApp does not";
const PORTS: &str =
    "the numbers of ports and port groups are the array's own; the simulated ones are the groups' tags";

const CACHE: &str = "whether it has a cache that can lose writes is said by the array";

const LEFT_OUT: [LeftOut; 15] = [
    LeftOut { step: "tree /sys/class/scsi_device/0:0:0:1/device", line: "block/sda/queue/fua: ", why: CACHE },
    LeftOut {
        step: "tree /sys/class/scsi_device/0:0:0:1/device",
        line: "block/sda/queue/write_cache: ",
        why: CACHE,
    },
    LeftOut {
        step: "tree /sys/class/scsi_device/0:0:0:1/device",
        line: "scsi_disk/0:0:0:1/FUA: ",
        why: CACHE,
    },
    LeftOut {
        step: "tree /sys/class/scsi_device/0:0:0:1/device",
        line: "scsi_disk/0:0:0:1/cache_type: ",
        why: CACHE,
    },
    LeftOut { step: "tree /sys/block/dm-0", line: "queue/fua: ", why: CACHE },
    LeftOut { step: "tree /sys/block/dm-0", line: "queue/write_cache: ", why: CACHE },
    LeftOut { step: "tree /sys/class/scsi_device/0:0:0:1/device", line: "vpd_pg80: ", why: SERIAL },
    LeftOut { step: "tree /sys/class/scsi_device/0:0:0:1/device", line: "vpd_pg83: ", why: PORTS },
    LeftOut { step: "inquiry /dev/sg0 page 80", line: "hex:", why: SERIAL },
    LeftOut { step: "inquiry /dev/sg0 page 83", line: "hex:", why: PORTS },
    LeftOut {
        step: "inquiry /dev/sg0 page 00",
        line: "hex:",
        why: "of the pages only those about identity are simulated; a list must not promise others",
    },
    LeftOut { step: "file /run/udev/data/b8:", line: "| E:ID_TARGET_PORT=", why: PORTS },
    LeftOut { step: "file /run/udev/data/b8:", line: "| E:SCSI_IDENT_PORT_RELATIVE=", why: PORTS },
    LeftOut { step: "file /run/udev/data/b8:", line: "| E:SCSI_IDENT_PORT_TARGET_PORT_GROUP=", why: PORTS },
    LeftOut { step: "file /run/udev/data/b8:", line: "| E:SCSI_IDENT_PORT_NAME=", why: PORTS },
];

/// A transcript without what is left out; `used` counts the rows that leave something out.
fn kept(text: &str, used: &mut BTreeSet<usize>) -> Vec<String> {
    let mut step = "";
    let mut lines = Vec::new();
    for line in text.lines() {
        step = line.strip_prefix("$ ").unwrap_or(step);
        let row = LEFT_OUT.iter().position(|it| step.starts_with(it.step) && line.starts_with(it.line));
        match row {
            Some(row) => {
                used.insert(row);
            }
            None => lines.push(line.to_owned()),
        }
    }
    lines
}

/// The differences, each under its step.
fn differences(real: &[String], simulated: &[String]) -> Vec<String> {
    let steps = |lines: &[String]| -> Vec<(String, Vec<String>)> {
        let mut steps: Vec<(String, Vec<String>)> = vec![(String::new(), vec![])];
        for line in lines {
            if line.starts_with("$ ") {
                steps.push((line.clone(), vec![]));
            } else if let Some((_, answer)) = steps.last_mut() {
                answer.push(line.clone());
            }
        }
        steps
    };
    let (real, simulated) = (steps(real), steps(simulated));
    let mut found = Vec::new();
    for (at, (step, answer)) in real.iter().enumerate() {
        match simulated.get(at) {
            Some((same, other)) if same == step => {
                let missing =
                    answer.iter().filter(|it| !other.contains(it)).map(|it| format!("  real      {it}"));
                let added =
                    other.iter().filter(|it| !answer.contains(it)).map(|it| format!("  simulated {it}"));
                let lines: Vec<String> = missing.chain(added).collect();
                if answer != other {
                    found.push(step.clone());
                    found.extend(lines);
                }
            }
            _ => found.push(format!("{step} is another step: the recording is of other scenes")),
        }
    }
    found
}

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/debian13")
}

fn recorded(name: &str) -> String {
    let path = recordings().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test(start_paused = true)]
async fn the_simulated_host_does_what_real_ones_did() {
    let rig = Rig::new();
    let (mut found, mut used) = (Vec::new(), BTreeSet::new());
    for scene in scenes() {
        let real = recorded(&format!("{}.txt", scene.name));
        let simulated = match play(&rig, &scene).await {
            Ok(text) => text,
            Err(trouble) => panic!("{}\n{trouble}", found.join("\n")),
        };
        let here = differences(&kept(&real, &mut used), &kept(&simulated, &mut BTreeSet::new()));
        if !here.is_empty() {
            found.push(format!("# scene {}", scene.name));
            found.extend(here);
        }
    }
    assert!(found.is_empty(), "the simulated host differs:\n{}", found.join("\n"));
    for (row, it) in LEFT_OUT.iter().enumerate() {
        assert!(used.contains(&row), "nothing is left out because {:?} ({})", it.why, it.line);
    }
}

/// What the simulated host says of its tools is what was recorded.
#[test]
fn the_recordings_are_of_the_versions_that_are_simulated() {
    let versions = recorded("versions");
    for version in ["Debian 13", "iscsiadm version 2.1.11", "multipath-tools v0.11.1"] {
        assert!(versions.lines().any(|it| it.starts_with(version)), "{version} is not in {versions}");
    }
    let all =
        std::fs::read_dir(recordings()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    let known: BTreeSet<String> =
        scenes().iter().map(|it| format!("{}.txt", it.name)).chain(["versions".to_owned()]).collect();
    assert_eq!(all.collect::<BTreeSet<_>>(), known, "one file for each scene");
}
