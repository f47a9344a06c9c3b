//! Release requests: a node asks another one's daemon to detach a volume that nobody uses there.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use san_core::{Cx, Deadline, Error, ErrorKind, NodeName, OperationId, Owner, Result, Volume, VolumeKey};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::clock::unix_now;
use crate::cluster::Cluster;
use crate::node::{Inner, Node};
use crate::plan::{Outcome, Request};
use crate::reconciled::Repair;
use crate::san::San;
use crate::site::{Mappings, Other, refuse_mapped_elsewhere};
use crate::store::Folder;

/// How long whoever asks waits for an answer.
const WAIT: Duration = Duration::from_secs(5);
/// How often whoever asks looks for the answer.
const LOOK: Duration = Duration::from_millis(250);
/// How often a daemon looks for requests: the folder tells nobody about changes other nodes make.
const POLL: Duration = Duration::from_secs(1);
/// How long a daemon that is asked may take to detach it, and to say why it does not: with [`POLL`] and [`LOOK`] before and
/// after them, less than [`WAIT`].
const TAKE_DOWN: Duration = Duration::from_secs(3);
const SAY: Duration = Duration::from_millis(500);
/// Nodes may disagree about the time by this much before a request counts as given up.
const SKEW: Duration = Duration::from_secs(30);
/// A request is withdrawn within this, whatever became of its operation.
const WITHDRAW: Duration = Duration::from_secs(10);

/// What one node asks of another one's daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// The volume to be detached there.
    pub owner: Owner,
    /// The operation that needs it.
    pub operation: OperationId,
    /// The node that asks.
    pub from: NodeName,
    /// When it waits no longer, in seconds since 1970.
    pub until: u64,
    /// What became of it.
    #[serde(default)]
    pub answer: Option<ReleaseAnswer>,
}

/// What the daemon that was asked says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseAnswer {
    /// It is not attached there any more.
    Released,
    /// It stays; why.
    Kept(String),
}

/// The requests of a cluster, in a folder that all nodes share.
///
/// ```text
/// <folder>/<node>/<operation>   asked of that node's daemon; the answer is written into it
/// ```
///
/// Whoever asks removes the file. One whose asker died is removed by the asker's next start, or, long after its time, by
/// the node it was asked of.
#[derive(Debug)]
pub(crate) struct Requests {
    folder: Folder,
    node: NodeName,
}

impl Requests {
    pub(crate) fn at(folder: Folder, node: NodeName) -> Self {
        Self { folder, node }
    }

    fn of(&self, node: &NodeName) -> Folder {
        self.folder.below(node.as_str())
    }

    pub(crate) async fn ask(&self, cx: &Cx, of: &NodeName, owner: &Owner, until: Deadline) -> Result<()> {
        let request = ReleaseRequest {
            owner: owner.clone(),
            operation: cx.operation(),
            from: self.node.clone(),
            // The second that has begun counts.
            until: unix_now() + until.remaining().as_secs() + 1,
            answer: None,
        };
        self.of(of).write(cx, &cx.operation().to_string(), &request).await
    }

    pub(crate) async fn answer(&self, cx: &Cx, of: &NodeName) -> Result<Option<ReleaseAnswer>> {
        let file = self.of(of).read::<ReleaseRequest>(&cx.operation().to_string()).await?;
        Ok(file.and_then(|it| it.answer))
    }

    pub(crate) async fn withdraw(&self, cx: &Cx, of: &NodeName) -> Result<()> {
        self.of(of).remove(cx, &cx.operation().to_string()).await?;
        self.of(of).prune(cx).await
    }

    /// What this node is asked for and has not answered. What nobody can wait for any more is removed.
    pub(crate) async fn pending(&self, cx: &Cx) -> Result<Vec<ReleaseRequest>> {
        let folder = self.of(&self.node);
        let mut pending = Vec::new();
        for name in folder.names().await? {
            // One that cannot be read was written by another version, which removes it, too.
            let Ok(Some(request)) = folder.read::<ReleaseRequest>(&name).await else { continue };
            if request.until + SKEW.as_secs() < unix_now() {
                folder.remove(cx, &name).await?;
                folder.prune(cx).await?;
            } else if request.answer.is_none() {
                pending.push(request);
            }
        }
        Ok(pending)
    }

