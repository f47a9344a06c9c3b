//! Scenarios that need the whole node: the daemon with its records, and an array with an interface that can fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use san_contract::audit::Audit;
use san_sim::ontap::{Fault, Rule, Times, When};
use san_sim::server::ApiState;
use sanbridge_tests::daemons::Reply;
use tokio::sync::OnceCell;

use super::play::wrong;
use super::tools::until;
use crate::guest::ledger::{legs, maps};
use crate::guest::node::Form;
use crate::guest::site::{Bystander, Site};
use crate::guest::{Check, Failure, Group, Recorder, Running, Shown, direct, run};

const BOUND: Duration = Duration::from_secs(60);
/// What a caller gives every request, and how much later its answer may come.
const CALL: Duration = Duration::from_secs(55);
const GRACE: Duration = Duration::from_secs(1);
/// How long the daemon may take to do later what it could not do at once.
const LATER: Duration = Duration::from_secs(120);
const DISK: &str = "vm-100-disk-0";
const SIZE: u64 = 64 << 20;

/// The group.
pub(super) fn group() -> Group {
    Group::new("calls", |recorder| Box::pin(play(recorder)))
}

/// The site, the bystander, and what was there before.
#[derive(Debug)]
struct Stage {
    site: Site,
    bystander: Bystander,
    before: OnceCell<Audit>,
}

const CHECKS: &[Check<Stage>] = &[
    Check {
        name: "one disk attached twice, and detached meanwhile",
        scenarios: &["29", "30"],
        done: "two callers attach one disk at the same moment; then detach and attach are asked for at once, in both orders",
        run: |stage| scene(stage, races),
        bound: BOUND,
    },
    Check {
        name: "the array's interface refuses to unmap",
        scenarios: &["58"],
        done: "every request that ends a mapping fails while a disk is detached, and works again later",
        run: |stage| scene(stage, unmap_refused),
        bound: BOUND,
    },
    Check {
        name: "a disk of a dead array",
        scenarios: &["66", "24"],
        done: "the array's interface and all its networks are gone when a disk is detached and another attached",
        run: |stage| scene(stage, all_dead),
        bound: BOUND,
    },
];

async fn play(recorder: Recorder) -> Result<(), Failure> {
    let site = Site::new().await?;
    let bystander = site.bystander().await?;
    site.serve(Form::Inside).await?;
    let stage = Arc::new(Stage { site, bystander, before: OnceCell::new() });
    // The first attach makes the node's host object on the array, which stays.
    stage.make().await?;
    stage.bounded(stage.site.attach(DISK)).await?;
    stage.bounded(stage.site.detach(DISK)).await?;
    stage.bounded(stage.site.delete(DISK)).await?;
    let before = stage.site.settled_audit().await?;
    stage.before.set(before)?;
    for check in CHECKS.iter().filter(|it| recorder.wants(it.name)) {
        run(&recorder, &stage, check).await?;
    }
    match Arc::into_inner(stage) {
        Some(stage) => {
            stage.bystander.end().await?;
            stage.site.end().await
        }
        None => wrong("a scenario is still running after the last one"),
    }
}

fn scene<P, F>(stage: Arc<Stage>, scene: P) -> Running
where
    P: FnOnce(Arc<Stage>) -> F + Send + 'static,
    F: Future<Output = Result<Shown, Failure>> + Send + 'static,
{
    Box::pin(async move {
        let shown = scene(Arc::clone(&stage)).await;
        stage.site.array().clear_faults();
        stage.site.array().set_api(ApiState::Up);
        for network in 1..=stage.site.network.networks() {
            stage.site.network.mend(network).await?;
        }
        stage.bystander.io.another_round(LATER).await?;
        stage.bystander.io.require_well()?;
        let shown = match shown {
            Ok(shown) => shown,
            Err(failure) => {
                // The next scenario begins where this one should have ended.
                for ended in [stage.site.detach(DISK).await, stage.site.delete(DISK).await] {
                    tracing::info!(?ended, "clearing up");
                }
                return Err(failure);
            }
        };
        if let Some(before) = stage.before.get() {
            stage.site.require_as(before).await?;
        }
        Ok(shown)
    })
}

impl Stage {
    async fn make(&self) -> Result<(), Failure> {
        self.bounded(self.site.create(DISK, SIZE)).await
    }

    /// A call that has to end within its deadline.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let started = Instant::now();
        let answer = call.await;
        let took = started.elapsed();
        if took > CALL + GRACE {
            return wrong(format!("a call with {CALL:?} took {took:?}"));
        }
        answer
    }

    /// Legs and maps of ours.
    fn present(&self) -> (usize, usize) {
        let legs = legs().into_iter().filter(|it| it.wwid != self.bystander.map).count();
        (legs, maps().into_iter().filter(|it| it.wwid != self.bystander.map).count())
    }

    fn mappings(&self) -> usize {
        self.site.array().maps().iter().filter(|it| !it.lun.contains("foreign")).count()
    }
}

