//! How this node and an array prove themselves to each other at a login (CHAP, RFC 7143 section 12.1).

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use crate::{Cx, Initiator, Result};

/// A name and the secret that proves it.
#[derive(Debug, Clone)]
pub struct ChapName {
    /// The name.
    pub user: String,
    /// What proves it.
    pub secret: SecretString,
}

impl PartialEq for ChapName {
    fn eq(&self, other: &Self) -> bool {
        self.user == other.user && self.secret.expose_secret() == other.secret.expose_secret()
    }
}

impl Eq for ChapName {}

/// What logins prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chap {
    /// The node to the array.
    pub initiator: ChapName,
    /// The array to the node, where that is asked for.
    pub target: Option<ChapName>,
}

/// What is to be so of this node's logins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostLogin {
    /// Whatever somebody else has settled; nothing is changed.
    #[default]
    AsItIs,
    /// Nothing is proved any more.
    Open,
    /// This is proved.
    Chap(Chap),
}

/// Who may log in, where the array checks that: a role of [`crate::Array`].
#[async_trait]
pub trait HostLogins: Send + Sync {
    /// Makes the array ask `initiators` for what `chap` says, or for nothing. Sessions that are up stay up; whoever logs in
    /// from now on has to prove it.
    async fn ensure_login(&self, cx: &Cx, initiators: &[Initiator], chap: Option<&Chap>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_prints_a_secret() {
        let name = |secret: &str| ChapName { user: "node".into(), secret: secret.into() };
        let it = Chap { initiator: name("canary-of-node"), target: Some(name("canary-of-array")) };
        assert!(!format!("{it:?} {:?}", HostLogin::Chap(it.clone())).contains("canary"));
        assert_ne!(it, Chap { initiator: name("canary-of-nodf"), ..it.clone() });
    }
}