    /// Writes the answer into a request that still stands.
    pub(crate) async fn reply(&self, cx: &Cx, request: &ReleaseRequest, answer: ReleaseAnswer) -> Result<()> {
        let (folder, name) = (self.of(&self.node), request.operation.to_string());
        if folder.read::<ReleaseRequest>(&name).await?.as_ref() == Some(request) {
            let answered = ReleaseRequest { answer: Some(answer), ..request.clone() };
            folder.write(cx, &name, &answered).await?;
        }
        Ok(())
    }

    /// Removes what a daemon of `from` asked for that does not run any more, for volumes of `space`.
    pub(crate) async fn withdraw_leftovers(&self, cx: &Cx, space: &str, from: &NodeName) -> Result<()> {
        for asked in self.folder.names().await? {
            let folder = self.folder.below(&asked);
            for name in folder.names().await? {
                let Ok(Some(request)) = folder.read::<ReleaseRequest>(&name).await else { continue };
                if request.from == *from && request.owner.space() == space {
                    folder.remove(cx, &name).await?;
                }
            }
            folder.prune(cx).await?;
        }
        Ok(())
    }
}

/// What became of asking one node.
#[derive(Debug)]
pub(crate) enum Held {
    /// Its daemon keeps it; why.
    Kept(NodeName, String),
    /// Its daemon says nothing.
    Silent(NodeName),
}

impl Held {
    pub(crate) fn refusal(&self, owner: &Owner) -> Error {
        let (message, remedy) = match self {
            Self::Kept(node, why) => (
                format!("it is attached on node {node}, which keeps it: {why}"),
                "end what uses it there, and try again".to_owned(),
            ),
            Self::Silent(node) => (
                format!("it is attached on node {node}, whose daemon does not answer"),
                format!(
                    "start sanbridge on {node}; if that node is gone for ever, run `sanbridge node remove {node}`"
                ),
            ),
        };
        Error::new(ErrorKind::InUse, message).on(owner.object()).with_remedy(remedy)
    }
}

impl San {
    /// Asks the daemons of `nodes`, all at once, to detach a volume that nobody uses there, and waits for at most 5 s.
    /// Returns those that still have it, as far as they say.
    pub(crate) async fn ask_release(&self, cx: &Cx, owner: &Owner, nodes: &[NodeName]) -> Result<Vec<Held>> {
        let wait = cx.at_most(WAIT);
        let asked = self.ask_and_wait(&wait, owner, nodes).await;
        // Nothing of it stays, whatever became of the operation.
        let after = cx.with_deadline(Deadline::after(WITHDRAW));
        for node in nodes {
            self.cluster().withdraw_release(&after, node).await?;
        }
        asked
    }

    async fn ask_and_wait(&self, wait: &Cx, owner: &Owner, nodes: &[NodeName]) -> Result<Vec<Held>> {
        for node in nodes {
            tracing::info!(volume = %owner, %node, "asking the node to release it");
            self.cluster().ask_release(wait, node, owner, wait.deadline()).await?;
        }
        let mut waiting = nodes.to_vec();
        let mut held = Vec::new();
        while !waiting.is_empty() && wait.deadline().remaining() > LOOK {
            tokio::time::sleep(LOOK).await;
            let mut silent = Vec::new();
            for node in waiting {
                match self.cluster().release_answer(wait, &node).await? {
                    None => silent.push(node),
                    Some(ReleaseAnswer::Released) => {}
                    Some(ReleaseAnswer::Kept(why)) => held.push(Held::Kept(node, why)),
                }
            }
            waiting = silent;
        }
        held.extend(waiting.into_iter().map(Held::Silent));
        Ok(held)
    }

