//! What people ask and order through `sanbridge`: the methods `admin.*` of the protocol. The answers' shapes are also what
//! `--json` prints.

pub(crate) mod check;
pub(crate) mod deleted;
pub(crate) mod node;
pub(crate) mod orphans;
pub(crate) mod policy;
pub(crate) mod split;
pub(crate) mod status;
pub(crate) mod storage;
pub(crate) mod volumes;

use std::sync::Arc;

use san_core::{Cx, Error, ErrorKind, Result};
use san_engine::Request;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::methods::{Reply, Running, no_method, params};
use crate::names::DiskName;
use crate::protocol::Frame;
use crate::server::Service;
use crate::storage::{Storage, Storages};
use orphans::Gone;

/// One storage, or all of this node.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    storage: Option<String>,
}

/// One volume, of a storage that need not be named where there is one only.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfVolume {
    storage: Option<String>,
    name: String,
}

/// A deleted volume, and which one where several had its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Undelete {
    storage: Option<String>,
    name: String,
    queued: Option<String>,
}

/// One volume, or all of one storage or of all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    storage: Option<String>,
    name: Option<String>,
}

/// A storage that could not be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) storage: String,
    pub(crate) why: String,
    pub(crate) remedy: Option<String>,
}

/// Answers a method `admin.*`, or says which operation will.
pub(crate) async fn call(cx: &Cx, service: &Service, frame: &Frame) -> Result<Reply> {
    let Service { node, storages, members, peers, .. } = service;
    match frame.method.as_deref().unwrap_or_default() {
        "admin.status" => {
            let Of { storage } = params(frame)?;
            value(&status::gather(cx, node, storages, storage.as_deref()).await?)
        }
        "admin.volumes" => {
            let Of { storage } = params(frame)?;
            value(&volumes::list(cx, Ready::of(cx, storages, storage.as_deref()).await?).await?)
        }
        "admin.snapshots" => {
            let OfVolume { storage, name } = params(frame)?;
            let storage = one(cx, storages, storage.as_deref()).await?;
            value(&volumes::snapshots(cx, &storage, &name).await?)
        }
        "admin.node.remove" => value(&node::remove(cx, storages, members, peers, params(frame)?).await?),
        "admin.node.replace" => {
            value(&node::replace(cx, node, storages, members, peers, params(frame)?).await?)
        }
        "admin.storage.restore" => value(&storage::restore(cx, storages.sections(), params(frame)?).await?),
        "admin.check" => {
            let Of { storage } = params(frame)?;
            value(&check::check(cx, service, storage.as_deref()).await?)
        }
        "admin.orphans" => {
            let Of { storage } = params(frame)?;
            let gone = Gone::of(members, cx, node.name()).await;
            value(&orphans::list(cx, Ready::of(cx, storages, storage.as_deref()).await?, &gone).await?)
        }
        "admin.orphans.remove" => {
            let OfVolume { storage, name } = params(frame)?;
            let storage = one(cx, storages, storage.as_deref()).await?;
            let gone = Gone::of(members, cx, node.name()).await;
            let request = orphans::removal(cx, &storage, &name, &gone).await?;
            Ok(Reply::Operation(Box::new(Running::begin(cx, storage, request))))
        }
        "admin.deleted" => {
            let Of { storage } = params(frame)?;
            value(&deleted::list(cx, Ready::of(cx, storages, storage.as_deref()).await?).await?)
        }
        "admin.undelete" => {
            let Undelete { storage, name, queued } = params(frame)?;
            let storage = one(cx, storages, storage.as_deref()).await?;
            let object = DiskName::parse(&name)?.object;
            Ok(Reply::Operation(Box::new(Running::begin(cx, storage, Request::Undelete { object, queued }))))
        }
        "admin.split" => {
            let OfVolume { storage, name } = params(frame)?;
            let storage = one(cx, storages, storage.as_deref()).await?;
            let object = DiskName::parse(&name)?.object;
            Ok(Reply::Operation(Box::new(Running::begin(cx, storage, Request::Split { object }))))
        }
        "admin.lineage" => {
            let OfVolume { storage, name } = params(frame)?;
            let storage = one(cx, storages, storage.as_deref()).await?;
            value(&split::lineage(cx, &storage, &name).await?)
        }
        "admin.policy" => {
            let Policy { storage, name } = params(frame)?;
            let ready = Ready::of(cx, storages, storage.as_deref()).await?;
            value(&policy::review(cx, ready, name.as_deref()).await?)
        }
        "admin.policy-apply" => {
            let OfVolume { storage, name } = params(frame)?;
            let storage = one(cx, storages, storage.as_deref()).await?;
            let object = DiskName::parse(&name)?.object;
            Ok(Reply::Operation(Box::new(Running::begin(cx, storage, Request::Conform { object }))))
        }
        other => Err(no_method(other)),
    }
}

