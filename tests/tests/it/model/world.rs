//! The simulated site of a random life, and what its operations came to beside the reference.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use san_contract::audit::Audit;
use san_core::{ByteSize, Deadline, Effects, ErrorKind, OperationId, Result, SnapshotName, Visibility};
use san_engine::{Outcome, Request, Tie};
use sanbridge_tests::crash::Stopper;
use sanbridge_tests::site::{PATIENCE, Site};

use super::reference::{Content, Deletion, Model, Parent, disk, size_of, snapshot, template};
use super::{Act, Aim, DISKS, NODES, Op, Step};

/// Longer than a deletion that waits is left alone between two attempts.
const AGAIN: Duration = Duration::from_secs(400);

/// How often what happened.
pub(super) type Met = BTreeMap<&'static str, usize>;

pub(super) struct World {
    site: Site,
    model: Model,
    met: Met,
}

fn path(disk: usize) -> PathBuf {
    format!("/dev/sanbridge/san1/{}", super::reference::disk(disk)).into()
}

fn kind<T: std::fmt::Debug>(done: Result<T>) -> ErrorKind {
    done.unwrap_err().kind()
}

impl World {
    pub(super) async fn new(visibility: Visibility) -> Self {
        let site = Site::started_with(NODES, visibility).await.unwrap();
        Self { site, model: Model::default(), met: Met::new() }
    }

    /// Notes that something happened that is rare enough to be missed.
    fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    pub(super) fn audit(&self) -> Audit {
        self.site.audit()
    }

    pub(super) async fn act(&mut self, act: Act) {
        match act {
            Act::Do { step, aim } => self.step(self.aimed(step, aim)).await,
            Act::Cut { step, aim, at, side } => {
                let step = self.aimed(step, aim);
                let stopper = Stopper::new(Some((at, side)));
                if self.cut(step, &stopper).await {
                    self.meet("a cut");
                }
                self.learn(step).await;
                self.step(step).await;
            }
            Act::Write { node, disk } => self.write(node, disk).await,
            Act::Move { node, disk } => {
                self.site.guests.place(
                    &super::reference::disk(disk),
                    &self.site.node(node).name,
                    Tie::Configured,
                );
                self.model.homes.insert(disk, node);
            }
            Act::Restart { node } => self.start_again(node).await,
            Act::Reboot { node } => {
                self.site.kill(node);
                self.site.node(node).host.crash();
                self.site.node(node).host.boot();
                self.start_again(node).await;
            }
            Act::Purge => self.purge().await,
        }
    }

    fn aimed(&self, step: Step, aim: Aim) -> Step {
        match aim {
            Aim::Good => self.model.aimed(step),
            Aim::Blind => step,
        }
    }

    async fn start_again(&mut self, node: usize) {
        self.site.kill(node);
        assert_eq!(self.site.start(node, Effects::unobserved()).await.unwrap(), 0);
    }

    async fn step(&mut self, Step { node, disk, op }: Step) {
        match op {
            Op::Create => self.create(node, disk).await,
            Op::Delete => self.delete(node, disk).await,
            Op::Attach => self.attach(node, disk).await,
            Op::Detach => self.detach(node, disk).await,
            Op::Grow { mib } => self.grow(node, disk, ByteSize::from_mib(mib)).await,
            Op::Snapshot(name) => self.snapshot(node, disk, name).await,
            Op::DeleteSnapshot(name) => self.delete_snapshot(node, disk, name).await,
            Op::Rollback(name) => self.roll_back(node, disk, name).await,
            Op::Read(name) => self.read_snapshot(node, disk, name).await,
            Op::Clone { name, to } => {
                let source = self.model.disks.get(&disk);
                let of = source.and_then(|it| Some((*it.snapshots.get(&name)?, (it.id, Some(name)))));
                self.clone(node, of, Step { node, disk, op }.request(), to).await;
            }
            Op::Template => self.make_template(node, disk).await,
            Op::CloneTemplate { to } => {
                let of = self.model.templates.get(&disk).map(|it| (it.content, (it.id, None)));
                self.clone(node, of, Step { node, disk, op }.request(), to).await;
            }
            Op::DeleteTemplate => self.delete_template(node, disk).await,
        }
    }

    /// Asks for a step and lets the node's daemon end where `stopper` says, and come back. Whether it came to that.
    async fn cut(&mut self, step: Step, stopper: &Arc<Stopper>) -> bool {
        let array = Arc::new(self.site.connect(Effects::unobserved()).await.unwrap());
        self.site.kill(step.node);
        let is_started = tokio::select! {
            biased;
            () = stopper.reached() => false,
            started = self.site.start_with(step.node, stopper.effects(), array) => started.is_ok(),
        };
        let is_cut = is_started
            && tokio::select! {
                biased;
                () = stopper.reached() => true,
                // It had fewer effects, or was refused; which of them is seen when it is asked for again.
                _ = self.site.node(step.node).call(step.request()) => false,
            };
        self.start_again(step.node).await;
        is_cut
    }

