//! Intents: what an operation set out to do and how far it got, on disk before anything is done.

use san_core::{Cx, Error, ErrorKind, OperationId, Owner, Result};
use serde::{Deserialize, Serialize};

use crate::idle::Asker;
use crate::plan::{Attach, Outcome, Work};
use crate::record::Attachment;
use crate::store::Folder;

/// The version this build writes and reads.
const VERSION: u16 = 1;

/// One operation on disk. It alone is enough for another process, or a newer one, to finish or undo the operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Intent {
    version: u16,
    /// The operation.
    pub(crate) id: OperationId,
    /// When it began, in seconds since 1970.
    pub(crate) started: u64,
    /// What was asked and what the steps have learned.
    pub(crate) work: Work,
    /// How far it is.
    pub(crate) cursor: Cursor,
    /// The step of which an attempt ended without an answer: it may be done.
    pub(crate) uncertain: Option<usize>,
}

/// How far an operation is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cursor {
    /// This step is to be done, or is being done.
    Forward(usize),
    /// This step is to be undone, or is being undone; with why the operation failed.
    Back(usize, String),
    /// Done; the caller has not confirmed that it has the answer.
    Unacknowledged(Outcome),
    /// Neither finished nor undone, for a reason that does not pass by itself.
    Stuck(Stuck),
}

/// What people have to know of an operation that could be neither finished nor undone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stuck {
    /// The step.
    pub(crate) step: usize,
    /// Whether it was being undone.
    pub(crate) undoing: Option<String>,
    /// Why it got no further, causes included.
    pub(crate) reason: String,
}

impl Intent {
    pub(crate) fn new(id: OperationId, work: Work) -> Self {
        Self {
            version: VERSION,
            id,
            started: crate::clock::unix_now(),
            work,
            cursor: Cursor::Forward(0),
            uncertain: None,
        }
    }

    /// The attachment whose mapping the array still has, although the device is retired or about to be.
    pub(crate) fn still_mapped(&self) -> Option<&Attachment> {
        match (&self.work, &self.cursor) {
            (Work::Detach(it), Cursor::Forward(step)) => it.still_mapped(*step),
            (Work::Detach(it), Cursor::Stuck(stuck)) => it.still_mapped(stuck.step),
            (Work::Attach(it), Cursor::Back(step, _)) => it.still_mapped(*step),
            (Work::Attach(it), Cursor::Stuck(stuck)) => it.still_mapped(stuck.step),
            _ => None,
        }
    }

    /// Who fills the disk it made, which is not confirmed before that.
    pub(crate) fn is_filled_by(&self) -> Option<Asker> {
        self.work.importer().filter(|_| matches!(self.cursor, Cursor::Unacknowledged(_)))
    }

    /// Everything it did is to be undone, the last step first.
    pub(crate) fn turn_back(&mut self, why: String) {
        let last = self.work.plan().steps().len().saturating_sub(1);
        self.cursor = Cursor::Back(last, why);
    }

    /// Sets it back to before the device was retired, so that a device that is brought back is taken down anew.
    pub(crate) fn rewind(&mut self) {
        match &self.work {
            Work::Detach(_) => self.cursor = Cursor::Forward(0),
            Work::Attach(_) => self.cursor = Cursor::Back(Attach::DEVICE, "it was interrupted".to_owned()),
            _ => {}
        }
    }

    /// The error for whoever wants to change the volume of an operation that is stuck.
    pub(crate) fn stuck_error(&self, stuck: &Stuck) -> Error {
        let steps = self.work.plan().steps();
        let step = steps.get(stuck.step).copied().unwrap_or("a step");
        let way = if stuck.undoing.is_some() { "undone" } else { "finished" };
        let message =
            format!("operation {} could not be {way} at step \"{step}\": {}", self.id, stuck.reason);
        let mut error = Error::new(ErrorKind::Stuck, message)
            .with_remedy("remove the named obstacle on the array or this node; it is tried again by itself");
        if let Some(owner) = self.work.owner() {
            error = error.on(owner.object());
        }
        error
    }
}

/// The intents of one storage.
#[derive(Debug, Clone)]
pub(crate) struct Intents(Folder);

/// One file of the intent folder.
#[derive(Debug)]
pub(crate) enum Found {
    /// It can be gone on with.
    Readable(Box<Intent>),
    /// It cannot be understood: it stays, and is reported.
    Unreadable { file: String, error: Error },
}

impl Intents {
    pub(crate) fn at(folder: Folder) -> Self {
        Self(folder)
    }

    pub(crate) async fn save(&self, cx: &Cx, intent: &Intent) -> Result<()> {
        self.0.write(cx, &intent.id.to_string(), intent).await
    }

    pub(crate) async fn remove(&self, cx: &Cx, id: OperationId) -> Result<()> {
        self.0.remove(cx, &id.to_string()).await.map(|_| ())
    }

    /// One intent as it is now; `None` where it has ended.
    pub(crate) async fn get(&self, id: OperationId) -> Result<Option<Intent>> {
        self.0.read(&id.to_string()).await
    }

    pub(crate) async fn all(&self) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for file in self.0.names().await? {
            match self.0.read::<Intent>(&file).await {
                Ok(Some(it)) if it.version == VERSION => found.push(Found::Readable(Box::new(it))),
                Ok(Some(it)) => {
                    let error = Error::new(
                        ErrorKind::Stuck,
                        format!("an intent of the unknown version {}", it.version),
                    );
                    found.push(Found::Unreadable { file, error });
                }
                Ok(None) => {}
                Err(error) => found.push(Found::Unreadable { file, error }),
            }
        }
        Ok(found)
    }

    /// The open intents that concern `owner`, as what they began with or as what they make of it.
    pub(crate) async fn of(&self, owner: &Owner) -> Result<Vec<Intent>> {
        let all = self.all().await?.into_iter().filter_map(|it| match it {
            Found::Readable(intent) => Some(*intent),
            Found::Unreadable { .. } => None,
        });
        let concerns = |it: &Work| it.owner() == Some(owner) || it.handed_out() == Some(owner);
        Ok(all.filter(|it| concerns(&it.work)).collect())
    }
}
