//! Where the lab keeps what is worth keeping, outside of the clone: images under a hash of what they are made of.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::needs::is_root;
use super::tools::{Trouble, about, say};

/// An image that nobody used for so long goes when a new one is made.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long to wait for another process that builds an image.
const PATIENCE: Duration = Duration::from_secs(900);

/// The folder for everything kept.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The folder that was asked for, or the usual one: `/var/cache/sanbridge-lab` for root, `sanbridge-lab` in
    /// `$XDG_CACHE_HOME` or `~/.cache` for others.
    ///
    /// # Errors
    /// Where there is no such folder and none can be made.
    pub fn open(asked: Option<PathBuf>) -> Result<Self, Trouble> {
        let usual = || {
            let home = || std::env::var_os("HOME").map(|it| Path::new(&it).join(".cache"));
            let own = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
            let base = if is_root() { Some("/var/cache".into()) } else { own };
            base.map(|it| it.join("sanbridge-lab"))
        };
        let folder = asked.or_else(usual).ok_or_else(|| Trouble::lacking("no home folder: use --cache"))?;
        fs::create_dir_all(&folder).map_err(about(&folder))?;
        let folder = folder.canonicalize().map_err(about(&folder))?;
        Ok(Self { folder })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of the image with this hash, if it is complete; its use is noted.
    pub fn image(&self, hash: &str) -> Option<PathBuf> {
        let folder = self.path(&format!("image-{hash}"));
        let used = OpenOptions::new().write(true).open(folder.join("used")).ok()?;
        // A cache that is not ours to write to serves as well; only its age is then not renewed.
        let _ = used.set_modified(SystemTime::now());
        Some(folder)
    }

    /// A fresh folder whose name begins with this; it goes with its handle.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn fresh(&self, prefix: &str) -> Result<tempfile::TempDir, Trouble> {
        tempfile::Builder::new().prefix(prefix).tempdir_in(&self.folder).map_err(about(&self.folder))
    }

    /// Lets folders go whose name begins with one of these and that nobody changed for so long.
    pub fn forget(&self, prefixes: &[&str], age: Duration) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let changed = entry.metadata().and_then(|it| it.modified()).ok();
            let is_old = changed.and_then(|it| it.elapsed().ok()).is_some_and(|it| it > age);
            let is_old = is_old && !is_mounted_below(&entry.path());
            if is_old && prefixes.iter().any(|it| name.starts_with(it)) {
                // What cannot go now goes the next time.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Gives a built image its place, in one step, and lets old ones go.
    ///
    /// # Errors
    /// Where it cannot be put there.
    pub fn keep(&self, built: &Path, hash: &str) -> Result<PathBuf, Trouble> {
        File::create(built.join("used")).map_err(about(built))?;
        fs::set_permissions(built, fs::Permissions::from_mode(0o755)).map_err(about(built))?;
        let place = self.path(&format!("image-{hash}"));
        fs::rename(built, &place).map_err(about(&place))?;
        self.prune(&place);
        Ok(place)
    }

    fn prune(&self, but: &Path) {
        let old = |path: &Path| {
            let used = fs::metadata(path.join("used")).and_then(|it| it.modified()).ok();
            used.and_then(|it| it.elapsed().ok()).is_some_and(|age| age > KEPT)
        };
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_image = entry.file_name().to_string_lossy().starts_with("image-");
            if is_image && path != but && old(&path) {
                // What cannot go now goes the next time.
                let _ = fs::remove_dir_all(&path);
            }
        }
    }

    /// Keeps other builders away until the file is dropped.
    ///
    /// # Errors
    /// Where another one does not end.
    pub async fn lock(&self) -> Result<File, Trouble> {
        let path = self.path("lock");
        let file = File::create(&path).map_err(about(&path))?;
        let taken = || flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if !taken() {
            say("waiting for another build of the image");
            let waited = tokio::time::timeout(PATIENCE, async {
                while !taken() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            });
            waited.await.map_err(|_| Trouble::fault("another build of the image does not end"))?;
        }
        Ok(file)
    }
}