    /// Has the other nodes release the volume. The volume as it is then, where anybody had to be asked, or which node keeps
    /// it.
    ///
    /// # Errors
    /// `InUse` where a host has it that is no node of this cluster.
    pub(crate) async fn release_elsewhere(
        &self,
        cx: &Cx,
        owner: &Owner,
        volume: &Volume,
        mappings: &Mappings,
    ) -> Result<std::result::Result<Option<Volume>, Held>> {
        let foreign: Vec<Other> =
            mappings.others.iter().filter(|(_, node)| node.is_none()).cloned().collect();
        refuse_mapped_elsewhere(owner, &foreign)?;
        let mut nodes: Vec<NodeName> = mappings.others.iter().filter_map(|(_, node)| node.clone()).collect();
        if mappings.shared.is_some() {
            // The array does not know which of them have it.
            nodes.extend(self.attached_elsewhere(cx, owner).await?);
        }
        if nodes.is_empty() {
            return Ok(Ok(None));
        }
        if let Some(held) = self.ask_release(cx, owner, &nodes).await?.into_iter().next() {
            return Ok(Err(held));
        }
        // Only the array's word counts, and where it has none, the notes.
        let key = VolumeKey::Name(volume.name.clone());
        let now = self.array().volume(cx, &key).await?.filter(|it| it.id == volume.id);
        let now = now.ok_or_else(|| self.no_such(owner))?;
        self.require_nowhere_else(cx, owner, &self.sorted_mappings(cx, &now).await?).await?;
        Ok(Ok(Some(now)))
    }

    /// Refuses what another host sees, or where all nodes see it, what another node has.
    pub(crate) async fn require_nowhere_else(
        &self,
        cx: &Cx,
        owner: &Owner,
        mappings: &Mappings,
    ) -> Result<()> {
        refuse_mapped_elsewhere(owner, &mappings.others)?;
        if mappings.shared.is_none() {
            return Ok(());
        }
        match self.attached_elsewhere(cx, owner).await?.into_iter().next() {
            Some(node) => Err(Held::Kept(node, "it has it still, or again".to_owned()).refusal(owner)),
            None => Ok(()),
        }
    }

    /// Does what another node asks for: detaches the volume unless somebody needs it here.
    async fn release(&self, request: &ReleaseRequest) -> ReleaseAnswer {
        let object = request.owner.object().to_owned();
        let request = Request::Yield { object };
        let ticket = self.submit(OperationId::random(), request, Deadline::after(TAKE_DOWN));
        match ticket.wait(Deadline::after(TAKE_DOWN + SAY)).await {
            Ok(Outcome::Detached { pending: Some(why) }) => {
                ReleaseAnswer::Kept(format!("the array has not ended its mapping yet: {why}"))
            }
            Ok(_) => ReleaseAnswer::Released,
            Err(error) => ReleaseAnswer::Kept(error.chain().to_string()),
        }
    }
}

impl Node {
    /// Answers what other nodes' daemons ask of this one, until the node is dropped. `find` knows the storages that are
    /// ready. Called once.
    pub fn serve_releases(
        &self,
        cluster: Arc<dyn Cluster>,
        find: impl Fn(&str) -> Option<San> + Send + Sync + 'static,
    ) {
        let server = Server { node: Arc::downgrade(&self.inner), cluster, known: HashSet::new() };
        self.inner.spawn_endless(server.run(find));
    }
}

/// Answers requests; each once.
#[derive(Debug)]
struct Server {
    node: Weak<Inner>,
    cluster: Arc<dyn Cluster>,
    known: HashSet<OperationId>,
}

impl Server {
    async fn run(mut self, find: impl Fn(&str) -> Option<San>) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut under_way: JoinSet<OperationId> = JoinSet::new();
        let mut is_readable = true;
        loop {
            ticks.tick().await;
            while let Some(ended) = under_way.try_join_next() {
                self.known.retain(|it| !ended.as_ref().is_ok_and(|ended| ended == it));
            }
            let Some(node) = self.node.upgrade() else { return };
            let cx = node.cx(Deadline::after(WITHDRAW), OperationId::random());
            drop(node);
            let asked = self.cluster.release_requests(&cx).await;
            if let (Err(error), true) = (&asked, is_readable) {
                tracing::warn!(error = %error.chain(), "what other nodes ask for is not known");
            }
            is_readable = asked.is_ok();
            for request in asked.unwrap_or_default() {
                // Of a storage that is not ready yet nobody can say anything: whoever asks sees a daemon that is silent.
                let Some(san) = find(request.owner.space()) else { continue };
                if self.known.insert(request.operation) {
                    under_way.spawn(answer(san, request));
                }
            }
        }
    }
}

