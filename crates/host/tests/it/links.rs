//! Links are replaced in one step, and nothing else is ever replaced.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use san_core::ErrorKind;
use san_host::Host;

use crate::support::{Bench, soon};

const LINK: &str = "/dev/sanbridge/store/vm-100-disk-0";

#[tokio::test]
async fn a_link_is_made_replaced_and_removed() {
    let bench = Bench::new();
    let (link, real) = (Path::new(LINK), bench.real(LINK));
    std::fs::create_dir_all(bench.real("/dev")).unwrap();
    for target in ["/dev/mapper/a", "/dev/mapper/a", "/dev/mapper/b"] {
        bench.host.make_link(link, Path::new(target), soon()).await.unwrap();
        assert_eq!(std::fs::read_link(&real).unwrap(), Path::new(target));
    }
    for folder in [real.parent().unwrap(), real.parent().unwrap().parent().unwrap()] {
        assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o7777, 0o755);
    }
    assert_eq!(std::fs::read_dir(real.parent().unwrap()).unwrap().count(), 1, "nothing temporary is left");
    assert!(bench.host.remove_link(link, soon()).await.unwrap());
    assert!(!bench.host.remove_link(link, soon()).await.unwrap());
    assert!(std::fs::symlink_metadata(real).is_err());
}

#[tokio::test]
async fn what_is_no_link_stays() {
    let bench = Bench::new();
    let file = bench.file(LINK, "precious");
    let error = bench.host.make_link(Path::new(LINK), Path::new("/dev/dm-1"), soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let error = bench.host.remove_link(Path::new(LINK), soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(std::fs::read(file).unwrap(), b"precious");
    let folder = Path::new("/dev/sanbridge/store");
    let error = bench.host.make_link(folder, Path::new("/dev/dm-1"), soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_file_is_put_whole_over_a_file_or_a_link_and_removed() {
    let bench = Bench::new();
    let (file, real) = (Path::new("/etc/sanbridge/masked/naa.6"), bench.real("/etc/sanbridge/masked/naa.6"));
    std::fs::create_dir_all(real.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/null", &real).unwrap();
    for text in ["A=1\n", "B=2\n", ""] {
        bench.host.put_file(file, text, soon()).await.unwrap();
        assert_eq!(bench.host.read(file, 100, soon()).await.unwrap().as_deref(), Some(text.as_bytes()));
        assert!(std::fs::symlink_metadata(&real).unwrap().is_file());
    }
    assert!(bench.host.remove_file(file, soon()).await.unwrap());
    assert!(!bench.host.remove_file(file, soon()).await.unwrap());
    std::fs::create_dir(&real).unwrap();
    let error = bench.host.put_file(file, "A=1\n", soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(bench.host.remove_file(file, soon()).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(std::fs::read_dir(real.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn what_a_crash_left_is_no_hindrance() {
    let bench = Bench::new();
    let real = bench.real(LINK);
    std::fs::create_dir_all(real.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/old", real.with_file_name(".vm-100-disk-0.new")).unwrap();
    bench.host.make_link(Path::new(LINK), Path::new("/dev/dm-1"), soon()).await.unwrap();
    assert_eq!(std::fs::read_link(&real).unwrap(), Path::new("/dev/dm-1"));
    assert_eq!(std::fs::read_dir(real.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn many_makers_of_one_link_all_succeed() {
    let bench = Bench::new();
    let makers: Vec<_> = (0..16)
        .map(|n| {
            let (host, target) = (std::sync::Arc::clone(&bench.host), format!("/dev/dm-{n}"));
            tokio::spawn(async move { host.make_link(Path::new(LINK), Path::new(&target), soon()).await })
        })
        .collect();
    for maker in makers {
        maker.await.unwrap().unwrap();
    }
    assert!(std::fs::read_link(bench.real(LINK)).is_ok());
}
