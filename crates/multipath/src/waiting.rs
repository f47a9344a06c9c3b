//! Devices without a usable path: who has none, whether the array denies them, and whether their input and output waits.

use std::collections::HashMap;

use async_trait::async_trait;
use futures_util::future::join_all;
use san_core::{Cx, Error, ErrorKind, Identity, KnownLegs, PathNews, PathWatch, Paths, Result, Wwid};
use san_host::{Guard, Uevent, Uevents};

use crate::Multipath;
use crate::client::Change;
use crate::leg::State;
use crate::wire::{Reason, Reply};

impl Multipath {
    pub(crate) async fn paths_of(&self, cx: &Cx, of: &[Identity]) -> Result<Vec<Option<Paths>>> {
        let lines = self.daemon.maps(cx).await?;
        let known: HashMap<&str, Paths> = lines
            .iter()
            .map(|it| (it.wwid.as_str(), Paths { usable: it.usable, waiting: it.waiting }))
            .collect();
        Ok(of.iter().map(|it| known.get(it.wwid.multipath_name().as_str()).copied()).collect())
    }

    pub(crate) async fn are_denied(&self, cx: &Cx, known: &KnownLegs) -> Result<bool> {
        let answers = join_all(known.addresses.iter().map(|address| async {
            match self.look(cx, *address).await? {
                // What is not running would not answer, and its road says nothing of the volume.
                Some(leg) if leg.state == State::Running => Ok(self.denies(cx, &leg, &known.identity).await),
                _ => Ok(None),
            }
        }))
        .await
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
        Ok(answers.contains(&Some(true)) && !answers.contains(&Some(false)))
    }

    /// Asks multipathd for a change of what becomes of waiting input and output. A map that is gone has none.
    pub(crate) async fn change_waiting(&self, cx: &Cx, change: Change, identity: &Identity) -> Result<()> {
        let name = identity.wwid.multipath_name();
        match self.daemon.change(cx, change, &name).await? {
            Reply::Ok | Reply::Fail(Reason::NotFound) => Ok(()),
            other if self.find_map(cx, &identity.wwid).await?.is_some() => {
                let message = format!("multipathd refuses it: {}", other.describe());
                Err(Error::new(ErrorKind::Unavailable, message).on(identity))
            }
            _ => Ok(()),
        }
    }
}

/// device-mapper's events.
#[derive(Debug)]
pub(crate) struct Watch {
    events: Uevents,
    // As long as the host is there, its events do not end.
    _guard: Guard,
}

impl Watch {
    pub(crate) fn new(guard: Guard) -> Self {
        Self { events: guard.uevents(), _guard: guard }
    }
}

#[async_trait]
impl PathWatch for Watch {
    async fn next(&mut self) -> Option<PathNews> {
        loop {
            // `None`: the kernel or the channel dropped some.
            let event = self.events.next().await?;
            if let Some(news) = news_of(&event) {
                return Some(news);
            }
        }
    }
}

/// The news in an event of device-mapper's (`dm-uevent.c` in Linux): one is sent for each path that fails or is reinstated,
/// with the number of paths that are valid afterwards.
fn news_of(event: &Uevent) -> Option<PathNews> {
    let key = |name: &str| event.keys.get(name).map(String::as_str);
    let usable: u32 = key("DM_NR_VALID_PATHS")?.parse().ok()?;
    let is_news = match key("DM_ACTION")? {
        "PATH_FAILED" => usable == 0,
        "PATH_REINSTATED" => usable == 1,
        _ => false,
    };
    let wwid: Wwid = key("DM_UUID")?.strip_prefix("mpath-")?.parse().ok()?;
    is_news.then_some(PathNews { wwid, usable })
}