async fn races(stage: Arc<Stage>) -> Result<Shown, Failure> {
    stage.make().await?;
    let site = &stage.site;
    let (one, two) = tokio::join!(stage.bounded(site.attach(DISK)), stage.bounded(site.attach(DISK)));
    let (one, two) = (one?, two?);
    if one != two || stage.present() != (site.legs_expected(), 1) {
        return wrong(format!("{} and {}: {:?}", one.display(), two.display(), stage.present()));
    }
    direct::Device::open(&one)?.write(0, &[7; 4096])?;
    // The order of requests is that of their arrival.
    let arrival = || tokio::time::sleep(Duration::from_millis(100));
    let attach_later = async {
        arrival().await;
        stage.bounded(site.attach(DISK)).await
    };
    let (first, last) = tokio::join!(stage.bounded(site.detach(DISK)), attach_later);
    let said: Reply = first?;
    last?;
    if stage.present() != (site.legs_expected(), 1) || direct::Device::open(&one)?.read(0, 4096)? != [7; 4096]
    {
        return wrong(format!("detach, then attach: {:?}, {said:?}", stage.present()));
    }
    let detach_later = async {
        arrival().await;
        stage.bounded(site.detach(DISK)).await
    };
    let (first, last) = tokio::join!(stage.bounded(site.attach(DISK)), detach_later);
    first?;
    last?;
    if stage.present() != (0, 0) || one.is_symlink() {
        return wrong(format!("attach, then detach: {:?}", stage.present()));
    }
    stage.bounded(site.delete(DISK)).await?;
    Ok(Shown::held("both had the one map; each time the last request decided"))
}

async fn unmap_refused(stage: Arc<Stage>) -> Result<Shown, Failure> {
    stage.make().await?;
    let path = stage.bounded(stage.site.attach(DISK)).await?;
    stage.site.array().inject(Rule {
        when: When {
            method: Some("DELETE".to_owned()),
            path: Some("/protocols/san/lun-maps/{lun.uuid}/{igroup.uuid}".to_owned()),
            times: Times::Always,
            ..When::default()
        },
        fault: Fault::Answer {
            status: 500,
            code: 1,
            message: "internal error".to_owned(),
            retry_after: None,
        },
    });
    let answer = stage.bounded(stage.site.detach(DISK)).await;
    let told = match &answer {
        Ok(reply) => format!("answered with {:?}", reply.warnings),
        Err(failure) => format!("refused: {failure}"),
    };
    let offline =
        legs().into_iter().filter(|it| it.wwid != stage.bystander.map && it.state == "offline").count();
    let (kept, maps) = stage.present();
    if stage.mappings() != 1 || maps != 0 || offline != kept || path.is_symlink() {
        return wrong(format!(
            "{told}: {} mappings, {offline} of {kept} legs offline, {maps} maps",
            stage.mappings()
        ));
    }
    stage.site.array().clear_faults();
    // What is owed is done without being asked for again.
    until("the end of the mapping", LATER, || stage.mappings() == 0).await?;
    until("the end of the legs", LATER, || stage.present() == (0, 0)).await?;
    stage.bounded(stage.site.delete(DISK)).await?;
    Ok(Shown::held(format!("{told}; {offline} legs stayed offline, and the rest followed by itself")))
}

async fn all_dead(stage: Arc<Stage>) -> Result<Shown, Failure> {
    stage.make().await?;
    let path = stage.bounded(stage.site.attach(DISK)).await?;
    stage.site.array().set_api(ApiState::Refusing);
    for network in 1..=stage.site.network.networks() {
        stage.site.network.cut(network).await?;
    }
    let ours = || legs().into_iter().filter(|it| it.wwid != stage.bystander.map);
    until("the loss of all paths", LATER, || ours().all(|it| it.state != "running")).await?;
    let started = Instant::now();
    let reply = stage.bounded(stage.site.detach(DISK)).await?;
    let took = started.elapsed();
    if reply.warnings.is_empty() || stage.present().1 != 0 || path.is_symlink() {
        return wrong(format!("{reply:?}, {:?}", stage.present()));
    }
    let refused = match stage.bounded(stage.site.attach(DISK)).await {
        Err(failure) => failure.to_string(),
        Ok(path) => return wrong(format!("attached at {} without an array", path.display())),
    };
    stage.site.array().set_api(ApiState::Up);
    for network in 1..=stage.site.network.networks() {
        stage.site.network.mend(network).await?;
    }
    until("the end of the mapping", LATER, || stage.mappings() == 0).await?;
    until("the end of the legs", LATER, || stage.present() == (0, 0)).await?;
    stage.bounded(stage.site.delete(DISK)).await?;
    Ok(Shown::held(format!(
        "detached in {:.1} s, what is owed was told ({}); an attach was refused ({refused}); all was done when the array \
         was back",
        took.as_secs_f64(),
        reply.warnings.join("; ")
    )))
}
