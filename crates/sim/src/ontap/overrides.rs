//! What tests bend on the data side and in lists: wrong identities on single paths, objects that lists do not show yet.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use uuid::Uuid;

use super::answer::Row;

/// What a path shows instead of the LUN's own identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// This serial number, and the NAA identifier made of it. Twelve bytes on a real array.
    Serial(Vec<u8>),
    /// No identity at all: empty serial number, NAA identifier all zeroes.
    Empty,
}

#[derive(Debug, Default)]
pub(crate) struct Overrides {
    /// By LUN, and by portal or on all of them.
    pub(crate) identities: BTreeMap<(Uuid, Option<SocketAddr>), Identity>,
    /// Paths of objects that lists leave out, and for how many reads.
    lagging: BTreeMap<String, u32>,
}

impl Overrides {
    /// Leaves an object out of the next lists.
    pub(crate) fn hide(&mut self, path: &str, reads: u32) {
        self.lagging.insert(path.to_owned(), reads);
    }

    /// The rows that lists show.
    pub(crate) fn lag(&mut self, rows: Vec<Row>) -> Vec<Row> {
        if self.lagging.is_empty() {
            return rows;
        }
        let shown = rows.into_iter().filter(|row| {
            let Some(left) = self.lagging.get_mut(&row.path) else { return true };
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.lagging.remove(&row.path);
            }
            false
        });
        shown.collect()
    }

    /// The identity shown for a LUN on a portal, when it is not its own.
    pub(crate) fn identity(&self, lun: Uuid, portal: SocketAddr) -> Option<&Identity> {
        let at = self.identities.get(&(lun, Some(portal)));
        at.or_else(|| self.identities.get(&(lun, None)))
    }
}
