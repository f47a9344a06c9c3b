//! Plans: what each operation does, step by step, and how each step is undone.

mod attach;
mod conform;
mod create;
mod delete;
mod detach;
mod grow;
mod naming;
mod rename;
mod rollback;
mod snapshot;
mod split;
mod undelete;

use std::path::PathBuf;

use async_trait::async_trait;
use san_core::{ByteSize, Cx, Deviation, Error, ErrorKind, Owner, Result, SnapshotName, VolumeKind};
use serde::{Deserialize, Serialize};

pub(crate) use attach::Attach;
pub(crate) use conform::Conform;
pub(crate) use create::Create;
pub(crate) use delete::Delete;
pub(crate) use detach::{Condition, Detach, TakeDown};
pub(crate) use grow::Grow;
pub use naming::Naming;
pub(crate) use rename::{Rename, is_asked_for};
pub(crate) use rollback::Rollback;
pub(crate) use snapshot::{DeleteSnapshot, TakeSnapshot};
pub(crate) use split::Split;
pub(crate) use undelete::Undelete;

use crate::disk_view::View;
use crate::idle::Asker;
use crate::san::San;
use crate::tombstone::is_tombstone;

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A new disk of at least this size.
    Create {
        /// How it is to be called.
        naming: Naming,
        /// At least so large.
        size: ByteSize,
    },
    /// A new disk that is filled before it counts: who asked for it confirms it when all its bytes are written.
    Import {
        /// How it is to be called.
        naming: Naming,
        /// At least so large.
        size: ByteSize,
        /// Who fills it: as long as he lives he may still confirm it, also to a later daemon.
        importer: Asker,
    },
    /// A new disk with the bytes of another one, sharing them on the array.
    Clone {
        /// Of which disk.
        source: String,
        /// At which snapshot; `None`: of a template, which has one state only.
        snapshot: Option<SnapshotName>,
        /// How it is to be called.
        naming: Naming,
    },
    /// A disk nobody uses given another name.
    Rename {
        /// Which.
        object: String,
        /// Its new one.
        naming: Naming,
    },
    /// A disk nobody uses made a template, under another name.
    Template {
        /// Which.
        object: String,
        /// Its new name.
        naming: Naming,
    },
    /// A disk removed, its snapshots with it. One that is proved absent is success.
    Delete {
        /// Which.
        object: String,
    },
    /// A disk made a device of this node.
    Attach {
        /// Which.
        object: String,
    },
    /// A disk taken from this node.
    Detach {
        /// Which.
        object: String,
    },
    /// A snapshot of a disk made a device of this node, to be read beside the disk.
    AttachSnapshot {
        /// Of which disk.
        object: String,
        /// Which.
        snapshot: SnapshotName,
        /// For whom: as long as he lives, it is not taken for idle.
        asker: Option<Asker>,
    },
    /// Such a snapshot taken from this node, unless somebody else asked for it who lives.
    DetachSnapshot {
        /// Of which disk.
        object: String,
        /// Which.
        snapshot: SnapshotName,
        /// Who needs it no longer; `None`: whoever may want it.
        asker: Option<Asker>,
    },
    /// A disk or a snapshot of one taken from this node, unless somebody has asked for it here lately.
    Release {
        /// Which disk.
        object: String,
        /// Which state of it; `None`: the disk itself.
        snapshot: Option<SnapshotName>,
    },
    /// The same, because another node needs it to be nowhere: unless somebody uses it here or is about to.
    Yield {
        /// Which.
        object: String,
    },
    /// A disk made larger, here and on the array.
    Grow {
        /// Which.
        object: String,
        /// At least so large.
        size: ByteSize,
    },
    /// A disk given the settings its storage has by now.
    Conform {
        /// Which.
        object: String,
    },
    /// A snapshot taken.
    Snapshot {
        /// Of which disk.
        object: String,
        /// Under which name.
        snapshot: SnapshotName,
    },
    /// A snapshot removed. One that is proved absent is success.
    DeleteSnapshot {
        /// Of which disk.
        object: String,
        /// Which.
        snapshot: SnapshotName,
    },
    /// A disk put back to a snapshot; newer snapshots stay.
    Rollback {
        /// Which disk.
        object: String,
        /// To which snapshot.
        snapshot: SnapshotName,
    },
    /// A deleted disk brought back under its name.
    Undelete {
        /// Which.
        object: String,
        /// Which of several that had the name, as the array calls it now.
        queued: Option<String>,
    },
    /// A clone made independent of what it was cloned from, in the background. One that is so already is success.
    Split {
        /// Which.
        object: String,
    },
}