/// Whether something is mounted in a folder: to delete it would delete that.
fn is_mounted_below(folder: &Path) -> bool {
    // Field 5 is the place. Without an answer, rather not.
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return true };
    let mut places = mounts.lines().filter_map(|it| it.split(' ').nth(4));
    places.any(|it| Path::new(it).starts_with(folder))
}

/// The hash of files by their paths, contents and modes, and of a text that stands for how they are used.
///
/// # Errors
/// Where one cannot be read.
pub fn hash(folder: &Path, recipe: &str) -> Result<String, Trouble> {
    let mut hash = Sha256::new();
    add(&mut hash, recipe.as_bytes());
    add_folder(&mut hash, folder, folder)?;
    let start = hash.finalize().into_iter().take(8);
    let number = start.fold(0_u64, |number, byte| number << 8 | u64::from(byte));
    Ok(format!("{number:016x}"))
}

/// Each part with its length, so that no two lists of parts look the same.
fn add(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_le_bytes());
    hash.update(part);
}

fn add_folder(hash: &mut Sha256, root: &Path, folder: &Path) -> Result<(), Trouble> {
    let entries = fs::read_dir(folder).map_err(about(folder))?;
    let paths = entries.map(|it| it.map(|it| it.path())).collect::<Result<Vec<_>, _>>();
    let mut paths = paths.map_err(about(folder))?;
    paths.sort();
    for path in paths {
        let kind = fs::symlink_metadata(&path).map_err(about(&path))?;
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if kind.is_dir() {
            add_folder(hash, root, &path)?;
            continue;
        }
        add(hash, name.as_bytes());
        add(hash, &[u8::from(kind.permissions().mode() & 0o100 != 0)]);
        if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(about(&path))?;
            add(hash, target.to_string_lossy().as_bytes());
        } else {
            add(hash, &fs::read(&path).map_err(about(&path))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        fs::write(folder.path().join("etc/a"), "1").unwrap();
        fs::write(folder.path().join("b"), "2").unwrap();
        folder
    }

    #[test]
    fn equal_inputs_have_equal_hashes() {
        assert_eq!(hash(filled().path(), "r").unwrap(), hash(filled().path(), "r").unwrap());
    }

    #[test]
    fn every_input_counts() {
        let base = hash(filled().path(), "r").unwrap();
        let differs = |change: &dyn Fn(&Path)| {
            let folder = filled();
            change(folder.path());
            assert_ne!(hash(folder.path(), "r").unwrap(), base);
        };
        differs(&|it| fs::write(it.join("etc/a"), "3").unwrap());
        differs(&|it| fs::rename(it.join("b"), it.join("c")).unwrap());
        differs(&|it| fs::set_permissions(it.join("b"), fs::Permissions::from_mode(0o755)).unwrap());
        differs(&|it| std::os::unix::fs::symlink("b", it.join("d")).unwrap());
        assert_ne!(hash(filled().path(), "s").unwrap(), base);
    }

    #[test]
    fn an_image_counts_when_it_is_complete_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path().into())).unwrap();
        assert!(cache.image("1").is_none());
        let keep = |hash: &str| cache.keep(&cache.fresh("building-").unwrap().keep(), hash).unwrap();
        let first = keep("1");
        assert_eq!(cache.image("1").unwrap(), first);
        let used = OpenOptions::new().write(true).open(first.join("used")).unwrap();
        used.set_modified(SystemTime::now() - KEPT * 2).unwrap();
        let second = keep("2");
        assert!(!first.try_exists().unwrap() && second.try_exists().unwrap());
    }

    #[tokio::test]
    async fn only_one_builds() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path().into())).unwrap();
        let first = cache.lock().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), cache.lock()).await.is_err());
        drop(first);
        cache.lock().await.unwrap();
    }
}
