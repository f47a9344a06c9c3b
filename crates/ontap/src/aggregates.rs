//! The aggregates of a storage: whether they can hold its volumes, what room they have, and which one a new volume goes to.

use std::cmp::Reverse;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use san_core::{ByteSize, Capacity, Cx, EffectState, Error, ErrorKind, Result};
use san_rest::Request;

use crate::array::Ontap;
use crate::assigned;
use crate::client::Api;
use crate::config::{OntapConfig, Tiering};
use crate::convert::inconsistent;
use crate::probe::Problems;
use crate::release::Release;
use crate::wire;

/// One part in so many of an aggregate is kept free where another one has more: keeping a guest's disks apart is not
/// worth a full aggregate.
const TIGHT: u64 = 20;

/// What is known of an aggregate, as of its last answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) total: u64,
    pub(crate) available: u64,
    /// Whether all that is in it is encrypted (NAE).
    pub(crate) encrypts: bool,
}

/// What the array tells of the aggregates by name, in the order of the settings.
enum Told {
    /// `None` where there is none of that name.
    All(Vec<(String, Option<wire::Aggregate>)>),
    /// That the account may not see them; the refusal. To one of an SVM it can also be as if there were none at all.
    Nothing(Option<Error>),
}

async fn read(cx: &Cx, api: &Api, config: &OntapConfig) -> Result<Told> {
    let mut fields = "name,state,node.name,space.block_storage.size,space.block_storage.available,\
                      data_encryption.software_encryption_enabled"
        .to_owned();
    if needs_cloud_tier(config) {
        fields.push_str(",cloud_storage.stores");
    }
    let request = Request::get("/api/storage/aggregates", &[])
        .query("name", config.aggregates.join("|"))
        .query("fields", fields);
    let mut found: Vec<wire::Aggregate> = match api.list(cx, request).await {
        Ok(found) if found.is_empty() => return Ok(Told::Nothing(None)),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(Told::Nothing(Some(error))),
        other => other?,
    };
    let take = |name: &String| {
        let at = found.iter().position(|it| it.name == *name);
        (name.clone(), at.map(|it| found.swap_remove(it)))
    };
    Ok(Told::All(config.aggregates.iter().map(take).collect()))
}

fn needs_cloud_tier(config: &OntapConfig) -> bool {
    config.volumes.tiering.is_some_and(|it| it != Tiering::Off)
}

fn room(aggregate: wire::Aggregate) -> Result<Room> {
    let space =
        aggregate.space.ok_or_else(|| inconsistent("the array does not tell the aggregate's room"))?;
    Ok(Room {
        name: aggregate.name,
        node: aggregate.node.name.unwrap_or_default(),
        total: space.block_storage.size,
        available: space.block_storage.available,
        encrypts: aggregate.data_encryption.software_encryption_enabled,
    })
}

/// Names every aggregate that is missing or cannot serve; the rooms of the others.
pub(crate) async fn check(
    cx: &Cx,
    api: &Api,
    config: &OntapConfig,
    release: Release,
    svm: Option<&wire::Svm>,
    problems: &mut Problems,
) -> Result<Vec<Room>> {
    let names = || config.aggregates.join(", ");
    let refusal = match read(cx, api, config).await {
        Ok(Told::All(all)) => return check_all(config, all, problems),
        Ok(Told::Nothing(refusal)) => refusal,
        Err(error) => {
            problems.keep(error, format!("cannot look up the aggregate {}", names()))?;
            return Ok(Vec::new());
        }
    };
    let assigned = match svm {
        Some(svm) => assigned::read(cx, api, config, release, &svm.uuid).await,
        None => Ok(config.aggregates.iter().map(|it| (it.clone(), None)).collect()),
    };
    let assigned = match assigned {
        Ok(assigned) => assigned,
        Err(error) => {
            problems.keep(error, format!("cannot look up the room in the aggregate {}", names()))?;
            return Ok(Vec::new());
        }
    };
    let mut rooms = Vec::new();
    for (name, room) in assigned {
        match (room, &refusal) {
            (Some(room), _) => rooms.push(room),
            (None, Some(refusal)) => problems.push(not_assigned(&name, refusal.clone())),
            (None, None) => problems.push(missing(&name)),
        }
    }
    Ok(rooms)
}