impl Request {
    /// Takes what is attached from this node.
    pub fn detach(view: &View) -> Self {
        let object = view.owner.object().to_owned();
        match view.snapshot.clone() {
            Some(snapshot) => Self::DetachSnapshot { object, snapshot, asker: None },
            None => Self::Detach { object },
        }
    }
}

/// What an operation ended with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// A disk was made.
    Created {
        /// Its name.
        object: String,
        /// Its size.
        size: ByteSize,
        /// The template it was cloned from.
        #[serde(default)]
        template: Option<String>,
    },
    /// The disk has another name now.
    Renamed {
        /// Its name.
        object: String,
        /// The template it was cloned from.
        #[serde(default)]
        template: Option<String>,
    },
    /// The disk is gone.
    Deleted,
    /// The disk is gone for everybody, and its name is free; what is left of it on the array goes by itself.
    Deleting {
        /// What it waits for.
        why: String,
    },
    /// The disk is a device here.
    Attached {
        /// Where: the same on every node.
        path: PathBuf,
        /// Its size.
        size: ByteSize,
        /// What is not as it should be, e.g. portals that do not answer.
        warnings: Vec<String>,
    },
    /// The disk is no device here any more.
    Detached {
        /// Why the array still has the mapping; it is taken away as soon as the array answers.
        pending: Option<String>,
    },
    /// The disk has this size now.
    Grown {
        /// The size.
        size: ByteSize,
    },
    /// The disk is as its storage says.
    Conformed {
        /// What was not.
        changed: Vec<Deviation>,
    },
    /// The snapshot exists.
    SnapshotTaken,
    /// The snapshot is gone.
    SnapshotDeleted,
    /// The disk has the snapshot's bytes.
    RolledBack,
    /// The disk is back.
    Undeleted {
        /// Its name.
        object: String,
        /// Its size.
        size: ByteSize,
        /// The template it was cloned from.
        template: Option<String>,
    },
    /// The array makes the disk independent, or it is so already.
    Splitting,
}

impl Outcome {
    /// Whether it hands out something that must not be left over when nobody took it.
    pub fn needs_acknowledgement(&self) -> bool {
        matches!(
            self,
            Self::Created { .. } | Self::Renamed { .. } | Self::Attached { .. } | Self::SnapshotTaken
        )
    }
}

/// Which way an interrupted operation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// What it did is taken back: it would have handed out something nobody took.
    Undo,
    /// It is finished: it removes or changes.
    Forward,
}

/// What follows a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The next one.
    Next,
    /// An earlier one again.
    Again(usize),
}

/// One operation. Steps are repeatable, forward and back: each may have been done before, wholly or in part.
#[async_trait]
pub(crate) trait Plan: Send + Sync {
    /// The steps, in order, in words for people.
    fn steps(&self) -> &'static [&'static str];

    /// Which way it goes when interrupted.
    fn direction(&self) -> Direction;

    /// Whether going back is out of the question once `step` is to be done (operations that go forward only).
    fn is_committed(&self, step: usize) -> bool;

    /// Whether anything was done before `step`, so that its refusal does not mean that nothing happened.
    fn has_begun(&self, step: usize) -> bool {
        step > 0
    }

    /// Whether nothing is lost where an attempt without an answer comes true after the operation was given up.
    fn may_end_unseen(&self) -> bool {
        false
    }

    /// The operation is given up where it stands, and nobody goes on with it (operations that go forward only).
    async fn give_up(&mut self, _cx: &Cx, _san: &San) -> Result<()> {
        Ok(())
    }

    /// Whether the caller is told success as soon as this step is reached, whatever becomes of the rest.
    fn may_end_later(&self, _step: usize) -> bool {
        false
    }

    /// Whether an outage of a few seconds is waited out, where it is undone otherwise: because who asked for it has already
    /// written down that it is done, or asks but once.
    fn outlasts_outages(&self) -> bool {
        false
    }

    /// Whether the volume must not be changed by another node meanwhile.
    fn needs_lease(&self) -> bool;

    /// The answer, where nothing has to be done at all. No effects, no requests where it can be helped.
    async fn shortcut(&mut self, _cx: &Cx, _san: &San) -> Result<Option<Outcome>> {
        Ok(None)
    }

    /// Looks and refuses before anything is done. `Some`: there is nothing to do.
    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>>;

    /// Does one step.
    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow>;

    /// Takes back whatever of one step was done.
    async fn back(&mut self, _step: usize, _cx: &Cx, _san: &San) -> Result<()> {
        Ok(())
    }

    /// What it ended with.
    fn outcome(&self, san: &San) -> Outcome;
}

