//! `sanbridge volumes` and `sanbridge snapshots`.

use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::{Screen, Table, age_of, known_size, size};
use super::{QUESTION, Session, Verb, VolumeRef};
use crate::admin::volumes::{SnapshotList, VolumeLine, Volumes as VolumesAnswer};

/// The volumes of all storages.
#[derive(Debug, clap::Args)]
pub struct Volumes {
    /// Only of this storage
    #[arg(long)]
    storage: Option<String>,
}

/// The snapshots of a volume.
#[derive(Debug, clap::Args)]
pub struct Snapshots {
    #[command(flatten)]
    volume: VolumeRef,
}

impl Verb for Volumes {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure> {
        let answer: VolumesAnswer =
            session.call("admin.volumes", json!({ "storage": self.storage }), QUESTION).await?;
        session.show(&answer, volumes)?;
        Ok(session.report(&answer.problems))
    }
}

impl Verb for Snapshots {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure> {
        let answer: SnapshotList = session.call("admin.snapshots", self.volume.params(), QUESTION).await?;
        session.show(&answer, snapshots)?;
        Ok(Exit::Success)
    }
}

fn volumes(of: &VolumesAnswer, screen: Screen) -> String {
    let mut table =
        Table::new(&["STORAGE", "VOLUME", "KIND", "SIZE>", "USED>", "AGE>", "GUEST", "ATTACHED ON"]);
    for it in &of.volumes {
        table.row(&[
            it.storage.clone(),
            it.name.clone(),
            it.kind.clone(),
            size(it.size_bytes),
            known_size(it.used_bytes),
            age_of(it.created),
            guest(it),
            if it.attached_on.is_empty() { "-".to_owned() } else { it.attached_on.join(", ") },
        ]);
    }
    table.render(screen)
}

fn guest(of: &VolumeLine) -> String {
    match &of.guest {
        Some(guest) if of.configured => guest.clone(),
        Some(guest) => format!("{guest} (not in its configuration)"),
        None => "-".to_owned(),
    }
}

fn snapshots(of: &SnapshotList, screen: Screen) -> String {
    let mut table = Table::new(&["SNAPSHOT", "AGE>", "ID"]);
    for it in &of.snapshots {
        table.row(&[it.name.clone(), age_of(it.created), it.id.clone()]);
    }
    table.render(screen)
}