    /// What was cut off is done or undone. Which of them the model takes from what is listed.
    async fn learn(&mut self, Step { node, disk, op }: Step) {
        let san = self.site.node(node).san();
        let cx = san.cx(Deadline::after(PATIENCE), OperationId::random());
        let listed = san.disks(&cx).await.unwrap();
        let size = |name: &str| listed.iter().find(|it| it.owner.object() == name).map(|it| it.size);
        let (now, known) = (size(&super::reference::disk(disk)), self.model.disks.get_mut(&disk));
        match (op, now, known) {
            (Op::Create, Some(size), None) => self.model.add(disk, Content { pattern: 0, size }, None),
            (Op::Delete, None, Some(_)) => {
                let gone = self.model.disks.remove(&disk);
                self.model.deleted.extend(gone.and_then(|it| it.parent));
            }
            (Op::Grow { .. }, Some(size), Some(known)) => known.content.size = size,
            (Op::Snapshot(name) | Op::DeleteSnapshot(name), Some(_), Some(known)) => {
                let found = san.snapshots(&cx, &super::reference::disk(disk)).await.unwrap();
                if found.iter().any(|it| it.name == snapshot(name)) {
                    known.snapshots.entry(name).or_insert(known.content);
                } else {
                    known.snapshots.remove(&name);
                }
            }
            (Op::Clone { name, to }, ..) if size(&super::reference::disk(to)).is_some() => {
                if let Some(source) = self.model.disks.get(&disk).cloned()
                    && let Some(content) = source.snapshots.get(&name)
                    && !self.model.disks.contains_key(&to)
                {
                    self.model.add(to, *content, Some((source.id, Some(name))));
                }
            }
            (Op::CloneTemplate { to }, ..) if size(&super::reference::disk(to)).is_some() => {
                if let Some(source) = self.model.templates.get(&disk).cloned()
                    && !self.model.disks.contains_key(&to)
                {
                    self.model.add(to, source.content, Some((source.id, None)));
                }
            }
            (Op::Template, None, Some(_)) => self.model.make_template(disk),
            (Op::DeleteTemplate, ..) if size(&template(disk)).is_none() => {
                let gone = self.model.templates.remove(&disk);
                self.model.deleted.extend(gone.and_then(|it| it.parent));
            }
            _ => {}
        }
    }

    /// The kind of error expected, if any: none where the disk is there.
    fn refused(&self, disk: usize, done: Result<Outcome>) -> Option<Outcome> {
        match (self.model.disks.contains_key(&disk), done) {
            (true, done) => Some(done.unwrap()),
            (false, done) => {
                assert_eq!(kind(done), ErrorKind::NotFound);
                None
            }
        }
    }

    async fn create(&mut self, node: usize, disk: usize) {
        let made = self.site.node(node).call(Step { node, disk, op: Op::Create }.request()).await;
        if self.model.disks.contains_key(&disk) {
            assert_eq!(kind(made), ErrorKind::AlreadyExists);
            return;
        }
        made.unwrap();
        self.model.add(disk, Content { pattern: 0, size: size_of(disk) }, None);
    }

    async fn clone(&mut self, node: usize, of: Option<(Content, Parent)>, request: Request, to: usize) {
        let made = self.site.node(node).call(request).await;
        match (of, self.model.disks.contains_key(&to)) {
            (Some((content, parent)), false) => {
                made.unwrap();
                self.model.add(to, content, Some(parent));
                self.meet(if parent.1.is_some() { "a clone of a snapshot" } else { "a clone of a template" });
            }
            (Some(_), true) => assert_eq!(kind(made), ErrorKind::AlreadyExists),
            (None, false) => assert_eq!(kind(made), ErrorKind::NotFound),
            (None, true) => {
                let kind = kind(made);
                assert!(matches!(kind, ErrorKind::NotFound | ErrorKind::AlreadyExists), "{kind:?}");
            }
        }
    }

    async fn delete(&mut self, node: usize, disk: usize) {
        let expected = self.model.deletion(self.model.disks.get(&disk));
        let done = self.site.node(node).delete(&super::reference::disk(disk)).await;
        self.meet(expected.words());
        // Whoever has it elsewhere does not use it, and lets go.
        if is_gone(expected, done) {
            let gone = self.model.disks.remove(&disk);
            self.model.deleted.extend(gone.and_then(|it| it.parent));
        }
    }

    async fn delete_template(&mut self, node: usize, number: usize) {
        let expected = self.model.deletion(self.model.templates.get(&number));
        let done = self.site.node(node).delete(&template(number)).await;
        self.meet(expected.words());
        if is_gone(expected, done) {
            let gone = self.model.templates.remove(&number);
            self.model.deleted.extend(gone.and_then(|it| it.parent));
        }
    }

