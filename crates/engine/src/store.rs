//! Small durable files: written whole or not at all, read whole or reported as damaged.

use std::io::{ErrorKind as Io, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use san_core::{Cx, Effect, EffectKind, EffectState, Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A record of ours is a few hundred bytes; whatever is larger is not one.
const MAX: u64 = 1 << 20;

/// No file operation here takes longer, unless the file system hangs: a cluster file system can.
const PATIENCE: Duration = Duration::from_secs(10);
/// A temporary file of this age belongs to nobody any more.
const STALE: Duration = Duration::from_secs(600);

/// A folder of JSON files, root-only.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    /// A folder that is there exactly while the file system below `path` is mounted.
    witness: Option<PathBuf>,
}

impl Folder {
    /// A folder of this node; it is made when something is written.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), witness: None }
    }

    /// A folder on a file system that all nodes share and that may be absent. While `witness`, a folder on it, is not
    /// there, everything is an error: nothing is taken for absent, and nothing is written in its place.
    pub fn shared(path: impl Into<PathBuf>, witness: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), witness: Some(witness.into()) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        Self { path: self.path.join(name), witness: self.witness.clone() }
    }

    /// The names of the files in it, sorted; none where the folder does not exist.
    pub async fn names(&self) -> Result<Vec<String>> {
        let path = self.path.clone();
        self.blocking(path.clone(), "list", move || {
            let entries = match std::fs::read_dir(&path) {
                Err(error) if error.kind() == Io::NotFound => return Ok(Vec::new()),
                other => other?,
            };
            let mut names = Vec::new();
            for entry in entries {
                let name = entry?.file_name();
                names.extend(name.to_str().filter(|it| !it.starts_with('.')).map(str::to_owned));
            }
            names.sort();
            Ok(names)
        })
        .await
    }

    /// Reads one file; `None` where it is proved absent.
    ///
    /// # Errors
    /// `Conflict` where it is there and cannot be understood: it must not be taken for absent.
    pub async fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path.join(name);
        let bytes = self
            .blocking(path.clone(), "read", {
                let path = path.clone();
                move || match std::fs::metadata(&path) {
                    Err(error) if error.kind() == Io::NotFound => Ok(None),
                    Err(error) => Err(error),
                    Ok(it) if it.len() > MAX => Err(std::io::Error::other("the file is too large")),
                    Ok(_) => match std::fs::read(&path) {
                        // It was removed between the two calls.
                        Err(error) if error.kind() == Io::NotFound => Ok(None),
                        other => other.map(Some),
                    },
                }
            })
            .await?;
        let Some(bytes) = bytes else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(ErrorKind::Conflict, "the file cannot be understood")
                .on(path.display())
                .with_remedy("it may be of a newer version: update sanbridge; do not delete it")
                .caused_by(error)
        })
    }

    /// Writes one file: temporary name, fsync, rename, fsync of the folder.
    pub async fn write<T: Serialize>(&self, cx: &Cx, name: &str, value: &T) -> Result<()> {
        let (folder, path) = (self.path.clone(), self.path.join(name));
        let bytes = to_bytes(value, &path)?;
        // Several nodes may write at once: each whole, the last one stays.
        let temporary = self.path.join(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
        let write = self.blocking(path.clone(), "write", move || {
            in_folder(&folder, || {
                let mut options = std::fs::OpenOptions::new();
                let mut file =
                    options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                std::fs::rename(&temporary, &path)?;
                std::fs::File::open(&folder)?.sync_all()
            })
        });
        cx.effect(self.effect("save", name), write).await
    }

    /// How long ago a file was written; `None` where it is proved absent.
    pub async fn age(&self, name: &str) -> Result<Option<Duration>> {
        let path = self.path.join(name);
        self.blocking(path.clone(), "look at", move || match std::fs::metadata(&path) {
            Err(error) if error.kind() == Io::NotFound => Ok(None),
            // A time in the future is no age yet.
            other => Ok(Some(other?.modified()?.elapsed().unwrap_or_default())),
        })
        .await
    }

    /// Makes a file that must not exist; `false` where it does. The file is seen before its content is.
    pub async fn claim<T: Serialize>(&self, cx: &Cx, name: &str, value: &T) -> Result<bool> {
        let (folder, path) = (self.path.clone(), self.path.join(name));
        let bytes = to_bytes(value, &path)?;
        let claim = self.blocking(path.clone(), "claim", move || {
            // Exclusive creation is what a cluster file system decides for all nodes; hard links it may not have.
            in_folder(&folder, || {
                match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                    Ok(mut file) => file.write_all(&bytes).and_then(|()| file.sync_all()).map(|()| true),
                    Err(error) if error.kind() == Io::AlreadyExists => Ok(false),
                    Err(error) => Err(error),
                }
            })
        });
        cx.effect(self.effect("claim", name), claim).await
    }

    /// Removes one file, durably; whether it was there.
    pub async fn remove(&self, cx: &Cx, name: &str) -> Result<bool> {
        let (folder, path) = (self.path.clone(), self.path.join(name));
        let remove = self.blocking(path.clone(), "remove", move || match std::fs::remove_file(&path) {
            Err(error) if error.kind() == Io::NotFound => Ok(false),
            Err(error) => Err(error),
            Ok(()) => std::fs::File::open(&folder)?.sync_all().map(|()| true),
        });
        cx.effect(self.effect("forget", name), remove).await
    }

    /// Removes the folder if it is empty but for what killed writers left: a folder nobody needs is no error.
    pub async fn prune(&self, cx: &Cx) -> Result<()> {
        let path = self.path.clone();
        let prune = self.blocking(path.clone(), "remove", move || match prune(&path) {
            Err(error) if matches!(error.kind(), Io::NotFound | Io::DirectoryNotEmpty) => Ok(()),
            other => other,
        });
        cx.effect(self.effect("prune", ""), prune).await
    }

    fn effect(&self, verb: &'static str, name: &str) -> Effect {
        let kind = if self.witness.is_some() { EffectKind::Shared } else { EffectKind::Store };
        Effect { kind, verb, subject: self.path.join(name).display().to_string() }
    }
}

