//! The host never looks into a guest's disk: it is masked from before it can appear until nothing of it is left.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use san_core::{Effect, EffectObserver, Effects, Result};
use san_sim::host::SimNode;
use sanbridge_tests::site::Site;

use crate::support::{DISK, SIZE, assert_unchanged};

/// Notes whenever the disk could be seen, or a part of it is there, and it has no mask for its map and its legs.
#[derive(Debug)]
struct Unmasked {
    array: san_sim::ontap::OntapSim,
    host: SimNode,
    looked: Mutex<usize>,
    found: Mutex<Vec<String>>,
}

impl Unmasked {
    fn look(&self, effect: &Effect) {
        let seen = self.host.inventory();
        let is_mapped = self.array.maps().iter().any(|it| it.lun.contains("sb__"));
        if !is_mapped && seen.legs.is_empty() && seen.maps.is_empty() {
            return;
        }
        *self.looked.lock().unwrap() += 1;
        let of = |prefix: &str| {
            seen.masks.iter().any(|it| it.file_name().unwrap().to_string_lossy().starts_with(prefix))
        };
        if !of("naa.600a0980") || !of("mpath-3600a0980") {
            self.found.lock().unwrap().push(format!("{} {}", effect.verb, effect.subject));
        }
    }
}

#[async_trait]
impl EffectObserver for Unmasked {
    async fn before(&self, effect: &Effect) -> Result<()> {
        self.look(effect);
        Ok(())
    }

    async fn after(&self, effect: &Effect) -> Result<()> {
        self.look(effect);
        Ok(())
    }
}

fn watcher(site: &Site) -> Arc<Unmasked> {
    Arc::new(Unmasked {
        array: site.array.clone(),
        host: site.node(0).host.clone(),
        looked: Mutex::default(),
        found: Mutex::default(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_masked_from_before_it_is_mapped_until_its_last_leg_is_gone() {
    let mut site = Site::started(1).await.unwrap();
    let before = site.audit();
    site.kill(0);
    let watcher = watcher(&site);
    site.start(0, Effects::observed(Arc::clone(&watcher) as _)).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    node.attach(DISK).await.unwrap();
    let masks = node.host.inventory().masks;
    assert_eq!(masks.len(), 2, "{masks:?}");
    for mask in &masks {
        let deadline = san_core::Deadline::after(std::time::Duration::from_secs(1));
        let text = san_host::Host::read(&node.host, mask, 4096, deadline).await.unwrap().unwrap();
        let serial = String::from_utf8(text).unwrap();
        let name = mask.file_name().unwrap().to_str().unwrap();
        let digits = name.strip_prefix("naa.").or_else(|| name.strip_prefix("mpath-3")).unwrap();
        assert!(serial.contains(&format!("_SERIAL=3{digits}\n")), "udev finds nothing in it: {serial}");
    }
    node.attach(DISK).await.unwrap();
    node.detach(DISK).await.unwrap();
    assert!(node.host.inventory().masks.is_empty());
    node.delete(DISK).await.unwrap();
    assert!(*watcher.looked.lock().unwrap() > 10);
    let found = watcher.found.lock().unwrap().clone();
    assert!(found.is_empty(), "not masked at: {found:?}");
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn masks_outlive_a_reboot_and_are_put_back_where_somebody_removed_them() {
    let mut site = Site::started(1).await.unwrap();
    let before = site.audit();
    site.node(0).create(DISK, SIZE).await.unwrap();
    site.node(0).attach(DISK).await.unwrap();
    let masks = site.node(0).host.inventory().masks;
    site.kill(0);
    site.node(0).host.crash();
    site.node(0).host.boot();
    assert_eq!(site.node(0).host.inventory().masks, masks, "legs may be back before the daemon is");
    let deadline = san_core::Deadline::after(std::time::Duration::from_secs(5));
    for mask in &masks {
        assert!(san_host::Host::remove_file(&site.node(0).host, mask, deadline).await.unwrap());
    }
    site.start(0, Effects::unobserved()).await.unwrap();
    assert_eq!(site.node(0).host.inventory().masks, masks);
    site.node(0).attach(DISK).await.unwrap();
    site.node(0).detach(DISK).await.unwrap();
    site.node(0).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}
