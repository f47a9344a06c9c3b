//! Whether this computer's processor runs machines itself. A device that opens proves nothing: a machine has to come up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::cache::Cache;
use super::image::Image;
use super::machine::{Accelerator, Boot, Changes, Plan};
use super::tools::{Trouble, about, say};

/// A machine that is not emulated is ready in a few seconds.
const PROOF: Duration = Duration::from_secs(20);

/// Since when this computer runs, as an identifier: the answer holds until the next start.
fn this_boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What runs machines here; tried once and then remembered.
///
/// # Errors
/// Where the answer cannot be kept.
pub async fn find(cache: &Cache, image: &Image) -> Result<Accelerator, Trouble> {
    if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Emulation);
    }
    let path = cache.path("accelerator");
    if let Some(known) = read(&path, &this_boot()) {
        return Ok(known);
    }
    say("trying whether KVM works");
    let folder = tempfile::tempdir().map_err(about(Path::new("a temporary folder")))?;
    let plan = Plan {
        image: image.clone(),
        folder: folder.path().to_owned(),
        share: folder.path().join("share"),
        boot: Boot::Script,
        changes: Changes::InMemory,
        node: 1,
        wires: None,
        accelerator: Accelerator::Kvm,
    };
    let found = match plan.try_boot(PROOF).await {
        Ok(mut machine) => {
            machine.kill().await;
            Accelerator::Kvm
        }
        Err(_) => Accelerator::Emulation,
    };
    say(if found == Accelerator::Kvm { "it does" } else { "it does not: machines are emulated" });
    fs::write(&path, written(found, &this_boot())).map_err(about(&path))?;
    Ok(found)
}

fn written(accelerator: Accelerator, boot: &str) -> String {
    format!("{boot} {}\n", if accelerator == Accelerator::Kvm { "kvm" } else { "emulation" })
}

fn read(path: &Path, boot: &str) -> Option<Accelerator> {
    let text = fs::read_to_string(path).ok()?;
    [Accelerator::Kvm, Accelerator::Emulation].into_iter().find(|it| text == written(*it, boot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_holds_until_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accelerator");
        assert_eq!(read(&path, "1"), None);
        fs::write(&path, written(Accelerator::Kvm, "1")).unwrap();
        assert_eq!(read(&path, "1"), Some(Accelerator::Kvm));
        assert_eq!(read(&path, "2"), None);
    }
}
