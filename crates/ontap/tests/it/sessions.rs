//! Who is logged in, by the array's word.

use san_core::{Array, HostSession, Initiator};
use san_sim::target::Target;

use crate::fixture::{Fixture, NEW, OLD, cx};

fn iqn(name: &str) -> Initiator {
    Initiator::Iscsi(name.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn sessions_are_told_by_initiator() {
    for version in [OLD, NEW] {
        let it = Fixture::new(version).await;
        let portals: Vec<_> = it.sim.portals().iter().map(|it| it.address).collect();
        let (ours, other) = (iqn("iqn.1993-08.org.debian:01:node1"), iqn("iqn.1993-08.org.debian:01:node12"));
        let ask = async || {
            it.array.sessions().unwrap().sessions_of(&cx(), std::slice::from_ref(&ours)).await.unwrap()
        };
        it.sim.logged_in(&other.to_string(), portals[0]);
        assert_eq!(ask().await, []);
        // Initiators are told apart without regard to case.
        for portal in &portals[..2] {
            it.sim.logged_in("iqn.1993-08.org.debian:01:NODE1", *portal);
        }
        let mark = it.sim.mark();
        assert_eq!(
            ask().await,
            [HostSession { initiator: ours.clone(), from: vec!["10.0.0.200".to_owned()] }]
        );
        assert_eq!(it.sim.requests(mark).len(), 1);
        for portal in &portals[..2] {
            it.sim.logged_out("iqn.1993-08.org.debian:01:NODE1", *portal);
        }
        assert_eq!(ask().await, []);
        assert_eq!(it.array.sessions().unwrap().sessions_of(&cx(), &[]).await.unwrap(), []);
    }
}