fn check_all(
    config: &OntapConfig,
    all: Vec<(String, Option<wire::Aggregate>)>,
    problems: &mut Problems,
) -> Result<Vec<Room>> {
    let mut rooms = Vec::new();
    for (name, found) in all {
        let Some(it) = found else {
            problems.push(missing(&name));
            continue;
        };
        let state = it.state.as_deref().unwrap_or("unknown");
        if state != "online" {
            let message = format!("the aggregate {name} is {state}");
            problems.add(ErrorKind::Unavailable, message, "bring it online");
        }
        if needs_cloud_tier(config) && it.cloud_storage.stores.is_empty() {
            let message = format!("the aggregate {name} has no cloud tier for the tiering policy");
            problems.add(
                ErrorKind::NotFound,
                message,
                "attach an object store to it (FabricPool), or leave the tiering policy out",
            );
        }
        rooms.push(room(it)?);
    }
    Ok(rooms)
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no aggregate {name}"))
        .with_remedy("name an existing aggregate (on the array: storage aggregate show)")
}

fn not_assigned(name: &str, refusal: Error) -> Error {
    let message = format!("the account sees no aggregates, and {name} is not assigned to the SVM");
    let remedy = "assign it (on the cluster: vserver modify -aggr-list), or let the account read \
                  /api/storage/aggregates";
    Error::new(ErrorKind::PermissionDenied, message).with_remedy(remedy).caused_by(refusal)
}

/// The order in which aggregates are tried for a volume that takes `needed` bytes at once: those with room enough; of these
/// the ones that are not nearly full, that hold nothing it should be apart from, whose node does not, and that have most
/// room.
fn ranked(rooms: &[Room], needed: u64, apart_from: &[String]) -> Vec<Room> {
    let node_of = |name: &String| rooms.iter().find(|it| it.name == *name).map(|it| it.node.as_str());
    let order = |it: &Room| {
        let is_tight = it.available.saturating_sub(needed) < it.total / TIGHT;
        let beside = apart_from.iter().filter(|name| **name == it.name).count();
        let behind = apart_from.iter().filter(|name| node_of(name) == Some(&it.node)).count();
        (is_tight, beside, behind, Reverse(it.available))
    };
    let mut fit: Vec<Room> = rooms.iter().filter(|it| it.available >= needed).cloned().collect();
    fit.sort_by_key(order);
    fit
}

impl Ontap {
    pub(crate) fn keep_rooms(&self, rooms: Vec<Room>) {
        *self.rooms.lock().unwrap_or_else(PoisonError::into_inner) = rooms;
    }

    fn rooms(&self) -> Vec<Room> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of an aggregate of this storage.
    pub(crate) fn room_of(&self, aggregate: &str) -> Option<Room> {
        self.rooms().into_iter().find(|it| it.name == aggregate)
    }

    /// An aggregate was found full, or so much was taken of it.
    pub(crate) fn note_taken(&self, aggregate: &str, taken: u64) {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        for room in rooms.iter_mut().filter(|it| it.name == aggregate) {
            room.available = room.available.saturating_sub(taken);
        }
    }

    pub(crate) async fn read_capacity(&self, cx: &Cx) -> Result<Capacity> {
        let rooms = self.read_rooms(cx).await?;
        let capacity = Capacity {
            total: ByteSize::from_bytes(rooms.iter().map(|it| it.total).sum()),
            available: ByteSize::from_bytes(rooms.iter().map(|it| it.available).sum()),
        };
        self.keep_rooms(rooms);
        Ok(capacity)
    }

