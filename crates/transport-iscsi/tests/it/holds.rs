//! What is said of a port that is left alone for a while.

use san_contract::transport::TransportFixture as _;
use san_core::{Cx, Deadline, Effects, OperationId, PortStatus, Transport as _};
use san_sim::host::Release;
use san_transport_iscsi::IscsiConfig;

use crate::contract::Fixture;

/// 54: also the call that found it dead again says until when it is not looked at.
#[tokio::test(start_paused = true)]
async fn a_port_found_dead_again_says_when_it_is_looked_at_next() {
    let fixture = Fixture::on(Release::Debian13);
    let ports = fixture.ports();
    fixture.kill(&ports[0]);
    let hold = IscsiConfig::default().probe_hold;
    let cx = Cx::new(Deadline::after(hold * 10), OperationId::random(), Effects::unobserved());
    fixture.iscsi.connect(&cx, &ports).await.unwrap();
    tokio::time::sleep(hold * 2).await;
    let states = fixture.iscsi.connect(&cx, &ports).await.unwrap();
    let PortStatus::Failed(error) = &states[0].status else { panic!("{:?}", states[0]) };
    assert_eq!(error.retry_after(), Some(hold));
}
