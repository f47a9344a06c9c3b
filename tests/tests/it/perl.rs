//! The real Perl plugin against the real daemon: `tests/perl/walk.pl` walks through a storage's life, and here the array and
//! the nodes are looked at from below.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use san_contract::audit::{Audit, said};
use san_core::Effects;
use san_sim::ontap::LunInfo;
use san_sim::server::ApiState;
use sanbridge_tests::daemons::{DaemonSite, options};
use sanbridge_tests::program::program;
use sanbridge_tests::site::{PASSWORD, SVM, SiteNode};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

const DISK: &str = "vm-100-disk-0";
const PATH: &str = "/dev/sanbridge/san1/vm-100-disk-0";
const MIB: u64 = 1 << 20;

/// The two daemons, and what the walk has come to.
struct Walk {
    site: DaemonSite,
    before: Audit,
}

impl Walk {
    fn node(&self, index: usize) -> &SiteNode {
        self.site.site.node(index)
    }

    /// The LUNs of our volumes.
    fn luns(&self) -> Vec<LunInfo> {
        let luns = self.site.site.array.luns();
        luns.into_iter().filter(|it| !it.path.contains("foreign") && self.is_there(it)).collect()
    }

    /// A LUN in the recovery queue went with its volume.
    fn is_there(&self, lun: &LunInfo) -> bool {
        let volume = lun.path.split('/').nth(2).unwrap_or_default();
        self.site.site.array.volume(&lun.svm, volume).is_some_and(|it| !it.deleted)
    }

    /// On which nodes the disk is, as the array and as the nodes themselves have it.
    fn assert_attached(&self, nodes: &[usize]) {
        let maps = self.site.site.array.maps();
        assert_eq!(maps.len(), nodes.len(), "{maps:?}");
        for index in 0..self.site.site.nodes() {
            let inventory = self.node(index).host.inventory();
            let expected = usize::from(nodes.contains(&index));
            assert_eq!(inventory.maps.len(), expected, "{inventory:?}");
            assert_eq!(inventory.legs.len(), 4 * expected, "{inventory:?}");
            assert_eq!(inventory.links.contains_key(Path::new(PATH)), expected == 1, "{inventory:?}");
        }
    }

    async fn write(&self, node: usize, offset: u64, bytes: &[u8]) {
        self.node(node).write(Path::new(PATH), offset, bytes).await.unwrap();
    }

    async fn assert_reads(&self, node: usize, offset: u64, bytes: &[u8]) {
        let read = self.node(node).read(Path::new(PATH), offset, bytes.len()).await.unwrap();
        assert_eq!(read, bytes);
    }

    /// What must hold at a place of the walk, and what happens there.
    async fn at(&mut self, place: &str) {
        match place {
            "refused" => {
                let findings = self.site.site.audit().against(&self.before);
                assert!(findings.is_empty(), "{findings}");
                assert!(!self.secret_file().is_file());
            }
            "added" => {
                assert!(self.secret_file().is_file());
                assert_eq!(self.luns(), []);
            }
            "allocated" => {
                assert_eq!(self.luns().len(), 8);
                self.site.place_guest(100, 0, &[DISK]).unwrap();
                self.assert_attached(&[]);
            }
            "attached" => {
                self.assert_attached(&[0]);
                self.write(0, 0, b"by the guest").await;
            }
            "migrating" => {
                self.assert_attached(&[0, 1]);
                self.assert_reads(1, 0, b"by the guest").await;
                self.site.place_guest(100, 1, &[DISK]).unwrap();
            }
            "migrated" => self.assert_attached(&[1]),
            "detached" => {
                self.assert_attached(&[]);
                self.site.place_guest(100, 0, &[DISK]).unwrap();
            }
            "grown" => {
                assert_eq!(self.node(0).host.inventory().maps[0].size, 16 * MIB);
                self.write(0, 16 * MIB - 4, b"tail").await;
                self.assert_reads(0, 0, b"by the guest").await;
            }
            "snapshotted" => self.write(0, 0, b"overwritten!").await,
            "rolled back" => {
                self.assert_attached(&[0]);
                self.assert_reads(0, 0, b"by the guest").await;
                self.assert_reads(0, 16 * MIB - 4, b"tail").await;
            }
            "array down" => self.site.site.array.set_api(ApiState::Refusing),
            "array up" => {
                self.assert_reads(0, 0, b"by the guest").await;
                self.site.site.array.set_api(ApiState::Up);
                self.until_the_array_is_tried_again().await;
            }
            "daemon killed" => self.site.kill(0),
            "daemon started" => self.site.start(0, Effects::unobserved()).await.unwrap(),
            "removed" => {
                assert_eq!(self.luns(), []);
                assert!(!self.secret_file().is_file());
                let findings = self.site.site.audit().against(&self.before);
                assert!(findings.is_empty(), "{findings}");
            }
            other => panic!("nobody knows the place {other:?}"),
        }
    }

    /// While the array is down the daemon lets one request in five seconds through.
    async fn until_the_array_is_tried_again(&self) {
        let one = self.site.client(0);
        let answered = async {
            while one.call("volume.list", json!({})).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), answered).await.unwrap();
    }

    fn secret_file(&self) -> PathBuf {
        self.site.pve().join("priv/storage/san1.sanbridge")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_lives_through_the_plugin() {
    let site = DaemonSite::started(2).await.unwrap();
    let before = site.site.audit();
    let mut section = options();
    section.insert("sanbridge-password".to_owned(), PASSWORD.into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("perl/walk.pl");
    let mut perl = program("/usr/bin/perl")
        .args([Path::new("-T"), &script, site.socket(0), site.socket(1)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = perl.stdin.take().unwrap();
    let mut errors = perl.stderr.take().unwrap();
    let errors = tokio::spawn(async move {
        let mut text = String::new();
        errors.read_to_string(&mut text).await.map(|_| text)
    });
    let mut output = BufReader::new(perl.stdout.take().unwrap()).lines();
    let mut walk = Walk { site, before };
    let section = serde_json::to_string(&section).unwrap();
    input.write_all(format!("{section}\n").as_bytes()).await.unwrap();
    let (mut text, mut places) = (String::new(), 0);
    while let Some(line) = output.next_line().await.unwrap() {
        if let Some(place) = line.strip_prefix("@ ") {
            walk.at(place).await;
            places += 1;
            input.write_all(b"on\n").await.unwrap();
        } else {
            text.push_str(&line);
            text.push('\n');
        }
    }
    let ended = perl.wait().await.unwrap();
    let errors = errors.await.unwrap().unwrap();
    assert!(ended.success() && places == 15, "{ended}, {places} places\n{text}\n{errors}");
    assert_eq!(errors, "", "{text}");
    let findings = said(PASSWORD, &[("the test's output", &text), ("the test's errors", &errors)]);
    assert!(findings.is_empty(), "{findings}");
    assert!(walk.site.site.array.luns().iter().all(|it| it.svm == SVM));
}
