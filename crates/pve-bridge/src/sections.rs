//! Copies of the storages' sections of storage.cfg, in a root-only folder of the cluster file system. A node without this package
//! that changes storage.cfg writes it without sections it cannot parse: PVE forgets the storage then, and the copy knows it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use san_core::{Cx, Error, ErrorKind, Result};
use san_engine::Folder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::StorageRef;

/// It lies in memory.
const PATIENCE: Duration = Duration::from_secs(10);
/// PVE writes the section some time after the storage was added here.
const YOUNG: Duration = Duration::from_secs(120);
/// The type of our sections.
const TYPE: &str = "sanbridge";

/// Where a storage's section is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In storage.cfg.
    There,
    /// Nowhere; PVE does not know the storage.
    Missing,
    /// Another storage has its name by now, of this type.
    Taken(String),
}

/// What is kept of a section: no secrets, which are never among the options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Section {
    pub(crate) options: BTreeMap<String, Value>,
}

/// All copies, and the file they are copies of.
#[derive(Debug)]
pub(crate) struct Sections {
    copies: Folder,
    pve: PathBuf,
    /// What was kept last, so that requests whose options are the same cost nothing.
    noted: Mutex<HashMap<String, Section>>,
}

impl Sections {
    /// `folder`: of the cluster; `pve`: `/etc/pve`.
    pub(crate) fn new(folder: &Folder, pve: &Path) -> Self {
        Self { copies: folder.below("sections"), pve: pve.to_owned(), noted: Mutex::default() }
    }

    /// Whether this is what was kept last, or what has just been removed: a request of before may come after that.
    pub(crate) fn is_noted(&self, of: &StorageRef) -> bool {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.get(&of.id).is_some_and(|it| it.options == of.options)
    }

    /// Keeps what a request says of its storage. Where that is not possible now it is done with a later request.
    pub(crate) async fn note(&self, cx: &Cx, of: &StorageRef) {
        let section = Section { options: of.options.clone() };
        let kept = async {
            if self.copies.read::<Section>(&of.id).await?.as_ref() != Some(&section) {
                self.copies.write(cx, &of.id, &section).await?;
            }
            Ok::<_, Error>(())
        };
        match kept.await {
            Ok(()) => {
                let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
                noted.insert(of.id.clone(), section);
            }
            Err(error) => {
                tracing::debug!(storage = %of.id, error = %error.chain(), "its section is not kept");
            }
        }
    }

    /// The storage was removed by whoever may do so.
    pub(crate) async fn forget(&self, cx: &Cx, of: &StorageRef) -> Result<()> {
        let section = Section { options: of.options.clone() };
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(of.id.clone(), section);
        self.copies.remove(cx, &of.id).await.map(drop)
    }

    /// The copy of a storage's section.
    pub(crate) async fn copy(&self, id: &str) -> Result<Option<Section>> {
        self.copies.read(id).await
    }

    /// Where the section of a storage is.
    pub(crate) async fn place(&self, cx: &Cx, id: &str) -> Result<Place> {
        Ok(place_in(&self.configuration(cx).await?, id))
    }

    /// The storages that PVE has lost, by id, and what became of their places. Nobody has removed them here.
    pub(crate) async fn lost(&self, cx: &Cx) -> Result<BTreeMap<String, Place>> {
        let text = self.configuration(cx).await?;
        let mut lost = BTreeMap::new();
        for id in self.copies.names().await? {
            let place = place_in(&text, &id);
            if place != Place::There && self.copies.age(&id).await?.is_some_and(|it| it > YOUNG) {
                lost.insert(id, place);
            }
        }
        Ok(lost)
    }

    async fn configuration(&self, cx: &Cx) -> Result<String> {
        let (file, witness) = (self.pve.join("storage.cfg"), self.pve.join("nodes"));
        let unknown = || {
            Error::new(ErrorKind::Unavailable, "cannot read the storages' configuration")
                .on(file.display())
                .with_remedy("systemctl status pve-cluster")
        };
        let path = file.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let text = match std::fs::read_to_string(path) {
                Err(error) if error.kind() == Io::NotFound => String::new(),
                other => other?,
            };
            // Without its file system the file is not there either.
            std::fs::metadata(witness).map(|_| text)
        });
        let bounded = cx.at_most(PATIENCE);
        let read = bounded.within("reading the storages' configuration", async { Ok(reading.await) }).await?;
        read.map_err(|error| unknown().caused_by(error))?.map_err(|error| unknown().caused_by(error))
    }
}

