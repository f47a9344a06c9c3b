//! What the SVM asks nodes for when they log in.

use san_core::{Array as _, Chap, ChapName, Initiator};
use san_sim::ontap::{Fault, Rule, Times, When};

use crate::fixture::{Fixture, NEW, cx};

const NODE: &str = "iqn.1993-08.org.debian:01:node1";

pub(crate) fn chap(secret: &str, target: Option<&str>) -> Chap {
    let name = |user: &str, secret: &str| ChapName { user: user.into(), secret: secret.into() };
    Chap { initiator: name("nodes", secret), target: target.map(|it| name("filer", it)) }
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_made_changed_and_removed_and_every_step_may_be_repeated() {
    let fixture = Fixture::new(NEW).await;
    let logins = fixture.array.host_logins().unwrap();
    let nodes = [Initiator::Iscsi(NODE.parse().unwrap())];
    let own = |user: &str| Some(user.to_owned());
    for (settings, users) in [
        (None, None),
        (Some(chap("one-long-secret", None)), Some((own("nodes"), None))),
        (Some(chap("two-long-secret", Some("array-secret"))), Some((own("nodes"), own("filer")))),
        (Some(chap("two-long-secret", None)), Some((own("nodes"), None))),
        (None, None),
    ] {
        for _ in 0..2 {
            logins.ensure_login(&cx(), &nodes, settings.as_ref()).await.unwrap();
            assert_eq!(fixture.sim.credential_users(NODE), users);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_leaves_the_entry_as_it_was_asked_for() {
    let fixture = Fixture::new(NEW).await;
    let logins = fixture.array.host_logins().unwrap();
    let nodes = [Initiator::Iscsi(NODE.parse().unwrap())];
    for (method, settings) in
        [("POST", Some(chap("one-long-secret", None))), ("PATCH", Some(chap("two", None))), ("DELETE", None)]
    {
        let when = When { method: Some(method.to_owned()), times: Times::Count(1), ..When::default() };
        fixture.sim.inject(Rule { when, fault: Fault::LoseAnswer });
        logins.ensure_login(&cx(), &nodes, settings.as_ref()).await.unwrap();
        assert_eq!(fixture.sim.credential_users(NODE).is_some(), settings.is_some(), "{method}");
    }
}