async fn answer(san: San, request: ReleaseRequest) -> OperationId {
    let was_here = san.attachments().get(&request.owner).await.is_ok_and(|it| it.is_some());
    let answer = san.release(&request).await;
    tracing::info!(volume = %request.owner, from = %request.from, ?answer, "a node asked to release it");
    if was_here && answer == ReleaseAnswer::Released {
        san.count(Repair::Released, request.owner.object());
    }
    let cx = san.cx(Deadline::after(WITHDRAW), OperationId::random());
    if let Err(error) = san.cluster().answer_release(&cx, &request, answer).await {
        tracing::warn!(error = %error.chain(), "an answer could not be given");
    }
    request.operation
}

#[cfg(test)]
mod tests {
    use san_core::Effects;

    use super::*;

    fn requests(folder: &tempfile::TempDir, node: &str) -> Requests {
        Requests::at(Folder::at(folder.path()), node.parse().unwrap())
    }

    fn cx() -> Cx {
        Cx::new(Deadline::after(WAIT), OperationId::random(), Effects::unobserved())
    }

    fn files(folder: &tempfile::TempDir) -> usize {
        let entries = std::fs::read_dir(folder.path()).unwrap().flatten();
        entries.filter_map(|it| std::fs::read_dir(it.path()).ok()).map(Iterator::count).sum()
    }

    #[tokio::test]
    async fn a_request_is_answered_once_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (requests(&folder, "node1"), requests(&folder, "node2"));
        let (owner, cx, two_name) = (Owner::new("r", "s", "o").unwrap(), cx(), two.node.clone());
        one.ask(&cx, &two_name, &owner, cx.deadline()).await.unwrap();
        assert!(one.pending(&cx).await.unwrap().is_empty(), "nobody asks the first node");
        let asked = two.pending(&cx).await.unwrap();
        assert_eq!(asked.len(), 1);
        assert_eq!(one.answer(&cx, &two_name).await.unwrap(), None);
        two.reply(&cx, &asked[0], ReleaseAnswer::Released).await.unwrap();
        assert!(two.pending(&cx).await.unwrap().is_empty(), "it is answered");
        assert_eq!(one.answer(&cx, &two_name).await.unwrap(), Some(ReleaseAnswer::Released));
        one.withdraw(&cx, &two_name).await.unwrap();
        // Nobody waits for a second answer.
        two.reply(&cx, &asked[0], ReleaseAnswer::Released).await.unwrap();
        assert_eq!(files(&folder), 0);
    }

    #[tokio::test]
    async fn what_a_dead_asker_left_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (requests(&folder, "node1"), requests(&folder, "node2"));
        let owner = Owner::new("r", "s", "o").unwrap();
        one.ask(&cx(), &two.node, &owner, Deadline::after(WAIT)).await.unwrap();
        one.withdraw_leftovers(&cx(), "other", &one.node).await.unwrap();
        two.withdraw_leftovers(&cx(), "s", &two.node).await.unwrap();
        assert_eq!(files(&folder), 1, "it is neither of that storage nor of that node");
        one.withdraw_leftovers(&cx(), "s", &one.node).await.unwrap();
        assert_eq!(files(&folder), 0);
        let old = ReleaseRequest {
            owner,
            operation: OperationId::random(),
            from: one.node.clone(),
            until: unix_now() - SKEW.as_secs() - 1,
            answer: None,
        };
        two.of(&two.node).write(&cx(), "old", &old).await.unwrap();
        assert!(two.pending(&cx()).await.unwrap().is_empty(), "nobody waits for it");
        assert_eq!(files(&folder), 0);
    }
}
