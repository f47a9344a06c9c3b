//! The memory of ports that failed, so that a dead one costs its delay once and not with every call.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use san_core::{Error, HostLogin};
use tokio::time::Instant;

use crate::link::Link;

/// What went wrong last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The portal took no TCP connection.
    Probe,
    /// The login failed although the portal took the connection, and proved this: with another secret it is worth a new
    /// one at once.
    Login(HostLogin),
}

#[derive(Debug, Clone)]
struct Hold {
    trouble: Trouble,
    until: Instant,
    failures: u32,
    error: Error,
}

/// Which links are left alone until when.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<HashMap<Link, Hold>>);

impl Holds {
    fn map<T>(&self, work: impl FnOnce(&mut HashMap<Link, Hold>) -> T) -> T {
        // A panic elsewhere cannot leave the map half-changed.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why `link` is left alone because of `trouble`, if it still is.
    pub(crate) fn active(&self, link: &Link, trouble: &Trouble) -> Option<Error> {
        let now = Instant::now();
        self.map(|holds| {
            let hold = holds.get(link).filter(|it| it.trouble == *trouble && it.until > now)?;
            Some(hold.error.clone().with_retry_after(hold.until - now))
        })
    }

    /// Remembers a failure. Repeated trouble of the same kind is left alone twice as long each time, at most sixteenfold.
    pub(crate) fn failed(&self, link: &Link, trouble: Trouble, error: &Error, hold: Duration) {
        self.map(|holds| {
            let before = holds.get(link).filter(|it| it.trouble == trouble).map_or(0, |it| it.failures);
            let factor = if trouble == Trouble::Probe { 1 } else { 1 << before.min(4) };
            let until = Instant::now() + hold * factor;
            let failures = before.saturating_add(1);
            holds.insert(link.clone(), Hold { trouble, until, failures, error: error.clone() });
        });
    }

    /// Forgets what was wrong with `link`.
    pub(crate) fn clear(&self, link: &Link) {
        self.map(|holds| holds.remove(link));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use san_core::{ErrorKind, TargetPort};

    #[tokio::test(start_paused = true)]
    async fn repeated_login_failures_are_left_alone_longer_and_a_dead_portal_is_not() {
        let holds = Holds::default();
        let port = TargetPort::Iscsi {
            portal: "10.0.0.1:3260".parse().unwrap(),
            target: "iqn.2000-01.a:1".parse().unwrap(),
            node: None,
        };
        let link = Link::new(&port, "default");
        let error = Error::new(ErrorKind::Unauthenticated, "refused");
        let second = Duration::from_secs(1);
        let login = Trouble::Login(HostLogin::AsItIs);
        let mut spans = Vec::new();
        for _ in 0..6 {
            holds.failed(&link, login.clone(), &error, second);
            spans.push(holds.active(&link, &login).unwrap().retry_after().unwrap().as_secs());
        }
        assert_eq!(spans, [1, 2, 4, 8, 16, 16]);
        assert!(
            holds.active(&link, &Trouble::Login(HostLogin::Open)).is_none(),
            "it proves something else now"
        );
        assert!(holds.active(&link, &Trouble::Probe).is_none());
        tokio::time::advance(Duration::from_secs(17)).await;
        assert!(holds.active(&link, &login).is_none());
        for _ in 0..3 {
            holds.failed(&link, Trouble::Probe, &error, second);
        }
        assert_eq!(holds.active(&link, &Trouble::Probe).unwrap().retry_after(), Some(second));
        holds.clear(&link);
        assert!(holds.active(&link, &Trouble::Probe).is_none());
    }
}
