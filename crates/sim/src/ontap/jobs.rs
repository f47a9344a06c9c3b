//! Asynchronous work: jobs are accepted, end at a time of their own, and stay readable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::answer::{Reply, Row};
use super::call::Call;
use super::error::{ApiError, Code};
use super::model::State;

/// What a job does when it ends.
pub(crate) type Work = Box<dyn FnOnce(&mut State) -> Result<(), ApiError> + Send>;

/// All jobs since the start, and what the next ones shall suffer.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    all: BTreeMap<Uuid, Job>,
    /// Jobs that will end, in the order in which they do.
    waiting: BTreeSet<(Duration, u64, Uuid)>,
    /// Jobs that have not ended.
    running: BTreeSet<Uuid>,
    order: u64,
    /// Set while a request is carried out that a fault rule picked.
    pub(crate) fate: Option<JobFate>,
    /// Extra wait for jobs of a query that the array carries out one after the other.
    pub(crate) queue_delay: Duration,
}

/// What a fault does to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JobFate {
    /// It ends in failure with this code and message and does nothing.
    Fails(u64, String),
    /// It stays in state `running` and does nothing.
    NeverEnds,
    /// It does its work, but a GET of it answers 404.
    Vanishes,
}

pub(crate) struct Job {
    uuid: Uuid,
    description: String,
    svm: Option<usize>,
    start: Duration,
    /// `None`: never.
    end: Option<Duration>,
    work: Option<Work>,
    result: Option<Result<(), ApiError>>,
    visible: bool,
    /// The name (SVM, volume) that nobody else may take until it ends.
    claim: Option<(usize, String)>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("uuid", &self.uuid)
            .field("description", &self.description)
            .field("end", &self.end)
            .field("result", &self.result)
            .finish_non_exhaustive()
    }
}

impl State {
    /// Accepts a job that does `work` when it ends.
    pub(crate) fn start_job(&mut self, call: &Call, path: &str, svm: Option<usize>, work: Work) -> Uuid {
        let uuid = self.ids.uuid();
        let fate = self.jobs.fate.clone();
        let mut job = Job {
            uuid,
            description: format!("{} {path}", call.method),
            svm,
            start: self.now,
            end: Some(self.now + self.jobs.queue_delay + self.pace.job),
            work: Some(work),
            result: None,
            visible: true,
            claim: None,
        };
        match fate {
            None => {}
            Some(JobFate::Fails(code, message)) => {
                job.work = Some(Box::new(move |_: &mut State| Err(Code(code, 500).error(message))));
            }
            Some(JobFate::NeverEnds) => job.end = None,
            Some(JobFate::Vanishes) => job.visible = false,
        }
        self.jobs.order += 1;
        if let Some(end) = job.end {
            self.jobs.waiting.insert((end, self.jobs.order, uuid));
        }
        self.jobs.running.insert(uuid);
        self.jobs.all.insert(uuid, job);
        uuid
    }

    /// Moves the clock on and carries out every job whose time has come, in order.
    pub(crate) fn settle(&mut self, now: Duration) {
        let now = now.max(self.now);
        while let Some(entry) = self.jobs.waiting.first().copied().filter(|(end, ..)| *end <= now) {
            self.jobs.waiting.remove(&entry);
            let (end, _, uuid) = entry;
            self.jobs.running.remove(&uuid);
            self.now = end.max(self.now);
            let job = self.jobs.all.get_mut(&uuid);
            let work = job.and_then(|job| job.work.take());
            let result = work.map_or(Ok(()), |work| work(self));
            if let Some(job) = self.jobs.all.get_mut(&uuid) {
                job.result = Some(result);
                job.claim = None;
            }
        }
        self.now = now;
        self.purge_expired();
    }
}

impl State {
    /// Ends every job that would never end, in failure.
    pub(crate) fn fail_stuck_jobs(&mut self) {
        let now = self.now;
        for job in self.jobs.all.values_mut().filter(|job| job.end.is_none()) {
            job.end = Some(now);
            job.work = None;
            job.claim = None;
            job.result = Some(Err(Code(4, 500).error("the job was lost in a restart")));
            self.jobs.running.remove(&job.uuid);
        }
    }
}

impl Jobs {
    /// Keeps a name for a job as long as it runs.
    pub(crate) fn claim(&mut self, uuid: Uuid, svm: usize, name: String) {
        if let Some(job) = self.all.get_mut(&uuid) {
            job.claim = Some((svm, name));
        }
    }

    /// Whether a running job keeps this name.
    pub(crate) fn is_claimed(&self, svm: usize, name: &str) -> bool {
        let running = self.running.iter().filter_map(|job| self.all.get(job));
        running.filter_map(|job| job.claim.as_ref()).any(|(of, claimed)| *of == svm && claimed == name)
    }

    /// When the job ends; `None` if it never does.
    pub(crate) fn end_of(&self, uuid: Uuid) -> Option<Duration> {
        self.all.get(&uuid)?.end
    }

    /// How the job ended; `None` while it runs.
    pub(crate) fn result_of(&self, uuid: Uuid) -> Option<&Result<(), ApiError>> {
        self.all.get(&uuid)?.result.as_ref()
    }

    /// How many jobs have not ended.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }
}

/// GET /cluster/jobs and GET /cluster/jobs/{uuid}.
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn rows(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let visible = state.jobs.all.values().filter(|job| job.visible);
    let named = visible.filter(|job| call.keys.first().is_none_or(|key| *key == job.uuid.to_string()));
    Ok(named.map(|job| row(state, job)).collect())
}

fn row(state: &State, job: &Job) -> Row {
    let (word, message, code) = match &job.result {
        None if job.start + state.jobs.queue_delay > state.now => ("queued", "", 0),
        None => ("running", "", 0),
        Some(Ok(())) => ("success", "success", 0),
        Some(Err(error)) => ("failure", error.message.as_str(), error.code),
    };
    let error = job.result.as_ref().and_then(|result| result.as_ref().err()).map(ApiError::object);
    let end = job.result.as_ref().and(job.end).map(|end| state.stamp(end));
    let svm = job.svm.map(|svm| json!({"name": state.svms[svm].name, "uuid": state.svms[svm].uuid}));
    let value: Value = json!({
        "uuid": job.uuid, "description": job.description, "state": word, "message": message, "code": code,
        "start_time": state.stamp(job.start), "end_time": end, "svm": svm, "error": error,
        "node": { "name": state.nodes[0].name },
    });
    Row::new("/cluster/jobs", vec![job.uuid.to_string()], value)
}

/// The answer to a request that was turned into a job. `created` is the path of the object it will make.
pub(crate) fn accepted(job: Uuid, created: Option<String>) -> Reply {
    Reply::Accepted { jobs: vec![job], created }
}
