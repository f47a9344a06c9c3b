//! The contract of [`Transport`]: one function per clause, and [`transport_contract!`](crate::transport_contract), which
//! turns them into tests of one implementation.

#![expect(clippy::unwrap_used, reason = "a clause that is not met panics; that is how it says so")]

use std::collections::BTreeSet;
use std::time::Duration;

use san_core::{
    Cx, Deadline, Effects, ErrorKind, OperationId, PortState, PortStatus, Route, TargetPort, Transport,
};
use tokio::time::Instant;

/// One node that has no session yet, an array with at least three healthy ports, and what happens around them.
pub trait TransportFixture: Send + Sync {
    /// The implementation.
    fn transport(&self) -> &dyn Transport;

    /// The ports of the array.
    fn ports(&self) -> Vec<TargetPort>;

    /// The port stops answering, for new connections and old ones.
    fn kill(&self, port: &TargetPort);

    /// The port answers again.
    fn mend(&self, port: &TargetPort);

    /// The port refuses this node's logins although it takes connections.
    fn refuse_logins(&self, port: &TargetPort);

    /// It takes them again.
    fn accept_logins(&self, port: &TargetPort);

    /// Stops the daemon that makes sessions.
    fn stop_daemon(&self);

    /// Starts it.
    fn start_daemon(&self);

    /// Makes a session by other means.
    fn join_by_other_means(&self, port: &TargetPort);

    /// Brings a logical unit up behind every session.
    fn add_device(&self) -> impl Future<Output = ()> + Send;

    /// Removes it.
    fn remove_device(&self) -> impl Future<Output = ()> + Send;

    /// How many sessions the node has, usable or not.
    fn sessions(&self) -> usize;

    /// Every program that was started so far, with its arguments.
    fn programs(&self) -> Vec<String>;

    /// Everything that was written to the kernel so far.
    fn writes(&self) -> Vec<String>;

    /// How long a portal that does not answer is waited for, with a margin.
    fn probe_bound(&self) -> Duration;

    /// How long a failed login is not repeated.
    fn login_hold(&self) -> Duration;

    /// How many times longer than on real hardware anything may take here: every time bound of a clause is multiplied by
    /// it, and nothing else changes. More than 1 only where a processor is emulated.
    fn slowness(&self) -> u32 {
        1
    }
}

/// Hands every clause, with the failure scenarios it shows, to another macro: `!([callback] with)` becomes
/// `callback! { with clause ["scenario", ...], ... }`. The one list of the clauses there is.
#[macro_export]
macro_rules! transport_clauses {
    ([$($callback:tt)+] $with:tt) => {
        $($callback)+! { $with
            the_node_has_a_name [],
            every_port_is_joined_and_leads_somewhere [],
            healthy_sessions_cost_nothing [],
            one_dead_port_delays_nothing_but_itself ["23"],
            all_ports_dead_is_a_bounded_answer_and_leaves_nothing ["24"],
            a_dead_port_is_remembered_while_others_serve ["54"],
            a_port_that_comes_back_is_joined [],
            a_broken_session_is_not_joined_twice ["25"],
            a_repaired_session_is_connected_again ["25", "52"],
            a_session_of_others_is_used_and_never_ended ["26"],
            refused_logins_are_not_repeated_at_once ["27"],
            a_stopped_daemon_is_named_and_forgiven ["32"],
            parallel_callers_share_the_sessions ["28"],
            a_session_with_devices_is_kept ["62"],
            unknown_ports_have_no_routes [],
        }
    };
}

/// Makes one test of each clause, on a paused clock. `$fixture` is an expression that gives a future of a
/// [`TransportFixture`](crate::transport::TransportFixture).
#[macro_export]
macro_rules! transport_contract {
    ((@each $fixture:expr) $($clause:ident [$($scenario:literal),*],)+) => {
        $(
            #[::tokio::test(start_paused = true)]
            async fn $clause() {
                let fixture = $fixture.await;
                $crate::transport::$clause(&fixture).await;
                $crate::transport::assert_modest(&fixture);
            }
        )+
    };
    ($fixture:expr) => {
        $crate::transport_clauses!([$crate::transport_contract] (@each $fixture));
    };
}

/// `span`, or as much longer as the machine is slower.
fn at_most(fixture: &impl TransportFixture, span: Duration) -> Duration {
    span * fixture.slowness()
}

fn cx() -> Cx {
    Cx::new(Deadline::after(Duration::from_secs(60)), OperationId::random(), Effects::unobserved())
}

async fn connect(fixture: &impl TransportFixture, ports: &[TargetPort]) -> Vec<PortState> {
    let states = fixture.transport().connect(&cx(), ports).await.unwrap();
    let told: Vec<_> = states.iter().map(|it| it.port.clone()).collect();
    assert_eq!(told, ports, "every port is reported, in the order asked");
    states
}

fn failure(state: &PortState) -> &san_core::Error {
    match &state.status {
        PortStatus::Failed(error) => error,
        other => panic!("{}: {other:?}", state.port),
    }
}

