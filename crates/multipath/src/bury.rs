//! Bury: after the array's unmap, the retired legs deleted and proved gone.

use std::path::Path;

use san_core::{Cx, Error, ErrorKind, Hctl, Result, Retired, Usage};

use crate::Multipath;
use crate::client::Change;
use crate::leg::{Present, Proof, State};
use crate::map::BLOCK;
use crate::retire::in_use;
use crate::usage::phrase;
use futures_util::future::join_all;

impl Multipath {
    pub(crate) async fn lay_down(&self, cx: &Cx, retired: &Retired) -> Result<()> {
        let identity = &retired.identity;
        if let Some(map) = self.find_map(cx, &identity.wwid).await? {
            // Something else made a map of the legs again. Unused, it goes as it went before.
            let tables = self.tables(cx).await?;
            if let Usage::InUse(users) = self.usage_of_map(cx, &map, &identity.wwid, &tables).await? {
                return Err(in_use(identity, &users));
            }
            self.remove_map(cx, identity).await?;
        }
        let buried = join_all(retired.legs.iter().map(|it| self.bury_leg(cx, retired, *it))).await;
        buried.into_iter().collect::<Result<Vec<()>>>()?;
        self.forget_paths(cx, retired).await?;
        for hctl in &retired.legs {
            if let Some(leg) = self.look(cx, *hctl).await?
                && self.is_ours_to_bury(cx, retired, &leg).await?
            {
                let message = "the leg came back after it was deleted: is the volume still mapped?";
                return Err(Error::new(ErrorKind::Conflict, message).on(leg.name()));
            }
        }
        match self.find_map(cx, &identity.wwid).await? {
            None => Ok(()),
            Some(map) => {
                let message = format!("a map of the volume came back as {}", map.kernel);
                Err(Error::new(ErrorKind::Conflict, message).on(identity))
            }
        }
    }

    async fn bury_leg(&self, cx: &Cx, retired: &Retired, hctl: Hctl) -> Result<()> {
        let Some(leg) = self.look(cx, hctl).await? else { return Ok(()) };
        if !self.is_ours_to_bury(cx, retired, &leg).await? {
            tracing::info!(leg = %leg.name(), "the address belongs to another volume now");
            return Ok(());
        }
        let mut users: Vec<_> = leg.holders.iter().cloned().map(san_core::Holder::Device).collect();
        users.extend(self.uses_of_leg(cx, &leg, &self.tables(cx).await?).await?);
        if !users.is_empty() {
            let message = format!("a retired leg is in use: {}", phrase(&users));
            return Err(Error::new(ErrorKind::InUse, message).on(leg.name()));
        }
        // A bounce of the session sets an offline leg running; offline, its deletion cannot wait for an answer.
        self.silence(cx, &[hctl]).await?;
        self.delete(cx, hctl).await
    }

    /// Whether the kernel's object at the address is the one that was retired. It is told by what it was made for: the
    /// unit behind it may be another one by now, and the object of that one is not ours.
    async fn is_ours_to_bury(&self, cx: &Cx, retired: &Retired, leg: &Present) -> Result<bool> {
        let unknown = match self.remembered(cx, leg.hctl, &retired.identity).await? {
            Proof::Ours => return Ok(true),
            Proof::Other(_) => return Ok(false),
            Proof::Unknown(error) => error,
        };
        match leg.state {
            // Put so by us, at an address on record.
            State::Offline => Ok(true),
            State::Running => match self.prove(cx, leg, &retired.identity).await {
                Proof::Ours => Ok(true),
                Proof::Other(_) => Ok(false),
                Proof::Unknown(error) => Err(error),
            },
            State::Other(_) => Err(unknown.on(leg.name())),
        }
    }

    /// Makes multipathd forget paths that it still lists although their devices are gone.
    async fn forget_paths(&self, cx: &Cx, retired: &Retired) -> Result<()> {
        let name = retired.identity.wwid.multipath_name();
        let paths = match self.daemon.paths(cx).await {
            Ok(paths) => paths,
            // A daemon that does not run lists nothing, and asks the kernel when it starts.
            Err(error) if error.kind() == ErrorKind::Unavailable => return Ok(()),
            Err(error) => return Err(error),
        };
        for path in paths.iter().filter(|it| it.wwid == name) {
            let is_retired = retired.legs.iter().any(|it| it.to_string() == path.hctl);
            let block = Path::new(BLOCK).join(&path.name);
            // The name may be another device's by now.
            if is_retired && self.guard.list(cx, &block).await?.is_none() {
                self.daemon.change(cx, Change::DelPath, &path.name).await?;
            }
        }
        Ok(())
    }
}