fn value(answer: &impl Serialize) -> Result<Reply> {
    let value: Value = serde_json::to_value(answer)
        .map_err(|error| Error::new(ErrorKind::Internal, "an answer cannot be written").caused_by(error))?;
    Ok(Reply::Value(value))
}

/// The storage that is meant.
async fn one(cx: &Cx, storages: &Storages, id: Option<&str>) -> Result<Arc<Storage>> {
    if let Some(id) = id {
        return storages.by_id(cx, id).await;
    }
    let known: Vec<String> = storages.known(cx).await?.into_keys().collect();
    match known.as_slice() {
        [only] => storages.by_id(cx, only).await,
        [] => Err(Error::new(ErrorKind::NotFound, "this node serves no storage yet")),
        several => {
            Err(Error::new(ErrorKind::InvalidInput, "it is not said which storage is meant").with_remedy(
                format!("name one of {} with --storage, or as <storage>:<volume>", several.join(", ")),
            ))
        }
    }
}

/// The storages that are to be asked.
pub(crate) enum Ready {
    /// The one that is meant: if it fails, that is the answer.
    One(Arc<Storage>),
    /// All that are ready, and the problems of those that are not.
    All(Vec<Arc<Storage>>, Vec<Problem>),
}

impl Ready {
    async fn of(cx: &Cx, storages: &Storages, id: Option<&str>) -> Result<Self> {
        if let Some(id) = id {
            return Ok(Self::One(storages.by_id(cx, id).await?));
        }
        let (mut ready, mut problems) = (Vec::new(), Vec::new());
        for (id, storage) in storages.known(cx).await? {
            match storage {
                Some(storage) => ready.push(storage),
                None => problems.extend(storages.by_id(cx, &id).await.err().map(|it| Problem::new(id, &it))),
            }
        }
        Ok(Self::All(ready, problems))
    }
}

impl Problem {
    fn new(storage: String, error: &Error) -> Self {
        Self { storage, why: error.chain().to_string(), remedy: error.remedy().map(str::to_owned) }
    }
}

/// Asks storages side by side: one sick array must not keep the others' answers back.
pub(crate) async fn side_by_side<T, Answer>(
    ready: Ready,
    ask: impl Fn(Arc<Storage>) -> Answer,
) -> Result<(Vec<T>, Vec<Problem>)>
where
    Answer: Future<Output = Result<T>>,
{
    let (storages, mut problems) = match ready {
        Ready::One(storage) => return Ok((vec![ask(storage).await?], Vec::new())),
        Ready::All(storages, problems) => (storages, problems),
    };
    let answers = futures_util::future::join_all(storages.iter().cloned().map(ask)).await;
    let mut done = Vec::new();
    for (storage, answer) in storages.iter().zip(answers) {
        match answer {
            Ok(it) => done.push(it),
            Err(error) => problems.push(Problem::new(storage.san.space().to_owned(), &error)),
        }
    }
    Ok((done, problems))
}
