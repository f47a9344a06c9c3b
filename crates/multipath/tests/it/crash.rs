//! Scenario 59: attach, grow, retire and bury stopped at every boundary of every effect, then done again.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use san_contract::device::DeviceFixture as _;
use san_core::{
    ByteSize, Cx, Deadline, DeviceManager as _, Effect, EffectObserver, Effects, Expected, Hctl, KnownLegs,
    Lun, OperationId, Result, Route,
};
use san_host::Guard;
use san_multipath::{Multipath, MultipathConfig};
use san_sim::host::NodeSpec;

use crate::fixture::Fixture;

const LUN: u16 = 5;
const SIZE: ByteSize = ByteSize::from_mib(64);

/// Stops for ever at the n-th boundary: what a process does that was killed there.
#[derive(Debug)]
struct Stop {
    at: usize,
    passed: AtomicUsize,
}

impl Stop {
    async fn boundary(&self) -> Result<()> {
        if self.passed.fetch_add(1, Ordering::Relaxed) >= self.at {
            pending::<()>().await;
        }
        Ok(())
    }
}

#[async_trait]
impl EffectObserver for Stop {
    async fn before(&self, _: &Effect) -> Result<()> {
        self.boundary().await
    }

    async fn after(&self, _: &Effect) -> Result<()> {
        self.boundary().await
    }
}

fn cx(effects: Effects) -> Cx {
    Cx::new(Deadline::after(Duration::from_secs(120)), OperationId::random(), effects)
}

fn expect(fixture: &Fixture) -> Expected {
    Expected { identity: fixture.identity(1), size: SIZE, lun: Lun::new(LUN).unwrap() }
}

fn known(fixture: &Fixture) -> KnownLegs {
    let addresses = fixture.routes().into_iter().filter_map(|it| match it {
        Route::Scsi { host, channel, target, .. } => {
            Some(Hctl { host, channel, target, lun: Lun::new(LUN).unwrap() })
        }
        _ => None,
    });
    KnownLegs { identity: fixture.identity(1), lun: Lun::new(LUN).unwrap(), addresses: addresses.collect() }
}

/// A device manager as a new process has it: nothing of the old one's memory.
fn reborn(fixture: &Fixture) -> Multipath {
    Multipath::new(Guard::new(Arc::new(fixture.node.clone())), MultipathConfig::default())
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Attach,
    Grow,
    Retire,
    Bury,
}

async fn run(fixture: &Fixture, manager: &Multipath, step: Step, cx: &Cx) -> Result<()> {
    match step {
        Step::Attach => manager.attach(cx, &expect(fixture), &fixture.routes()).await.map(drop),
        Step::Grow => {
            let larger = Expected { size: ByteSize::from_mib(96), ..expect(fixture) };
            manager.grow(cx, &larger, &fixture.routes()).await.map(drop)
        }
        Step::Retire => manager.retire(cx, &known(fixture)).await.map(drop),
        Step::Bury => {
            let retired = manager.retire(cx, &known(fixture)).await?;
            fixture.hide(LUN);
            manager.bury(cx, &retired).await
        }
    }
}

/// The volume attached, or the wished-for state before `step`.
async fn prepared(step: Step) -> Fixture {
    let fixture = Fixture::on(NodeSpec::new("pve1", "iqn.1993-08.org.debian:01:pve1")).await;
    fixture.show(1, LUN);
    let cx = cx(Effects::unobserved());
    if step != Step::Attach {
        run(&fixture, &fixture.manager, Step::Attach, &cx).await.unwrap();
    }
    if step == Step::Grow {
        fixture.resize(1, ByteSize::from_mib(96));
    }
    fixture
}

/// Runs `step` until boundary `at`, if it has so many; whether it was stopped there.
async fn stopped(fixture: &Fixture, step: Step, at: usize) -> bool {
    let observer = Arc::new(Stop { at, passed: AtomicUsize::new(0) });
    let manager = reborn(fixture);
    let cx = cx(Effects::observed(observer.clone()));
    // The step's own bounds end its waiting for what was stopped; from outside it is dropped before any.
    let limit = Duration::from_millis(2500);
    let outcome = tokio::time::timeout(limit, run(fixture, &manager, step, &cx)).await;
    let was_stopped = observer.passed.load(Ordering::Relaxed) > at;
    assert!(was_stopped || outcome.is_ok_and(|it| it.is_ok()), "{step:?} does not end by itself");
    was_stopped
}

/// Every boundary of `step`; after it `finish` must succeed, and the whole way out leaves nothing.
async fn at_every_boundary(step: Step) -> usize {
    for at in 0.. {
        let fixture = prepared(step).await;
        if !stopped(&fixture, step, at).await {
            return at;
        }
        let manager = reborn(&fixture);
        let cx = cx(Effects::unobserved());
        // Forward: the same again converges.
        run(&fixture, &manager, step, &cx)
            .await
            .unwrap_or_else(|it| panic!("{step:?} again, after {at}: {it:?}"));
        if step == Step::Attach {
            let device = manager.inspect(&cx, &expect(&fixture), &fixture.routes()).await.unwrap().unwrap();
            assert_eq!(device.legs.len(), fixture.routes().len(), "after {at}");
        }
        // And out.
        let again = manager.retire(&cx, &known(&fixture)).await;
        let retired = again.unwrap_or_else(|it| panic!("retire after {step:?} at {at}: {it:?}"));
        fixture.hide(LUN);
        manager.bury(&cx, &retired).await.unwrap();
        assert_eq!((fixture.maps(), fixture.legs()), (vec![], vec![]), "{step:?} at {at}");
        if step == Step::Grow {
            continue;
        }
        // Backward: given up at the same place, taken back by the way out alone.
        let fixture = prepared(step).await;
        assert!(stopped(&fixture, step, at).await);
        let manager = reborn(&fixture);
        let retired = manager.retire(&cx, &known(&fixture)).await;
        let retired = retired.unwrap_or_else(|it| panic!("giving up {step:?} at {at}: {it:?}"));
        fixture.hide(LUN);
        manager.bury(&cx, &retired).await.unwrap();
        assert_eq!((fixture.maps(), fixture.legs()), (vec![], vec![]), "giving up {step:?} at {at}");
    }
    unreachable!("every operation ends")
}

#[tokio::test(start_paused = true)]
async fn an_attach_stopped_anywhere_is_finished_or_taken_back() {
    assert!(at_every_boundary(Step::Attach).await >= 10, "four scans and one map, two boundaries each");
}

#[tokio::test(start_paused = true)]
async fn a_growth_stopped_anywhere_is_finished() {
    assert!(at_every_boundary(Step::Grow).await >= 10, "four rescans and one map, two boundaries each");
}

#[tokio::test(start_paused = true)]
async fn a_retirement_stopped_anywhere_is_finished() {
    assert!(at_every_boundary(Step::Retire).await >= 10, "a flush, a map, four legs");
}

#[tokio::test(start_paused = true)]
async fn a_burial_stopped_anywhere_is_finished() {
    assert!(at_every_boundary(Step::Bury).await >= 18, "as a retirement, and four legs deleted");
}