    async fn make_template(&mut self, node: usize, disk: usize) {
        let done = self.site.node(node).call(Step { node, disk, op: Op::Template }.request()).await;
        let is_taken = self.model.templates.contains_key(&disk);
        match self.model.disks.get(&disk) {
            None => {
                let kind = kind(done);
                assert!(
                    kind == ErrorKind::NotFound || is_taken && kind == ErrorKind::AlreadyExists,
                    "{kind:?}"
                );
            }
            Some(it) if is_taken || !it.snapshots.is_empty() => {
                let kind = kind(done);
                assert!(matches!(kind, ErrorKind::AlreadyExists | ErrorKind::Conflict), "{kind:?}");
            }
            Some(_) => {
                done.unwrap();
                self.model.make_template(disk);
                self.meet("a template");
            }
        }
    }

    /// The array forgets what was deleted, until nothing waits for that any more.
    async fn purge(&mut self) {
        for _ in 0..2 * DISKS {
            self.site.array.purge_recovery_queue().unwrap();
            // What could not go is tried again after some minutes.
            tokio::time::sleep(AGAIN).await;
            self.site.node(0).san().finish_deletions().await.unwrap();
        }
        self.site.array.purge_recovery_queue().unwrap();
        self.model.deleted.clear();
    }

    async fn attach(&mut self, node: usize, disk: usize) {
        let done = self.site.node(node).attach(&super::reference::disk(disk)).await;
        let Some(known) = self.model.disks.get_mut(&disk) else {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::NotFound);
            return;
        };
        assert_eq!(done.unwrap(), path(disk));
        if self.model.homes.get(&disk) == Some(&node) {
            known.attached.clear();
        }
        known.attached.insert(node);
        let content = known.content;
        self.check_bytes(node, disk, content).await;
    }

    async fn check_bytes(&self, node: usize, disk: usize, content: Content) {
        let node = self.site.node(node);
        assert_eq!(node.read(&path(disk), 0, 8).await.unwrap(), content.pattern.to_le_bytes(), "disk {disk}");
        // Its whole size is there, and nothing beyond.
        node.read(&path(disk), content.size.bytes() - 512, 512).await.unwrap();
        assert!(node.read(&path(disk), content.size.bytes(), 512).await.is_err(), "disk {disk} is too large");
    }

    async fn detach(&mut self, node: usize, disk: usize) {
        let done = self.site.node(node).detach(&super::reference::disk(disk)).await.unwrap();
        assert_eq!(done, Outcome::Detached { pending: None });
        if let Some(known) = self.model.disks.get_mut(&disk) {
            known.attached.remove(&node);
        }
        assert!(self.site.node(node).read(&path(disk), 0, 8).await.is_err(), "no device is left");
    }

    async fn write(&mut self, node: usize, disk: usize) {
        let Some(known) = self.model.disks.get_mut(&disk).filter(|it| it.attached.contains(&node)) else {
            return;
        };
        self.model.patterns += 1;
        let pattern = self.model.patterns;
        // After a reboot the disk has to be attached anew first.
        if self.site.node(node).write(&path(disk), 0, &pattern.to_le_bytes()).await.is_ok() {
            known.content.pattern = pattern;
        }
    }

    async fn grow(&mut self, node: usize, disk: usize, size: ByteSize) {
        let done = self.site.node(node).grow(&super::reference::disk(disk), size).await;
        if self.model.disks.get(&disk).is_some_and(|it| it.content.size > size) {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::InvalidInput);
            return;
        }
        if self.refused(disk, done).is_some()
            && let Some(known) = self.model.disks.get_mut(&disk)
        {
            known.content.size = size;
        }
    }

    async fn snapshot(&mut self, node: usize, disk: usize, name: u8) {
        let done = self.site.node(node).snapshot(&super::reference::disk(disk), &snapshot(name)).await;
        if self.model.disks.get(&disk).is_some_and(|it| it.snapshots.contains_key(&name)) {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::AlreadyExists);
            return;
        }
        if self.refused(disk, done).is_some()
            && let Some(known) = self.model.disks.get_mut(&disk)
        {
            known.snapshots.insert(name, known.content);
        }
    }

    async fn delete_snapshot(&mut self, node: usize, disk: usize, name: u8) {
        let done = self.site.node(node).delete_snapshot(&super::reference::disk(disk), &snapshot(name)).await;
        let known = self.model.disks.get(&disk).filter(|it| it.snapshots.contains_key(&name));
        if known.is_some_and(|it| self.model.is_held(it.id, name)) {
            assert_eq!(kind(done), ErrorKind::Busy);
            self.meet("a snapshot that a clone holds");
            return;
        }
        assert_eq!(done.unwrap(), Outcome::SnapshotDeleted);
        if let Some(known) = self.model.disks.get_mut(&disk) {
            known.snapshots.remove(&name);
        }
    }

    async fn read_snapshot(&mut self, node: usize, disk: usize, name: u8) {
        let at = self.site.node(node);
        let attached = at.attach_snapshot(&super::reference::disk(disk), &snapshot(name)).await;
        let known = self.model.disks.get(&disk).and_then(|it| it.snapshots.get(&name));
        let Some(content) = known else {
            assert_eq!(kind(attached), ErrorKind::NotFound);
            return;
        };
        let path = attached.unwrap();
        assert_eq!(at.read(&path, 0, 8).await.unwrap(), content.pattern.to_le_bytes());
        at.read(&path, content.size.bytes() - 512, 512).await.unwrap();
        assert!(
            at.read(&path, content.size.bytes(), 512).await.is_err(),
            "a snapshot of {disk} is too large"
        );
        let done = at.detach_snapshot(&super::reference::disk(disk), &snapshot(name)).await.unwrap();
        assert_eq!(done, Outcome::Detached { pending: None });
    }

    async fn roll_back(&mut self, node: usize, disk: usize, name: u8) {
        let done = self.site.node(node).roll_back(&super::reference::disk(disk), &snapshot(name)).await;
        let Some(known) = self.model.disks.get_mut(&disk) else {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::NotFound);
            return;
        };
        // It is taken from all nodes first, whether or not the snapshot exists.
        known.attached.clear();
        match known.snapshots.get(&name) {
            Some(content) => {
                done.unwrap();
                known.content = *content;
            }
            None => assert_eq!(done.unwrap_err().kind(), ErrorKind::NotFound),
        }
    }

    /// All that is listed is what must be there, with these sizes and snapshots.
    async fn check_lists(&self) {
        for node in 0..NODES {
            let san = self.site.node(node).san();
            let cx = san.cx(Deadline::after(PATIENCE), OperationId::random());
            let listed = san.disks(&cx).await.unwrap();
            let listed: BTreeMap<String, ByteSize> =
                listed.into_iter().map(|it| (it.owner.object().to_owned(), it.size)).collect();
            let disks = self.model.disks.iter().map(|(at, it)| (disk(*at), it.content.size));
            let templates = self.model.templates.iter().map(|(at, it)| (template(*at), it.content.size));
            assert_eq!(listed, disks.chain(templates).collect());
            for (at, known) in &self.model.disks {
                let found = san.snapshots(&cx, &disk(*at)).await.unwrap();
                let mut names: Vec<SnapshotName> = found.into_iter().map(|it| it.name).collect();
                names.sort();
                assert_eq!(names, known.snapshots.keys().map(|it| snapshot(*it)).collect::<Vec<_>>());
            }
        }
    }

    /// Every disk has its bytes, every snapshot and every template has its own, and after all is deleted nothing is left.
    pub(super) async fn end(mut self, empty: &Audit) -> Met {
        self.check_lists().await;
        for index in 0..DISKS {
            let node = index % NODES;
            for node in 0..NODES {
                self.detach(node, index).await;
            }
            self.site.guests.remove(&disk(index));
            self.model.homes.remove(&index);
            if let Some(known) = self.model.disks.get(&index).cloned() {
                self.attach(node, index).await;
                for name in known.snapshots.keys() {
                    self.read_snapshot(node, index, *name).await;
                    self.roll_back(node, index, *name).await;
                    self.attach(node, index).await;
                }
            }
            if let Some(known) = self.model.templates.get(&index).cloned() {
                self.check_template(node, index, known.content).await;
            }
        }
        // Clones go before what they are made of.
        for _ in 0..2 * DISKS {
            for index in 0..DISKS {
                self.delete(index % NODES, index).await;
                self.delete_template(index % NODES, index).await;
            }
        }
        self.purge().await;
        let findings = self.site.audit().against(empty);
        assert!(findings.is_empty(), "{findings}");
        self.met
    }

    async fn check_template(&self, node: usize, number: usize, content: Content) {
        let node = self.site.node(node);
        let path = node.attach(&template(number)).await.unwrap();
        assert_eq!(node.read(&path, 0, 8).await.unwrap(), content.pattern.to_le_bytes());
        node.detach(&template(number)).await.unwrap();
    }
}

/// Whether a deletion that came to what was expected took the disk away.
fn is_gone(expected: Deletion, done: Result<Outcome>) -> bool {
    match expected {
        Deletion::Done => assert_eq!(done.unwrap(), Outcome::Deleted),
        Deletion::Later => assert!(matches!(done, Ok(Outcome::Deleting { .. })), "{done:?}"),
        Deletion::Refused => assert_eq!(kind(done), ErrorKind::InUse),
    }
    expected != Deletion::Refused
}