/// A plan with everything it was asked and has learned, as it lies on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "operation")]
pub(crate) enum Work {
    Create(Box<Create>),
    Rename(Box<Rename>),
    Delete(Box<Delete>),
    Attach(Box<Attach>),
    Detach(Box<Detach>),
    Grow(Grow),
    Conform(Conform),
    Snapshot(TakeSnapshot),
    DeleteSnapshot(Box<DeleteSnapshot>),
    Rollback(Box<Rollback>),
    Split(Split),
    Undelete(Box<Undelete>),
}

/// The owner of a volume that is to be used. One that was deleted can only be deleted.
fn known(san: &San, object: &str) -> Result<Owner> {
    if is_tombstone(object) {
        return Err(Error::new(ErrorKind::NotFound, "it was deleted and goes as soon as it can").on(object));
    }
    san.owner(object)
}

impl Work {
    /// The plan for a request of one storage.
    pub(crate) fn new(san: &San, request: Request) -> Result<Self> {
        Ok(match request {
            Request::Create { naming, size } => Self::Create(Box::new(Create::new(san, naming, size)?)),
            Request::Import { naming, size, importer } => {
                Self::Create(Box::new(Create::new(san, naming, size)?.filled_by(importer)))
            }
            Request::Clone { source, snapshot, naming } => {
                Self::Create(Box::new(Create::clone_of(san, naming, known(san, &source)?, snapshot)?))
            }
            Request::Rename { object, naming } => {
                Self::Rename(Box::new(Rename::new(san, known(san, &object)?, naming, None)?))
            }
            Request::Template { object, naming } => {
                let becomes = Some(VolumeKind::Template);
                Self::Rename(Box::new(Rename::new(san, known(san, &object)?, naming, becomes)?))
            }
            Request::Delete { object } => Self::Delete(Box::new(Delete::new(san.owner(&object)?))),
            Request::Attach { object } => {
                Self::Attach(Box::new(Attach::new(View::disk(known(san, &object)?), None)))
            }
            Request::AttachSnapshot { object, snapshot, asker } => {
                let view = View::snapshot(known(san, &object)?, snapshot);
                Self::Attach(Box::new(Attach::new(view, asker)))
            }
            Request::Detach { object } => {
                let view = View::disk(known(san, &object)?);
                Self::Detach(Box::new(Detach::new(view, Condition::Always)))
            }
            Request::DetachSnapshot { object, snapshot, asker } => {
                let view = View::snapshot(known(san, &object)?, snapshot);
                Self::Detach(Box::new(Detach::by(view, asker)))
            }
            Request::Release { object, snapshot } => {
                let view = View { owner: known(san, &object)?, snapshot };
                Self::Detach(Box::new(Detach::new(view, Condition::Rested)))
            }
            Request::Yield { object } => {
                let view = View::disk(known(san, &object)?);
                Self::Detach(Box::new(Detach::new(view, Condition::Unneeded)))
            }
            Request::Grow { object, size } => Self::Grow(Grow::new(known(san, &object)?, size)),
            Request::Conform { object } => Self::Conform(Conform::new(known(san, &object)?)),
            Request::Snapshot { object, snapshot } => {
                Self::Snapshot(TakeSnapshot::new(known(san, &object)?, snapshot))
            }
            Request::DeleteSnapshot { object, snapshot } => {
                Self::DeleteSnapshot(Box::new(DeleteSnapshot::new(known(san, &object)?, snapshot)))
            }
            Request::Rollback { object, snapshot } => {
                Self::Rollback(Box::new(Rollback::new(known(san, &object)?, snapshot)))
            }
            Request::Undelete { object, queued } => {
                Self::Undelete(Box::new(Undelete::new(san.owner(&object)?, queued)))
            }
            Request::Split { object } => Self::Split(Split::new(san.owner(&object)?)),
        })
    }

