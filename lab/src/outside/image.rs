//! The image of the guest: from the cache, or built now.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cache::{Cache, hash};
use super::needs::{self, Task, is_root};
use super::recipe;
use super::tools::{Trouble, about, say};

/// A complete image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Where its files lie.
    pub folder: PathBuf,
}

impl Image {
    /// The kernel.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// Its first file system.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs")
    }

    /// The root file system; it is never written to.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root.img")
    }
}

fn guest_files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guest")
}

/// The image for these sources: from the cache, or built now. `mirror` is where packages come from, if not from where
/// mmdebstrap takes them by itself.
///
/// # Errors
/// Where it cannot be built.
pub async fn ensure(cache: &Cache, mirror: Option<&str>) -> Result<Image, Trouble> {
    let hash = hash(&guest_files(), include_str!("recipe.rs"))?;
    if let Some(folder) = cache.image(&hash) {
        needs::ensure(Task::Run).await?;
        return Ok(Image { folder });
    }
    // Root's cache serves everybody.
    let shared = Path::new("/var/cache/sanbridge-lab").join(format!("image-{hash}"));
    if shared.join("used").is_file() {
        needs::ensure(Task::Run).await?;
        return Ok(Image { folder: shared });
    }
    needs::ensure(Task::Build).await?;
    if !is_root() {
        return Err(Trouble::lacking(
            "there is no image yet, and only root can build it: `cargo xtask lab image` once as root",
        ));
    }
    let _lock = cache.lock().await?;
    if let Some(folder) = cache.image(&hash) {
        return Ok(Image { folder });
    }
    say("building the image of the guest");
    let started = Instant::now();
    // What another builder left behind; none is at work now.
    cache.forget(&["building-"], Duration::ZERO);
    let building = cache.fresh("building-")?;
    recipe::build(&guest_files(), building.path(), mirror).await?;
    fs::remove_dir_all(building.path().join("work")).map_err(about(building.path()))?;
    let folder = cache.keep(&building.keep(), &hash)?;
    say(&format!("the image is built, {:.0} s", started.elapsed().as_secs_f64()));
    Ok(Image { folder })
}