/// Sections begin with `<type>: <id>`, and their options are indented.
fn place_in(text: &str, id: &str) -> Place {
    let headers =
        text.lines().filter(|it| !it.starts_with([' ', '\t', '#'])).filter_map(|it| it.split_once(':'));
    let kinds: Vec<&str> =
        headers.filter(|(_, name)| name.trim() == id).map(|(kind, _)| kind.trim()).collect();
    match kinds.first() {
        None => Place::Missing,
        Some(_) if kinds.contains(&TYPE) => Place::There,
        Some(other) => Place::Taken((*other).to_owned()),
    }
}

impl Section {
    /// The command that makes PVE write the section again. The secrets are where they were, and are used by it.
    pub(crate) fn command(&self, id: &str) -> String {
        let mut command = format!("pvesm add {TYPE} {}", quoted(id));
        for (name, value) in &self.options {
            let text = match value {
                Value::String(it) => it.clone(),
                Value::Bool(true) => "1".to_owned(),
                Value::Array(all) => {
                    let words: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
                    words.join(",")
                }
                Value::Number(it) => it.to_string(),
                Value::Bool(false) | Value::Null | Value::Object(_) => continue,
            };
            if !text.is_empty() {
                // Writing into a String cannot fail.
                let _ = write!(command, " --{name} {}", quoted(&text));
            }
        }
        command
    }

    /// Whether a section leads to the same array, by the same account, and is as careful about whom it trusts: then it may use
    /// the secrets that are kept for this one.
    pub(crate) fn leads_alike(&self, options: &BTreeMap<String, Value>) -> bool {
        const WAY: [&str; 6] = ["array", "address", "username", "svm", "ca-file", "fingerprint"];
        WAY.iter().map(|it| format!("sanbridge-{it}")).all(|it| self.options.get(&it) == options.get(&it))
    }
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "._-/:,@%+=".contains(it);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "# sanbridge: commented\ndir: local\n\tpath /var/lib/vz\n\tcontent iso\n\nsanbridge: san1\n\tsanbridge-array ontap\n\tsanbridge-address a: san2\n\nlvm: san3\n\tvgname x\n";

    #[test]
    fn a_section_is_found_by_its_header_only() {
        for (id, expected) in [
            ("san1", Place::There),
            ("san2", Place::Missing),
            ("san", Place::Missing),
            ("commented", Place::Missing),
            ("san3", Place::Taken("lvm".to_owned())),
        ] {
            assert_eq!(place_in(TEXT, id), expected, "{id}");
        }
        assert_eq!(place_in("", "san1"), Place::Missing);
    }

    #[test]
    fn a_command_can_be_pasted_into_a_shell() {
        let options = json!({
            "sanbridge-address": "10.0.0.1,[fd00::1]:8443", "sanbridge-username": "o'neil; rm -rf $HOME",
            "content": ["images", "rootdir"], "nodes": ["a", "b"], "disable": false, "sanbridge-svm": null,
        });
        let section = Section { options: serde_json::from_value(options).unwrap() };
        assert_eq!(
            section.command("san1"),
            "pvesm add sanbridge san1 --content images,rootdir --nodes a,b \
             --sanbridge-address '10.0.0.1,[fd00::1]:8443' --sanbridge-username 'o'\\''neil; rm -rf $HOME'"
        );
    }

    #[test]
    fn secrets_are_used_again_on_the_same_way_only() {
        let options: BTreeMap<String, Value> = serde_json::from_value(json!({
            "sanbridge-address": "a", "sanbridge-username": "u", "content": ["images"],
        }))
        .unwrap();
        let section = Section { options: options.clone() };
        let with = |name: &str, value: &str| {
            let mut other = options.clone();
            other.insert(name.to_owned(), value.into());
            section.leads_alike(&other)
        };
        assert!(section.leads_alike(&options) && with("content", "rootdir"));
        for name in ["address", "username", "svm", "fingerprint"] {
            assert!(!with(&format!("sanbridge-{name}"), "x"), "{name}");
        }
    }
}