    pub(crate) fn plan(&self) -> &dyn Plan {
        match self {
            Self::Create(it) => it.as_ref(),
            Self::Rename(it) => it.as_ref(),
            Self::Delete(it) => it.as_ref(),
            Self::Attach(it) => it.as_ref(),
            Self::Detach(it) => it.as_ref(),
            Self::Grow(it) => it,
            Self::Conform(it) => it,
            Self::Snapshot(it) => it,
            Self::DeleteSnapshot(it) => it.as_ref(),
            Self::Rollback(it) => it.as_ref(),
            Self::Split(it) => it,
            Self::Undelete(it) => it.as_ref(),
        }
    }

    pub(crate) fn plan_mut(&mut self) -> &mut dyn Plan {
        match self {
            Self::Create(it) => it.as_mut(),
            Self::Rename(it) => it.as_mut(),
            Self::Delete(it) => it.as_mut(),
            Self::Attach(it) => it.as_mut(),
            Self::Detach(it) => it.as_mut(),
            Self::Grow(it) => it,
            Self::Conform(it) => it,
            Self::Snapshot(it) => it,
            Self::DeleteSnapshot(it) => it.as_mut(),
            Self::Rollback(it) => it.as_mut(),
            Self::Split(it) => it,
            Self::Undelete(it) => it.as_mut(),
        }
    }

    /// The volume it concerns; `None` while a new one has no name yet.
    pub(crate) fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Create(it) => it.owner(),
            Self::Rename(it) => Some(it.owner()),
            Self::Delete(it) => Some(it.owner()),
            Self::Attach(it) => Some(&it.view().owner),
            Self::Detach(it) => Some(&it.view().owner),
            Self::Grow(it) => Some(it.owner()),
            Self::Conform(it) => Some(it.owner()),
            Self::Snapshot(it) => Some(it.owner()),
            Self::DeleteSnapshot(it) => Some(it.owner()),
            Self::Rollback(it) => Some(it.owner()),
            Self::Split(it) => Some(it.owner()),
            Self::Undelete(it) => Some(it.owner()),
        }
    }

    /// What it makes a device here or takes from here.
    pub(crate) fn view(&self) -> Option<&View> {
        match self {
            Self::Attach(it) => Some(it.view()),
            Self::Detach(it) => Some(it.view()),
            _ => None,
        }
    }

    /// The volume it hands out under a name that did not exist before.
    pub(crate) fn handed_out(&self) -> Option<&Owner> {
        match self {
            Self::Create(it) => it.owner(),
            Self::Rename(it) => it.to(),
            _ => None,
        }
    }

    /// Who fills the disk that it makes before it counts.
    pub(crate) fn importer(&self) -> Option<Asker> {
        match self {
            Self::Create(it) => it.importer(),
            _ => None,
        }
    }

    /// Its answer was given and not confirmed.
    pub(crate) fn note_handed_out(&mut self) {
        if let Self::Create(it) = self {
            it.note_handed_out();
        }
    }

    /// Whether what it handed out to be filled stays although it is to be taken back.
    pub(crate) async fn stays(&mut self, cx: &Cx, san: &San) -> Result<bool> {
        match self {
            Self::Create(it) => it.stays(cx, san).await,
            _ => Ok(false),
        }
    }

    /// Operations of one name run one after the other.
    pub(crate) fn lock_name(&self) -> String {
        match self {
            Self::Create(it) => it.lock_name(),
            other => other.owner().map_or_else(String::new, |it| format!("{}/{}", it.space(), it.object())),
        }
    }

    /// In words for people.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Create(it) => it.verb(),
            Self::Rename(it) => it.verb(),
            Self::Delete(_) => "delete",
            Self::Attach(it) if it.view().snapshot.is_some() => "attach snapshot of",
            Self::Attach(_) => "attach",
            Self::Detach(it) if it.view().snapshot.is_some() => "detach snapshot of",
            Self::Detach(_) => "detach",
            Self::Grow(_) => "grow",
            Self::Conform(_) => "set",
            Self::Snapshot(_) => "snapshot",
            Self::DeleteSnapshot(_) => "delete snapshot of",
            Self::Rollback(_) => "roll back",
            Self::Split(_) => "split",
            Self::Undelete(_) => "undelete",
        }
    }
}