fn to_bytes<T: Serialize>(value: &T, path: &Path) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot write a record").on(path.display()).caused_by(error)
    })
}

/// Makes the folder and does `work` in it; again where another node removed the empty folder in between.
fn in_folder<T>(folder: &Path, mut work: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    const ATTEMPTS: usize = 3;
    for _ in 1..ATTEMPTS {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        match work() {
            Err(error) if error.kind() == Io::NotFound => {}
            other => return other,
        }
    }
    work()
}

fn prune(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let is_temporary = entry.file_name().to_string_lossy().starts_with('.');
        if is_temporary && entry.metadata()?.modified()?.elapsed().is_ok_and(|it| it > STALE) {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}

/// An error unless the witness of a shared file system is there.
fn attest(witness: Option<&Path>) -> std::io::Result<()> {
    match witness.map(std::fs::metadata) {
        None => Ok(()),
        Some(Ok(it)) if it.is_dir() => Ok(()),
        Some(_) => Err(std::io::Error::new(Io::NotConnected, "the cluster file system is not mounted")),
    }
}

impl Folder {
    async fn blocking<T: Send + 'static>(
        &self,
        path: PathBuf,
        doing: &'static str,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let failed = |error: std::io::Error| {
            let kind = match error.kind() {
                Io::StorageFull | Io::QuotaExceeded => ErrorKind::OutOfSpace,
                Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
                Io::NotConnected => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            };
            let error = Error::new(kind, format!("cannot {doing} the file"))
                .on(path.display())
                .with_effect(EffectState::Unknown)
                .caused_by(error);
            if kind == ErrorKind::Unavailable {
                error.with_remedy("mount the file system that the nodes share")
            } else {
                error
            }
        };
        let witness = self.witness.clone();
        let attested = move || {
            attest(witness.as_deref())?;
            let done = work();
            // What was seen or done while it went away counts for nothing.
            attest(witness.as_deref())?;
            done
        };
        match tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(attested)).await {
            Ok(Ok(result)) => result.map_err(failed),
            Ok(Err(error)) => {
                Err(Error::new(ErrorKind::Internal, "a file operation did not end").caused_by(error))
            }
            Err(_) => {
                let message = format!("cannot {doing} the file: its file system does not answer");
                Err(Error::new(ErrorKind::Timeout, message).on(path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use san_core::{Deadline, Effects, OperationId};

    use super::*;

    fn cx() -> Cx {
        Cx::new(Deadline::after(Duration::from_secs(5)), OperationId::random(), Effects::unobserved())
    }

    #[tokio::test]
    async fn files_come_back_and_absence_is_not_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::at(folder.path().join("a/b"));
        assert_eq!(store.names().await.unwrap(), Vec::<String>::new());
        assert_eq!(store.read::<u32>("x").await.unwrap(), None);
        store.write(&cx(), "x", &7).await.unwrap();
        assert_eq!(store.read::<u32>("x").await.unwrap(), Some(7));
        assert_eq!(store.names().await.unwrap(), ["x"]);
        let mode = std::fs::metadata(store.path().join("x")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(store.remove(&cx(), "x").await.unwrap());
        assert!(!store.remove(&cx(), "x").await.unwrap());
        store.prune(&cx()).await.unwrap();
        assert!(!store.path().try_exists().unwrap());
    }

    #[tokio::test]
    async fn a_damaged_file_is_not_absent() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::at(folder.path());
        for text in ["", "{", "\"text\""] {
            std::fs::write(folder.path().join("x"), text).unwrap();
            assert_eq!(store.read::<u32>("x").await.unwrap_err().kind(), ErrorKind::Conflict, "{text:?}");
        }
        let large = std::fs::File::create(folder.path().join("y")).unwrap();
        large.set_len(MAX + 1).unwrap();
        assert!(store.read::<u32>("y").await.is_err());
    }

    #[tokio::test]
    async fn a_shared_folder_that_is_not_mounted_proves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let witness = folder.path().join("nodes");
        std::fs::create_dir(&witness).unwrap();
        let store = Folder::shared(folder.path().join("priv"), &witness).below("x");
        store.write(&cx(), "x", &7).await.unwrap();
        assert_eq!(store.read::<u32>("x").await.unwrap(), Some(7));
        std::fs::rename(folder.path().join("priv"), folder.path().join("away")).unwrap();
        std::fs::remove_dir(&witness).unwrap();
        assert_eq!(store.read::<u32>("x").await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(store.names().await.is_err());
        assert!(store.remove(&cx(), "x").await.is_err());
        assert!(store.write(&cx(), "x", &8).await.is_err());
        assert!(!folder.path().join("priv").try_exists().unwrap());
    }

    #[tokio::test]
    async fn only_one_claims() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::at(folder.path());
        let claims: Vec<bool> = {
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..16 {
                let store = store.clone();
                tasks.spawn(async move { store.claim(&cx(), "x", &number).await.unwrap() });
            }
            tasks.join_all().await
        };
        assert_eq!(claims.iter().filter(|it| **it).count(), 1);
    }
}
