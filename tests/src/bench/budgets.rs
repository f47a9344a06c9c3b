//! The budgets: what a warm operation may cost at most.

/// How many disks the guest of the multi-disk rows has.
pub(crate) const DISKS: usize = 4;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// One request and nothing else: the array asked for its room. What a round trip costs.
    Ask,
    /// A disk made under a given name.
    Create,
    /// A disk made under the lowest free number.
    CreateNumbered,
    /// A disk attached for the first time; the routes are up.
    AttachFirst,
    /// A disk attached that is attached already and healthy.
    AttachAgain,
    /// Where a disk appears.
    Path,
    /// How large a disk is.
    Size,
    /// A disk grown while it is held open.
    GrowOnline,
    /// All disks of a running guest snapshotted.
    Snapshot,
    /// A snapshot attached to be read beside its disk.
    ReadSnapshot,
    /// The same, where it is attached already.
    ReadSnapshotAgain,
    /// A snapshot detached.
    CloseSnapshot,
    /// All disks of a stopped guest rolled back.
    RollBack,
    /// A snapshot of all disks of a guest deleted.
    DeleteSnapshot,
    /// A disk detached.
    Detach,
    /// A disk detached that is not attached here.
    DetachAbsent,
    /// A linked clone of a template.
    LinkedClone,
    /// A disk deleted that is attached nowhere.
    Delete,
    /// A disk deleted that is attached here.
    DeleteAttached,
}

/// At most so many; `None` where no budget is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Requests to the array.
    pub requests: Option<usize>,
    /// Programs started.
    pub processes: Option<u64>,
}

impl Budget {
    /// Both are limited; a warm operation never starts a program.
    pub(crate) const fn of(requests: usize) -> Self {
        Self { requests: Some(requests), processes: Some(0) }
    }
}

impl Operation {
    /// In words for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Ask => "one request",
            Self::Create => "create",
            Self::CreateNumbered => "create, next free number",
            Self::AttachFirst => "attach, first time",
            Self::AttachAgain => "attach, attached already",
            Self::Path => "path",
            Self::Size => "size",
            Self::GrowOnline => "grow online",
            Self::Snapshot => "snapshot of 4 disks in use",
            Self::ReadSnapshot => "read a snapshot",
            Self::ReadSnapshotAgain => "read a snapshot, attached already",
            Self::CloseSnapshot => "close a snapshot",
            Self::RollBack => "roll back 4 disks",
            Self::DeleteSnapshot => "delete snapshot of 4 disks",
            Self::Detach => "detach",
            Self::DetachAbsent => "detach, not attached",
            Self::LinkedClone => "linked clone",
            Self::Delete => "delete",
            Self::DeleteAttached => "delete, attached here",
        }
    }

    /// What it may cost.
    pub fn budget(self) -> Budget {
        match self {
            Self::Path | Self::Size | Self::AttachAgain | Self::ReadSnapshotAgain | Self::DetachAbsent => {
                Budget::of(0)
            }
            Self::Ask | Self::Detach => Budget::of(1),
            Self::Create | Self::CreateNumbered | Self::AttachFirst | Self::LinkedClone | Self::Delete => {
                Budget::of(2)
            }
            Self::CloseSnapshot => Budget::of(2),
            Self::DeleteAttached | Self::ReadSnapshot => Budget::of(3),
            Self::Snapshot | Self::RollBack | Self::DeleteSnapshot => Budget::of(DISKS),
            Self::GrowOnline => Budget { requests: None, processes: Some(0) },
        }
    }
}
