//! The folders of simulated nodes, and the loop devices over what lies in them.

use std::fs;
use std::io::{self, ErrorKind as Io, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use san_core::{Error, ErrorKind, NodeName, Result};
use secrecy::{ExposeSecret as _, SecretString};

use super::{Settings, failed};
use crate::program::program;

/// Says that a data folder is ours to empty.
const MARKER: &str = "sanbridge-simnode";
/// What lies in a data folder.
const PARTS: [&str; 3] = ["units", "state", "password"];

/// Where things lie.
#[derive(Debug)]
pub(crate) struct Folders {
    run: PathBuf,
    data: PathBuf,
}

impl Folders {
    /// Makes the folders, without anything of an earlier run: the array that knew of it is gone.
    pub(crate) async fn prepare(settings: &Settings) -> Result<Self> {
        require_new_cluster(&settings.pve)?;
        claim(&settings.data)?;
        let real = |path: &Path| path.canonicalize().map_err(failed("cannot use a folder"));
        // The kernel names the files of loop devices by their real paths.
        let data = real(&settings.data)?;
        detach(&loops_over(&data)?).await?;
        for part in PARTS {
            remove(&data.join(part))?;
        }
        fs::create_dir_all(&settings.run).map_err(failed("cannot make the run folder"))?;
        let this = Self { run: real(&settings.run)?, data };
        for node in &settings.nodes {
            // Emptied and not made anew, since it may be mounted somewhere.
            let devices = this.devices().join(node.as_str());
            fs::create_dir_all(&devices).map_err(failed("cannot make a device folder"))?;
            for entry in fs::read_dir(&devices).map_err(failed("cannot read a device folder"))? {
                remove(&entry.map_err(failed("cannot read a device folder"))?.path())?;
            }
        }
        Ok(this)
    }

    pub(crate) fn units(&self) -> PathBuf {
        self.data.join("units")
    }

    pub(crate) fn password(&self) -> PathBuf {
        self.data.join("password")
    }

    pub(crate) fn state(&self, node: &NodeName) -> PathBuf {
        self.data.join("state").join(node.as_str())
    }

    /// Holds a folder of links for each node.
    pub(crate) fn devices(&self) -> PathBuf {
        self.run.join("devices")
    }

    pub(crate) fn socket(&self, node: &NodeName) -> PathBuf {
        self.run.join("sockets").join(node.as_str()).join("sanbridge.sock")
    }

    /// A password nobody knows yet, in a file only root can read.
    pub(crate) fn new_password(&self) -> Result<SecretString> {
        let password = SecretString::from(uuid::Uuid::new_v4().simple().to_string());
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(self.password());
        file.and_then(|mut it| it.write_all(password.expose_secret().as_bytes()))
            .map_err(failed("cannot write the password file"))?;
        Ok(password)
    }

    /// Proves that no loop device is left.
    ///
    /// # Errors
    /// `InUse` naming those that are.
    pub(crate) async fn release(&self) -> Result<()> {
        detach(&loops_over(&self.data)?).await?;
        let left = loops_over(&self.data)?;
        if left.is_empty() {
            return Ok(());
        }
        let left: Vec<String> = left.iter().map(|it| it.display().to_string()).collect();
        let message = format!("still in use by a program: {}", left.join(", "));
        Err(Error::new(ErrorKind::InUse, message).with_remedy("they go when the guests that use them end"))
    }
}

/// What an earlier array had is on record in the cluster's folder, and would be taken for volumes of this one.
fn require_new_cluster(pve: &Path) -> Result<()> {
    let records = pve.join("priv").join("sanbridge").join("volumes");
    if holds_files(&records).map_err(failed("cannot read the cluster's records"))? {
        return Err(Error::new(ErrorKind::Conflict, "the cluster has records of volumes of another array")
            .on(records.display())
            .with_remedy(
                "take a new folder for --pve, or remove the records if the array is gone for good",
            ));
    }
    Ok(())
}

/// Whether there is anything but folders below `folder`.
fn holds_files(folder: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == Io::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || holds_files(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the data folder ours, unless somebody else's things are in it.
fn claim(data: &Path) -> Result<()> {
    fs::create_dir_all(data).map_err(failed("cannot make the data folder"))?;
    let marker = data.join(MARKER);
    if marker.try_exists().map_err(failed("cannot read the data folder"))? {
        return Ok(());
    }
    if fs::read_dir(data).map_err(failed("cannot read the data folder"))?.next().is_some() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "the data folder is neither empty nor of an earlier run",
        )
        .on(data.display()));
    }
    fs::write(marker, "").map_err(failed("cannot use the data folder"))
}

fn remove(path: &Path) -> Result<()> {
    let is_folder = match fs::symlink_metadata(path) {
        Ok(it) => it.is_dir(),
        Err(error) if error.kind() == Io::NotFound => return Ok(()),
        Err(error) => return Err(failed("cannot look at what an earlier run left")(error)),
    };
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(failed("cannot remove what an earlier run left"))
}

/// The loop devices over files below `folder`.
fn loops_over(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").map_err(failed("cannot read /sys/block"))? {
        let entry = entry.map_err(failed("cannot read /sys/block"))?;
        match fs::read_to_string(entry.path().join("loop/backing_file")) {
            Ok(file) if Path::new(&file).starts_with(folder) => {
                found.push(Path::new("/dev").join(entry.file_name()));
            }
            Ok(_) => {}
            // No loop device, or one without a file.
            Err(error) if [Io::NotFound, Io::NotADirectory].contains(&error.kind()) => {}
            Err(error) => return Err(failed("cannot read a loop device")(error)),
        }
    }
    Ok(found)
}

async fn detach(devices: &[PathBuf]) -> Result<()> {
    for device in devices {
        let ended = program("/usr/sbin/losetup").arg("--detach").arg(device).status().await;
        if !ended.map_err(failed("cannot start losetup"))?.success() {
            return Err(Error::new(ErrorKind::Internal, "cannot detach a loop device").on(device.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_with_volumes_of_another_array_is_refused() {
        let pve = tempfile::tempdir().unwrap();
        require_new_cluster(pve.path()).unwrap();
        let records = pve.path().join("priv/sanbridge/volumes");
        fs::create_dir_all(records.join("san1")).unwrap();
        require_new_cluster(pve.path()).unwrap();
        fs::write(records.join("san1/binding"), "").unwrap();
        assert_eq!(require_new_cluster(pve.path()).unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn only_an_own_folder_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        claim(folder.path()).unwrap();
        claim(folder.path()).unwrap();
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("letter"), "dear").unwrap();
        assert_eq!(claim(other.path()).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(other.path().join("letter").is_file());
    }
}
