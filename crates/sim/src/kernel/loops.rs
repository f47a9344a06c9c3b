//! Loop devices over files, through `losetup`.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::configfs;

const LOSETUP: &str = "/usr/sbin/losetup";
const MODPROBE: &str = "/usr/sbin/modprobe";

/// Makes a loop device over a file. It reads and writes through the file's page cache, so that whoever reads or
/// changes the file sees and is seen at once, and has no volatile write cache of its own, like an array with
/// battery-backed memory.
pub(super) fn attach(file: &Path, block: u32) -> io::Result<PathBuf> {
    let block = block.to_string();
    let arguments: [&OsStr; 5] =
        ["--find".as_ref(), "--show".as_ref(), "--sector-size".as_ref(), block.as_ref(), file.as_os_str()];
    let device = PathBuf::from(run(LOSETUP, &arguments)?.trim());
    let name = device.file_name().map_or(device.as_path(), Path::new);
    let made = configfs::write(Path::new("/sys/block").join(name).join("queue/write_cache"), "write through");
    if let Err(error) = made {
        detach(&device)?;
        return Err(error);
    }
    Ok(device)
}

/// Lets a device follow the size of its file.
pub(super) fn resize(device: &Path) -> io::Result<()> {
    run(LOSETUP, &["--set-capacity".as_ref(), device.as_os_str()]).map(drop)
}

/// Lets go of a device.
pub(super) fn detach(device: &Path) -> io::Result<()> {
    run(LOSETUP, &["--detach".as_ref(), device.as_os_str()]).map(drop)
}

/// Loads a kernel module.
pub(super) fn load(module: &str) -> io::Result<()> {
    run(MODPROBE, &[module.as_ref()]).map(drop)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the simulator is not the product; nothing else of it starts programs"
)]
fn run(program: &str, arguments: &[&OsStr]) -> io::Result<String> {
    let output = std::process::Command::new(program).env_clear().args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {arguments:?}: {}", text.trim())))
}
