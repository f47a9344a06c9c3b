//! Who we are to the array: credentials that cannot be printed, where they come from, and what is done about a refusal.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use san_core::{Error, ErrorKind, Result};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

/// How long refused credentials are not tried again, unless they change. Every try counts against the array's lock-out.
const REFUSED: Duration = Duration::from_secs(60);

/// A user name and its password.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The account.
    pub username: String,
    /// Its password.
    pub password: SecretString,
}

impl Credentials {
    fn same_as(&self, other: &Self) -> bool {
        self.username == other.username && self.password.expose_secret() == other.password.expose_secret()
    }

    /// The value of the `Authorization` header (RFC 7617), kept out of every `Debug`.
    pub(crate) fn basic(&self) -> Result<HeaderValue> {
        let pair = format!("{}:{}", self.username, self.password.expose_secret());
        let mut value = HeaderValue::from_str(&format!("Basic {}", base64(pair.as_bytes())))
            .map_err(|_| Error::new(ErrorKind::Internal, "cannot encode the credentials"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Where credentials come from. Asked again after a refusal, so that a rotated password is picked up without a restart.
#[async_trait]
pub trait CredentialSource: fmt::Debug + Send + Sync {
    /// The credentials as they are now.
    async fn read(&self) -> Result<Credentials>;
}

#[async_trait]
impl CredentialSource for Credentials {
    async fn read(&self) -> Result<Credentials> {
        Ok(self.clone())
    }
}

#[derive(Debug, Default)]
struct State {
    current: Option<Credentials>,
    refused: Option<(Credentials, Instant)>,
}

/// The credentials in use and the last refused ones.
#[derive(Debug)]
pub(crate) struct Login {
    source: Arc<dyn CredentialSource>,
    state: Mutex<State>,
}

impl Login {
    pub(crate) fn new(source: Arc<dyn CredentialSource>) -> Self {
        Self { source, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The credentials to use now.
    ///
    /// # Errors
    /// `Unauthenticated`, without a request, while the only ones there are were refused a moment ago.
    pub(crate) async fn current(&self) -> Result<Credentials> {
        if let Some(it) = &self.state().current {
            return Ok(it.clone());
        }
        let fresh = self.source.read().await?;
        let mut state = self.state();
        if let Some((refused, since)) = &state.refused
            && refused.same_as(&fresh)
            && since.elapsed() < REFUSED
        {
            return Err(refusal());
        }
        state.current = Some(fresh.clone());
        Ok(fresh)
    }

    /// The array refused `used`. Returns others to try, if the source has some by now.
    ///
    /// # Errors
    /// `Unauthenticated` where it has none.
    pub(crate) async fn refused(&self, used: &Credentials) -> Result<Credentials> {
        {
            let mut state = self.state();
            if state.current.as_ref().is_some_and(|it| it.same_as(used)) {
                state.current = None;
            }
            state.refused = Some((used.clone(), Instant::now()));
        }
        self.current().await
    }
}

pub(crate) fn refusal() -> Error {
    Error::new(ErrorKind::Unauthenticated, "the array refuses the user name or the password").with_remedy(
        "check that the account exists, is not locked, and may use HTTP; then set the password again",
    )
}

/// Standard base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            if digit <= chunk.len() {
                text.push(char::from(ALPHABET[(group >> (18 - 6 * digit) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_passes_the_vectors_of_the_rfc() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, text) in cases {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }

    #[test]
    fn nothing_prints_a_password() {
        let it = Credentials { username: "admin".into(), password: "canary".into() };
        let encoded = base64(b"admin:canary");
        let shown = format!("{it:?} {:?} {:?}", it.basic().unwrap(), Login::new(Arc::new(it.clone())));
        assert!(!shown.contains("canary") && !shown.contains(&encoded), "{shown}");
    }
}
