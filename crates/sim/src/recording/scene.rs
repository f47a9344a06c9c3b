//! What scenes are made of.

use crate::target::Reachability;

/// One scene. It begins and ends without sessions, records, devices, maps and mapped volumes.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Its name, also its file's.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// Whom the array lets log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The initiator, without a secret.
    Open,
    /// Nobody: the initiator is not known.
    Nobody,
    /// The initiator, with a secret that it does not have.
    Secret,
    /// The initiator, with a secret that scenes know.
    OneWay,
    /// The same, and the target proves one as well.
    Mutual,
}

/// Something that happens at the array or on the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A volume is shown under a number, or its size changes.
    Map {
        /// The number.
        lun: u16,
        /// The last byte of the volume's identifier.
        volume: u8,
        /// Its size in mebibytes.
        mebibytes: u64,
    },
    /// Nothing is shown under a number any more.
    Unmap(u16),
    /// A portal answers, refuses or is cut off.
    Road(usize, Reachability),
    /// Who may log in.
    Admit(Admission),
}

/// What is waited for, within bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// A file holds a text.
    File(String, &'static str),
    /// A path is there.
    There(String),
    /// A path is not there.
    Gone(String),
    /// multipathd answers a command with a text that holds all of these.
    Reply(String, Vec<&'static str>),
    /// No kernel event came for a while and udev has nothing to do.
    Quiet,
}

/// One step of a scene.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The array does something.
    Array(Act),
    /// `iscsiadm` runs.
    Iscsiadm(Vec<String>),
    /// An attribute is written.
    Write(String, &'static str),
    /// A folder of sysfs, with all below it that is not generic to every device.
    Tree(String),
    /// The text of a file outside of sysfs.
    File(String),
    /// The text of an attribute.
    Attribute(String),
    /// The names in a folder.
    Names(String),
    /// Where a link leads.
    Link(String),
    /// INQUIRY through a SCSI generic node.
    Inquiry(String, Option<u8>),
    /// A command to multipathd, and its reply.
    Multipathd(String),
    /// The first block is read, or not.
    Read(String),
    /// A device is opened and kept open.
    Open(String),
    /// All that was opened is closed.
    Close,
    /// Kernel events since the last such step.
    Events,
    /// Waits until all of these are there, and tells in which order they came. What comes between two looks is told in the
    /// order given here.
    Order(Vec<String>),
    /// multipathd forgets which WWIDs had a map.
    Forget,
    /// Waits; leaves no trace where what is waited for comes.
    Await(Until),
    /// A step that is not written down: it has to succeed.
    Quietly(Box<Step>),
}