    async fn read_rooms(&self, cx: &Cx) -> Result<Vec<Room>> {
        let told = if self.sees_aggregates.load(Ordering::Relaxed) {
            read(cx, &self.api, &self.config).await?
        } else {
            Told::Nothing(None)
        };
        let mut rooms = Vec::new();
        match told {
            Told::All(all) => {
                for (name, found) in all {
                    rooms.push(room(found.ok_or_else(|| missing(&name))?)?);
                }
            }
            Told::Nothing(refusal) => {
                let release = self.release();
                for (name, found) in assigned::read(cx, &self.api, &self.config, release, &self.svm).await? {
                    let unusable = || match &refusal {
                        Some(refusal) => not_assigned(&name, refusal.clone()),
                        None => missing(&name),
                    };
                    rooms.push(found.ok_or_else(unusable)?);
                }
                self.sees_aggregates.store(false, Ordering::Relaxed);
            }
        }
        Ok(rooms)
    }

    /// The aggregates to try for a volume that takes `needed` bytes at once, best first; at least one. What is known of
    /// them may be a minute old, so the array is asked before anything is refused.
    ///
    /// # Errors
    /// `OutOfSpace` with the room of each where none has enough; nothing was done then.
    pub(crate) async fn places(&self, cx: &Cx, needed: u64, apart_from: &[String]) -> Result<Vec<String>> {
        if let ([only], 0) = (self.config.aggregates.as_slice(), needed) {
            return Ok(vec![only.clone()]);
        }
        let mut places = ranked(&self.rooms(), needed, apart_from);
        if places.is_empty() {
            self.read_capacity(cx).await.map_err(|error| error.with_effect(EffectState::None))?;
            places = ranked(&self.rooms(), needed, apart_from);
        }
        if !places.is_empty() {
            return Ok(places.into_iter().map(|it| it.name).collect());
        }
        let free: Vec<String> = self
            .rooms()
            .into_iter()
            .map(|it| format!("{} has {}", it.name, ByteSize::from_bytes(it.available)))
            .collect();
        let needed = ByteSize::from_bytes(needed);
        let message = format!("{needed} are to be reserved, and no aggregate has them: {}", free.join(", "));
        Err(Error::new(ErrorKind::OutOfSpace, message)
            .with_effect(EffectState::None)
            .with_remedy("free space in an aggregate, add disks to it or add an aggregate to the storage"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str, node: &str, available: u64) -> Room {
        Room { name: name.into(), node: node.into(), total: 1000, available, encrypts: false }
    }

    fn order(rooms: &[Room], needed: u64, apart_from: &[&str]) -> Vec<String> {
        let apart_from: Vec<String> = apart_from.iter().map(|it| (*it).to_owned()).collect();
        ranked(rooms, needed, &apart_from).into_iter().map(|it| it.name).collect()
    }

    #[test]
    fn room_counts_first_then_distance_then_most_room() {
        let rooms = [room("a1", "n1", 500), room("a2", "n1", 800), room("b1", "n2", 600)];
        assert_eq!(order(&rooms, 0, &[]), ["a2", "b1", "a1"]);
        // Another node before another aggregate of the same node.
        assert_eq!(order(&rooms, 0, &["a2"]), ["b1", "a1", "a2"]);
        assert_eq!(order(&rooms, 0, &["a2", "b1"]), ["a1", "a2", "b1"]);
        assert_eq!(order(&rooms, 0, &["a2", "b1", "a1"]), ["b1", "a2", "a1"]);
        assert_eq!(order(&rooms, 700, &["a2"]), ["a2"]);
        assert_eq!(order(&rooms, 801, &[]), [] as [&str; 0]);
        // What is not ours holds nothing of ours apart.
        assert_eq!(order(&rooms, 0, &["elsewhere"]), ["a2", "b1", "a1"]);
    }

    #[test]
    fn nothing_is_kept_apart_at_the_price_of_a_full_aggregate() {
        let rooms = [room("a1", "n1", 500), room("b1", "n2", 40)];
        assert_eq!(order(&rooms, 0, &["a1"]), ["a1", "b1"]);
    }
}
