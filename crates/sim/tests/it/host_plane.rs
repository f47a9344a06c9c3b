//! What a block plane is told, and that its users count.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use san_core::DeviceNumber;
use san_host::Host;
use san_sim::host::{BlockPlane, NodeSpec, World};

use crate::host_rig::{INITIATOR, MIB, Rig, Shelf, soon, wwid};

/// Notes what it is told; says that so many use every map.
#[derive(Debug, Default)]
struct Notes {
    told: Mutex<Vec<String>>,
    users: Mutex<u32>,
}

impl Notes {
    fn note(&self, text: String) {
        self.told.lock().unwrap().push(text);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

impl BlockPlane for Notes {
    fn appeared(&self, node: &str, map: &str, file: &Path) {
        self.note(format!("{node} appeared {map} {}", file.display()));
    }
    fn grown(&self, node: &str, map: &str) {
        self.note(format!("{node} grown {map}"));
    }
    fn flushed(&self, node: &str, map: &str) {
        self.note(format!("{node} flushed {map}"));
    }
    fn removed(&self, node: &str, map: &str) {
        self.note(format!("{node} removed {map}"));
    }
    fn linked(&self, node: &str, name: &str, map: &str) {
        self.note(format!("{node} linked {name} {map}"));
    }
    fn unlinked(&self, node: &str, name: &str) {
        self.note(format!("{node} unlinked {name}"));
    }
    fn cleared(&self, node: &str) {
        self.note(format!("{node} cleared"));
    }
    fn openers(&self, _: &str, _: &str) -> u32 {
        *self.users.lock().unwrap()
    }
}

async fn rig() -> (Rig, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    let world = World::with_plane(notes.clone());
    let shelf = Shelf::new();
    world.add_array(shelf.clone());
    let node = world.add_node(NodeSpec::new("pve1", INITIATOR));
    let rig = Rig { world, shelf, node };
    rig.connect().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.attach(1, 0x31).await;
    (rig, notes)
}

#[tokio::test(start_paused = true)]
async fn a_plane_follows_maps_and_links() {
    let (rig, notes) = rig().await;
    let id = wwid(0x31);
    assert_eq!(notes.take(), [format!("pve1 appeared {id} {}", rig.shelf.file(0x31).display())]);
    let link = Path::new("/dev/sanbridge/store/vm-100-disk-0");
    for target in [format!("/dev/disk/by-id/dm-uuid-mpath-{id}"), format!("../../mapper/{id}")] {
        rig.node.make_link(link, &PathBuf::from(target), soon()).await.unwrap();
        assert_eq!(notes.take(), [format!("pve1 linked store/vm-100-disk-0 {id}")]);
    }
    // Other links are nobody's business.
    rig.node.make_link(Path::new("/dev/other"), Path::new("/dev/dm-0"), soon()).await.unwrap();
    rig.shelf.change(1, |it| it.size = 2 * MIB);
    for leg in ["0:0:0:1", "1:0:0:1"] {
        rig.write(&format!("/sys/class/scsi_device/{leg}/device/rescan"), "1\n").await.unwrap();
    }
    rig.multipathd(&format!("resize map {id}")).await;
    rig.settle().await;
    rig.node.flush(Path::new("/dev/dm-0"), soon()).await.unwrap();
    rig.node.remove_link(link, soon()).await.unwrap();
    rig.multipathd(&format!("del map {id}")).await;
    assert_eq!(
        notes.take(),
        [
            format!("pve1 grown {id}"),
            format!("pve1 flushed {id}"),
            "pve1 unlinked store/vm-100-disk-0".to_owned(),
            format!("pve1 removed {id}")
        ]
    );
    rig.node.crash();
    assert_eq!(notes.take(), ["pve1 cleared"]);
}

#[tokio::test(start_paused = true)]
async fn users_of_the_real_device_keep_the_map() {
    let (rig, notes) = rig().await;
    let device = DeviceNumber { major: 253, minor: 0 };
    *notes.users.lock().unwrap() = 2;
    assert_eq!(rig.node.open_count(device, soon()).await.unwrap(), Some(2));
    let del = format!("del map {}", wwid(0x31));
    assert_eq!(rig.multipathd(&del).await, "fail\nmap or partition in use\n");
    *notes.users.lock().unwrap() = 0;
    assert_eq!(rig.multipathd(&del).await, "ok\n");
}