async fn routes(fixture: &impl TransportFixture) -> Vec<Route> {
    fixture.transport().routes(&cx(), &fixture.ports()).await.unwrap()
}

/// Waits until there are so many routes.
async fn await_routes(fixture: &impl TransportFixture, count: usize) {
    let waiting = async {
        while routes(fixture).await.len() != count {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waiting).await.unwrap();
}

/// Whatever a clause did: nothing was scanned, nothing was done to more than one target at one portal.
pub fn assert_modest(fixture: &impl TransportFixture) {
    assert_eq!(fixture.writes(), [""; 0], "a transport writes nothing to the kernel");
    for program in fixture.programs() {
        let words: BTreeSet<_> = program.split_whitespace().collect();
        for never in [
            "-R",
            "--rescan",
            "discovery",
            "discoverydb",
            "-U",
            "-L",
            "--logoutall",
            "--loginall",
            "-k",
            "fw",
        ] {
            assert!(!words.contains(never), "{program}");
        }
        assert!(words.contains("-T") && words.contains("-p"), "aimed at no single target: {program}");
    }
}

/// The node's own name can be told.
pub async fn the_node_has_a_name(fixture: &impl TransportFixture) {
    assert_eq!(fixture.transport().initiators(&cx()).await.unwrap().len(), 1);
}

/// A session with every port, each with a route of its own.
pub async fn every_port_is_joined_and_leads_somewhere(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    let states = connect(fixture, &ports).await;
    assert!(states.iter().all(|it| matches!(it.status, PortStatus::Joined)), "{states:?}");
    assert_eq!(fixture.sessions(), ports.len());
    let routes = routes(fixture).await;
    let led: BTreeSet<_> = routes.iter().map(|it| it.port().clone()).collect();
    assert_eq!(led, ports.into_iter().collect());
    let places: BTreeSet<_> = routes
        .iter()
        .filter_map(|it| match it {
            Route::Scsi { host, channel, target, .. } => Some((host, channel, target)),
            _ => None,
        })
        .collect();
    assert_eq!(places.len(), routes.len());
}

/// A repeat starts no program.
pub async fn healthy_sessions_cost_nothing(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    connect(fixture, &ports).await;
    let before = fixture.programs();
    let states = connect(fixture, &ports).await;
    assert!(states.iter().all(|it| matches!(it.status, PortStatus::Connected)), "{states:?}");
    assert_eq!(fixture.programs(), before);
    assert_eq!(fixture.sessions(), ports.len());
}

/// One of the ports is a black hole.
pub async fn one_dead_port_delays_nothing_but_itself(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    fixture.kill(&ports[0]);
    let start = Instant::now();
    let states = connect(fixture, &ports).await;
    assert!(
        start.elapsed() < at_most(fixture, fixture.probe_bound() + Duration::from_secs(1)),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(failure(&states[0]).kind(), ErrorKind::Unavailable);
    assert!(states[1..].iter().all(|it| it.status.is_up()), "{states:?}");
    assert_eq!(routes(fixture).await.len(), ports.len() - 1);
}

/// Nothing answers.
pub async fn all_ports_dead_is_a_bounded_answer_and_leaves_nothing(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    for port in &ports {
        fixture.kill(port);
    }
    for _ in 0..2 {
        let start = Instant::now();
        let states = connect(fixture, &ports).await;
        assert!(start.elapsed() <= at_most(fixture, fixture.probe_bound()), "{:?}", start.elapsed());
        for state in &states {
            assert_eq!(failure(state).kind(), ErrorKind::Unavailable);
        }
    }
    assert_eq!(fixture.sessions(), 0);
    assert_eq!(fixture.programs(), [""; 0]);
}

/// A dead port costs its probe once, not with every call.
pub async fn a_dead_port_is_remembered_while_others_serve(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    fixture.kill(&ports[0]);
    connect(fixture, &ports).await;
    let before = fixture.programs();
    let start = Instant::now();
    for _ in 0..50 {
        let states = connect(fixture, &ports).await;
        assert!(failure(&states[0]).retry_after().is_some());
    }
    assert!(start.elapsed() < at_most(fixture, fixture.probe_bound()), "{:?}", start.elapsed());
    assert_eq!(fixture.programs(), before, "no storm of logins");
}

/// A port that was dead is joined once it answers.
pub async fn a_port_that_comes_back_is_joined(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    fixture.kill(&ports[0]);
    connect(fixture, &ports).await;
    fixture.mend(&ports[0]);
    tokio::time::sleep(fixture.probe_bound() * 10).await;
    let states = connect(fixture, &ports).await;
    assert!(matches!(states[0].status, PortStatus::Joined), "{states:?}");
    assert_eq!(routes(fixture).await.len(), ports.len());
}

/// A session that is there and carries nothing is no route, and gets no second login.
pub async fn a_broken_session_is_not_joined_twice(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    connect(fixture, &ports).await;
    fixture.kill(&ports[0]);
    await_routes(fixture, ports.len() - 1).await;
    let before = fixture.programs();
    let states = connect(fixture, &ports).await;
    assert_eq!(failure(&states[0]).kind(), ErrorKind::Unavailable);
    assert!(states[1..].iter().all(|it| matches!(it.status, PortStatus::Connected)), "{states:?}");
    assert_eq!(fixture.programs(), before);
    assert_eq!(fixture.sessions(), ports.len());
}

/// When the port is back the daemon repairs the session, and it counts again.
pub async fn a_repaired_session_is_connected_again(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    connect(fixture, &ports).await;
    fixture.kill(&ports[0]);
    await_routes(fixture, ports.len() - 1).await;
    fixture.mend(&ports[0]);
    await_routes(fixture, ports.len()).await;
    let states = connect(fixture, &ports).await;
    assert!(matches!(states[0].status, PortStatus::Connected), "{states:?}");
}

/// A session from boot or of another tool is used, and stays when we leave.
pub async fn a_session_of_others_is_used_and_never_ended(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    fixture.join_by_other_means(&ports[0]);
    let states = connect(fixture, &ports).await;
    assert!(matches!(states[0].status, PortStatus::Connected), "{states:?}");
    assert!(matches!(states[1].status, PortStatus::Joined), "{states:?}");
    assert_eq!(fixture.transport().disconnect(&cx(), &ports).await.unwrap(), ports.len() - 1);
    assert_eq!(fixture.sessions(), 1);
    assert_eq!(fixture.transport().disconnect(&cx(), &ports).await.unwrap(), 0, "a repeat ends nothing");
}

/// A login that is refused is not tried again at once (targets lock accounts), and is after a while.
pub async fn refused_logins_are_not_repeated_at_once(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    fixture.refuse_logins(&ports[0]);
    let states = connect(fixture, &ports).await;
    let error = failure(&states[0]);
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(error.remedy().is_some());
    let before = fixture.programs();
    for _ in 0..10 {
        let states = connect(fixture, &ports).await;
        assert_eq!(failure(&states[0]).kind(), ErrorKind::Unauthenticated);
    }
    assert_eq!(fixture.programs(), before);
    fixture.accept_logins(&ports[0]);
    tokio::time::sleep(fixture.login_hold() + Duration::from_secs(1)).await;
    assert!(connect(fixture, &ports).await[0].status.is_up());
}

/// Without its daemon nothing can be tried; with it everything goes on.
pub async fn a_stopped_daemon_is_named_and_forgiven(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    fixture.stop_daemon();
    let start = Instant::now();
    let error = fixture.transport().connect(&cx(), &ports).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.remedy().is_some_and(|it| it.contains("systemctl start")), "{error:?}");
    assert!(start.elapsed() < at_most(fixture, Duration::from_secs(10)));
    fixture.start_daemon();
    let states = connect(fixture, &ports).await;
    assert!(states.iter().all(|it| it.status.is_up()), "{states:?}");
}

/// Many callers at once make one session per port.
pub async fn parallel_callers_share_the_sessions(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    let (a, b, c) =
        tokio::join!(connect(fixture, &ports), connect(fixture, &ports), connect(fixture, &ports));
    let joined = a.iter().chain(&b).chain(&c).filter(|it| matches!(it.status, PortStatus::Joined)).count();
    assert_eq!(joined, ports.len());
    assert!(a.iter().chain(&b).chain(&c).all(|it| it.status.is_up()));
    assert_eq!(fixture.sessions(), ports.len());
    let logins = fixture.programs().iter().filter(|it| it.contains("--login")).count();
    assert_eq!(logins, ports.len());
}

/// No logout while any logical unit is behind the session, whoever it belongs to.
pub async fn a_session_with_devices_is_kept(fixture: &impl TransportFixture) {
    let ports = fixture.ports();
    connect(fixture, &ports).await;
    fixture.add_device().await;
    assert_eq!(fixture.transport().disconnect(&cx(), &ports).await.unwrap(), 0);
    assert_eq!(fixture.sessions(), ports.len());
    fixture.remove_device().await;
    assert_eq!(
        fixture.transport().disconnect(&cx(), &ports[..1]).await.unwrap(),
        1,
        "only the ports asked for"
    );
    assert_eq!(fixture.sessions(), ports.len() - 1);
    assert_eq!(fixture.transport().disconnect(&cx(), &ports).await.unwrap(), ports.len() - 1);
    assert_eq!(fixture.sessions(), 0);
}

/// Routes come from what is there, not from what was asked for.
pub async fn unknown_ports_have_no_routes(fixture: &impl TransportFixture) {
    assert_eq!(routes(fixture).await, []);
    let ports = fixture.ports();
    connect(fixture, &ports[..1]).await;
    assert_eq!(routes(fixture).await.len(), 1);
    assert_eq!(fixture.transport().routes(&cx(), &ports[1..]).await.unwrap(), []);
}
