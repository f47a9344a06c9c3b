//! `sanbridge status`.

use std::fmt::Write;

use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::{Screen, Table, age, plain, size};
use super::{QUESTION, Session, Verb};
use crate::admin::status::{DiskStatus, OperationStatus, Status as Answer, StorageStatus};

/// How things stand on this node.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Only this storage
    #[arg(long)]
    storage: Option<String>,
}

impl Verb for Status {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure> {
        let answer: Answer =
            session.call("admin.status", json!({ "storage": self.storage }), QUESTION).await?;
        session.show(&answer, text)?;
        Ok(Exit::Success)
    }
}

fn text(of: &Answer, screen: Screen) -> String {
    let mut text = format!("sanbridge {} on node {}\n", of.version, of.node);
    if of.replaced == Some(true) {
        text.push_str(
            "The program was replaced since this daemon began -- systemctl restart sanbridge.service\n",
        );
    }
    if of.storages.is_empty() {
        text.push_str("This node serves no storage yet.\n");
        return text;
    }
    text.push_str(&storages(&of.storages).render(screen));
    for it in &of.storages {
        for line in it.problem.iter().chain(&it.unknown) {
            let _ = writeln!(text, "{}: {}", it.id, plain(line));
        }
        if it.configured == Some(false) {
            let id = plain(&it.id);
            let _ = writeln!(text, "{id}: Proxmox VE has lost its section -- sanbridge storage restore {id}");
        }
    }
    section(&mut text, "Portals", &portals(&of.storages), screen);
    section(&mut text, "Disks on this node", &disks(&of.storages), screen);
    section(&mut text, "Operations that have not ended", &operations(&of.storages), screen);
    for it in of.storages.iter().flat_map(|it| &it.operations) {
        if let Some(reason) = &it.reason {
            let remedy = it.remedy.as_ref().map(|it| format!(" -- {it}")).unwrap_or_default();
            let name = it.volume.as_deref().or(it.id.as_deref()).unwrap_or("?");
            let _ = writeln!(text, "{} {name}: {}{}", it.verb, plain(reason), plain(&remedy));
        }
    }
    section(&mut text, "Deleted volumes that have not gone yet", &deleting(&of.storages), screen);
    section(&mut text, "Put right by this node since its daemon started", &repairs(&of.storages), screen);
    text
}

fn section(text: &mut String, title: &str, table: &Table, screen: Screen) {
    if !table.is_empty() {
        let _ = write!(text, "\n{title}\n{}", table.render(screen));
    }
}

fn storages(of: &[StorageStatus]) -> Table {
    let mut table = Table::new(&["STORAGE", "STATE", "ARRAY", "RELEASE", "SVM", "FREE>", "TOTAL>", "AGE>"]);
    for it in of {
        let array = it.array.as_ref();
        let state = match (it.ready, array.is_some_and(|it| it.cut_off), &it.problem) {
            (false, ..) => "not ready",
            (true, true, _) => "array silent",
            (true, false, Some(_)) => "problem",
            (true, false, None) if it.capacity.is_none() => "not asked yet",
            (true, false, None) => "active",
        };
        let word = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let room = it.capacity.as_ref();
        table.row(&[
            it.id.clone(),
            state.to_owned(),
            word(array.map(|it| it.name.as_str())),
            word(array.map(|it| it.version.as_str())),
            word(array.map(|it| it.svm.as_str())),
            room.map_or_else(|| word(None), |it| size(it.available_bytes)),
            room.map_or_else(|| word(None), |it| size(it.total_bytes)),
            room.map_or_else(|| word(None), |it| age(it.age_seconds)),
        ]);
    }
    table
}

fn portals(of: &[StorageStatus]) -> Table {
    let mut table = Table::new(&["STORAGE", "PORTAL", "SESSION", "CONTROLLER", "TARGET"]);
    for storage in of {
        for it in &storage.portals {
            table.row(&[
                storage.id.clone(),
                it.portal.clone(),
                if it.up { "up" } else { "down" }.to_owned(),
                it.controller.clone().unwrap_or_else(|| "-".to_owned()),
                it.target.clone(),
            ]);
        }
    }
    table
}

fn disks(of: &[StorageStatus]) -> Table {
    let mut table = Table::new(&["STORAGE", "VOLUME", "LUN>", "PATHS>", "STATE"]);
    for storage in of {
        for it in &storage.disks {
            let usable = it.paths_usable.map_or_else(|| "-".to_owned(), |it| it.to_string());
            table.row(&[
                storage.id.clone(),
                it.name.clone(),
                it.lun.map_or_else(|| "-".to_owned(), |it| it.to_string()),
                format!("{usable}/{}", it.paths_expected),
                disk_state(it),
            ]);
        }
    }
    table
}

fn disk_state(of: &DiskStatus) -> String {
    let since = of.outage_seconds.map(|it| format!(" for {}", age(it))).unwrap_or_default();
    match (of.attached, of.paths_usable, of.waits) {
        (false, ..) => "attaching".to_owned(),
        (true, None, _) => "no device".to_owned(),
        (true, Some(0), Some(true)) => format!("no path{since}; its guest waits"),
        (true, Some(0), _) => format!("no path{since}; its guest gets errors"),
        (true, Some(usable), _) if (usable as usize) < of.paths_expected => "paths missing".to_owned(),
        (true, Some(_), _) => "attached".to_owned(),
    }
}

fn operations(of: &[StorageStatus]) -> Table {
    let mut table = Table::new(&["STORAGE", "OPERATION", "VOLUME", "AGE>", "STATE"]);
    for storage in of {
        for it in &storage.operations {
            table.row(&[
                storage.id.clone(),
                it.verb.clone(),
                it.volume.clone().unwrap_or_else(|| "-".to_owned()),
                it.age_seconds.map_or_else(|| "-".to_owned(), age),
                operation_state(it),
            ]);
        }
    }
    table
}

fn deleting(of: &[StorageStatus]) -> Table {
    let mut table = Table::new(&["STORAGE", "VOLUME", "AGE>", "NEXT TRY>", "WAITS FOR"]);
    for storage in of {
        for it in &storage.deleting {
            let seconds = |it: Option<u64>| it.map_or_else(|| "-".to_owned(), age);
            table.row(&[
                storage.id.clone(),
                it.volume.clone(),
                seconds(it.age_seconds),
                seconds(it.next_try_seconds),
                it.why.clone().unwrap_or_else(|| "its turn".to_owned()),
            ]);
        }
    }
    table
}

fn repairs(of: &[StorageStatus]) -> Table {
    let mut table = Table::new(&["STORAGE", "WHAT", "COUNT>", "LAST", "AGE>"]);
    for storage in of {
        for it in &storage.repairs {
            let count = it.count.to_string();
            table.row(&[storage.id.clone(), it.what.clone(), count, it.last.clone(), age(it.age_seconds)]);
        }
    }
    table
}

fn operation_state(of: &OperationStatus) -> String {
    let step = of.step.as_deref().unwrap_or("?");
    let how = if of.running { "running" } else { "waits for the array" };
    match of.state.as_str() {
        "forward" => format!("{how}: {step}"),
        "back" => format!("{how}: undo {step}"),
        "unconfirmed" => "waits for its caller".to_owned(),
        "stuck" => format!("STUCK at: {step}"),
        other => other.to_uppercase(),
    }
}
