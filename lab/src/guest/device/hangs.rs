//! Beside the contract: a leg that says what it is and then answers no reads, which no simulated host can show.

use std::sync::Arc;
use std::time::{Duration, Instant};

use san_contract::device::DeviceFixture as _;
use san_core::{DeviceManager as _, Expected, Lun};

use super::{Fixture, cx, lock, place};
use crate::guest::array::VOLUME_SIZE;
use crate::guest::hung::Hung;
use crate::guest::{Check, Failure, Shown};

const LUN: u16 = 5;
/// As in the contract's clause about a leg that answers nothing at all.
const BOUND: Duration = Duration::from_secs(15);

/// The checks.
pub(super) fn checks() -> Vec<Check<Fixture>> {
    vec![Check {
        name: "a_leg_whose_reads_hang_is_left_out",
        scenarios: &["49"],
        done: "behind one port the volume answers INQUIRY and holds every read, so that udev does not get done with the \
               leg; the volume is attached, written and read",
        bound: Duration::from_secs(60),
        run: |fixture| Box::pin(reads_hang(fixture)),
    }]
}

async fn reads_hang(fixture: Arc<Fixture>) -> Result<Shown, Failure> {
    fixture.begin()?;
    let (_, portal) = place(&fixture.routes[0]);
    fixture.array.withhold(LUN, portal);
    fixture.array.show(1, LUN, fixture.portals())?;
    fixture.plane.sync().await?;
    let hung = Hung::holding(&fixture.array, portal, LUN, &fixture.node.initiator, 1).await?;
    lock(&fixture.hung).push(hung);

    let lun = Lun::new(LUN).ok_or_else(|| Failure("no such number".to_owned()))?;
    let expected = Expected { identity: fixture.array.identity(1), size: VOLUME_SIZE, lun };
    let started = Instant::now();
    let device = fixture.hasty.attach(&cx(), &expected, &fixture.routes).await?;
    let took = started.elapsed();
    let others = fixture.routes.len() - 1;
    if (device.legs.len(), device.missing.len()) != (others, 1) {
        return Err(Failure(format!("{} legs, {} missing", device.legs.len(), device.missing.len())));
    }
    if took > BOUND * fixture.node.slowness() {
        return Err(Failure(format!("it took {took:?}")));
    }
    let block = [0x5a; 4096];
    fixture.write(&device.path, &block).await;
    if fixture.bytes(1, block.len()) != block || fixture.read(&device.path, block.len()).await != block {
        return Err(Failure("the volume does not hold what was written".to_owned()));
    }
    let missing = &device.missing[0].error;
    Ok(Shown::held(format!(
        "attached over the other {others} legs in {took:.1?}; told of the one: {missing}"
    )))
}
