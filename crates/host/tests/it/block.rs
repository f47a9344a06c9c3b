//! Block devices of this machine: a loop device over a file.

use std::path::Path;
use std::process::Command;

use san_core::{DeviceNumber, ErrorKind};
use san_host::Host;

use crate::support::{Bench, soon};

/// A loop device that goes when it is dropped.
struct Loop(String);

impl Loop {
    /// `None` where this user may not make one, or has no tool for it.
    fn over(file: &Path) -> Option<Self> {
        let output = losetup(&["--find", "--show", file.to_str()?])?;
        output.status.success().then(|| Self(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        losetup(&["--detach", &self.0]);
    }
}

#[expect(clippy::disallowed_methods, reason = "sets up what the test needs")]
fn losetup(arguments: &[&str]) -> Option<std::process::Output> {
    Command::new("losetup").args(arguments).output().ok()
}

#[tokio::test]
async fn a_device_is_read_past_the_cache_and_flushed() {
    let bench = Bench::with(|config| config.root = "/".into());
    let mut content = vec![0; 1 << 20];
    content[8192..8196].copy_from_slice(b"SAN!");
    let file = bench.file("image", &content);
    let Some(device) = Loop::over(&file) else {
        println!("skipped: no loop device can be made here");
        return;
    };
    let path = Path::new(&device.0);
    let block = bench.host.read_block(path, 8192, 4096, soon()).await.unwrap();
    assert_eq!((block.len(), &block[..4]), (4096, &b"SAN!"[..]));

    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|it| std::os::unix::fs::FileExt::write_all_at(&it, b"new!", 8192))
        .unwrap();
    bench.host.flush(path, soon()).await.unwrap();
    assert_eq!(&std::fs::read(&file).unwrap()[8192..8196], b"new!");

    let past = bench.host.read_block(path, 1 << 20, 4096, soon()).await.unwrap_err();
    assert_eq!(past.kind(), ErrorKind::Protocol);
    let crooked = bench.host.read_block(path, 1, 4096, soon()).await.unwrap_err();
    assert_eq!(crooked.kind(), ErrorKind::InvalidInput);
    let no_scsi = bench.host.inquiry(path, Some(0x83), soon()).await.unwrap_err();
    assert_eq!(no_scsi.kind(), ErrorKind::InvalidInput, "{no_scsi:?}");
    let no_disk = bench.host.inquiry(Path::new("/dev/zero"), Some(0x83), soon()).await.unwrap_err();
    assert_eq!(no_disk.kind(), ErrorKind::Unsupported, "{no_disk:?}");
}

#[tokio::test]
async fn a_map_that_does_not_exist_has_no_openers() {
    let bench = Bench::with(|config| config.root = "/".into());
    // Beyond the last minor number that device-mapper can give out by itself.
    let absent = DeviceNumber { major: 253, minor: (1 << 20) - 1 };
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/mapper/control") {
        Ok(_) => assert_eq!(bench.host.open_count(absent, soon()).await.unwrap(), None),
        Err(error) => {
            println!("skipped in part: no device-mapper here ({error})");
            let error = bench.host.open_count(absent, soon()).await.unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::PermissionDenied),
                "{error:?}"
            );
        }
    }
}
