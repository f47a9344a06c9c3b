//! SCSI devices and their disks in sysfs, and the kernel's events about them.

use super::formats::{self, lay_out};
use super::inquiry;
use super::machine::Machine;
use super::scsi::{Address, Disk, Leg, block_keys};
use super::tree::{Action, Device};
use crate::target::{Portal, Unit};

impl Machine {
    pub(crate) fn leg_into_sysfs(&mut self, leg: &Leg, unit: &Unit, portal: &Portal) {
        let device = leg.device_path(leg.sid);
        let folder = format!("/sys{device}");
        let address = leg.address;
        let access = if leg.optimized { "active/optimized" } else { "active/non-optimized" };
        let values = [
            ("vendor", format!("{:8}", leg.vendor)),
            ("model", format!("{:16}", leg.product)),
            ("rev", format!("{:4}", leg.revision)),
            ("wwid", format!("naa.{}", inquiry::hex(&leg.naa))),
            ("access_state", access.to_owned()),
        ];
        let tree = &mut self.tree;
        lay_out(tree, &folder, formats::SCSI_DEVICE, &values);
        tree.put_attr(&format!("{folder}/inquiry"), Some(inquiry::standard(unit)), None);
        for page in [0x80, 0x83] {
            tree.put_attr(&format!("{folder}/vpd_pg{page:x}"), inquiry::page(unit, portal, page), None);
        }
        tree.put_attr(&format!("{folder}/state"), Some(b"running".to_vec()), Some(Action::State(address)));
        tree.put_attr(&format!("{folder}/rescan"), None, Some(Action::Rescan(address)));
        tree.put_attr(&format!("{folder}/delete"), None, Some(Action::Delete(address)));
        tree.put_link(&format!("{folder}/driver"), "../../../../../../bus/scsi/drivers/sd");
        tree.put_link(&format!("{folder}/generic"), &format!("scsi_generic/sg{}", leg.generic));
        tree.put_link(&format!("{folder}/subsystem"), "../../../../../../bus/scsi");
        let own = format!("{folder}/scsi_device/{address}");
        tree.put_file(&format!("{own}/uevent"), "");
        tree.put_link(&format!("{own}/device"), &format!("../../../{address}"));
        tree.put_link(&format!("{own}/subsystem"), "../../../../../../../../class/scsi_device");
        tree.put_link(
            &format!("/sys/class/scsi_device/{address}"),
            &format!("../..{device}/scsi_device/{address}"),
        );
        let generic = format!("sg{}", leg.generic);
        let own = format!("{folder}/scsi_generic/{generic}");
        tree.put_file(&format!("{own}/dev"), format!("21:{}", leg.generic));
        let uevent = format!("MAJOR=21\nMINOR={}\nDEVNAME={generic}", leg.generic);
        tree.put_file(&format!("{own}/uevent"), uevent);
        tree.put_link(&format!("{own}/device"), &format!("../../../{address}"));
        tree.put_link(&format!("{own}/subsystem"), "../../../../../../../../class/scsi_generic");
        tree.put_link(
            &format!("/sys/class/scsi_generic/{generic}"),
            &format!("../..{device}/scsi_generic/{generic}"),
        );
        tree.put_node(&format!("/dev/{generic}"), Device::Generic(address));
    }

    /// The disk of a leg, with its folders in two classes.
    pub(crate) fn disk_into_sysfs(&mut self, address: Address, device: &str, disk: &Disk, sectors: u64) {
        let folder = format!("/sys{device}/block/{}", disk.name);
        let values = [
            ("dev", disk.number.to_string()),
            ("size", sectors.to_string()),
            ("diskseq", disk.diskseq.to_string()),
        ];
        lay_out(&mut self.tree, &folder, formats::BLOCK_SD, &values);
        let uevent = format!(
            "MAJOR={}\nMINOR={}\nDEVNAME={}\nDEVTYPE=disk\nDISKSEQ={}",
            disk.number.major, disk.number.minor, disk.name, disk.diskseq
        );
        let tree = &mut self.tree;
        let event = Some(Action::DiskEvent(address));
        tree.put_attr(&format!("{folder}/uevent"), Some(uevent.into_bytes()), event);
        tree.put_link(&format!("{folder}/device"), &format!("../../../{address}"));
        tree.put_link(&format!("{folder}/subsystem"), "../../../../../../../../class/block");
        let bdi = format!("../../../../../../../virtual/bdi/{}", disk.number);
        tree.put_link(&format!("{folder}/bdi"), &bdi);
        tree.make_dir(&format!("{folder}/holders"));
        tree.make_dir(&format!("{folder}/slaves"));
        tree.put_link(&format!("/sys/block/{}", disk.name), &format!("..{device}/block/{}", disk.name));
        tree.put_node(&format!("/dev/{}", disk.name), Device::Block(disk.number));
        let own = format!("/sys{device}/scsi_disk/{address}");
        lay_out(tree, &own, formats::SCSI_DISK, &[]);
        tree.put_link(&format!("{own}/device"), &format!("../../../{address}"));
        tree.put_link(&format!("{own}/subsystem"), "../../../../../../../../class/scsi_disk");
        let class = format!("/sys/class/scsi_disk/{address}");
        tree.put_link(&class, &format!("../..{device}/scsi_disk/{address}"));
    }

    /// A SCSI device is there; `is_first`: the first of its target.
    pub(crate) fn tell_of_leg(&mut self, device: &str, address: Address, generic: u32, is_first: bool) {
        if is_first {
            self.tell_of_target("add", device);
        }
        let more = [("DEVTYPE", "scsi_device".to_owned()), ("MODALIAS", "scsi:t-0x00".to_owned())];
        self.uevent("add", device, "scsi", &more);
        self.uevent("add", &format!("{device}/scsi_device/{address}"), "scsi_device", &[]);
        self.tell_of_generic("add", device, generic);
    }

    /// A SCSI device is gone, with its disk; `is_last`: the last of its target.
    pub(crate) fn tell_of_lost_leg(&mut self, leg: &Leg, is_last: bool) {
        let (device, address) = (leg.device_path(leg.sid), leg.address);
        self.tell_of_generic("remove", &device, leg.generic);
        self.uevent("remove", &format!("{device}/scsi_device/{address}"), "scsi_device", &[]);
        let kind = ("DEVTYPE", "scsi_device".to_owned());
        if let (Some(disk), Some(path)) = (&leg.disk, leg.disk_path()) {
            self.uevent("remove", &path, "block", &block_keys(&disk.name, disk.number, disk.diskseq));
            self.uevent("remove", &format!("{device}/scsi_disk/{address}"), "scsi_disk", &[]);
            self.uevent("unbind", &device, "scsi", std::slice::from_ref(&kind));
        }
        self.uevent("remove", &device, "scsi", &[kind, ("MODALIAS", "scsi:t-0x00".to_owned())]);
        if is_last {
            self.tell_of_target("remove", &device);
        }
    }

    fn tell_of_target(&mut self, action: &str, device: &str) {
        let target = device.rsplit_once('/').map_or(device, |it| it.0);
        self.uevent(action, target, "scsi", &[("DEVTYPE", "scsi_target".to_owned())]);
    }

    fn tell_of_generic(&mut self, action: &str, device: &str, generic: u32) {
        let keys =
            [("DEVNAME", format!("sg{generic}")), ("MAJOR", "21".to_owned()), ("MINOR", generic.to_string())];
        self.uevent(action, &format!("{device}/scsi_generic/sg{generic}"), "scsi_generic", &keys);
    }
}
