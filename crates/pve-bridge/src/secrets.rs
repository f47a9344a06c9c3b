//! Secrets of a storage: one root-only file in the cluster file system, read again when the array refuses them and before
//! every login of a session.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use async_trait::async_trait;
use san_core::{Chap, ChapName, Cx, Error, ErrorKind, HostLogin, Result};
use san_engine::Folder;
use san_rest::{CredentialSource, Credentials};
use san_transport_iscsi::LoginSource;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The password of the account.
const PASSWORD: &str = "sanbridge-password";
/// What nodes prove to the array when they log in.
const CHAP: &str = "sanbridge-chap-password";
/// What the array proves to them.
const CHAP_TARGET: &str = "sanbridge-chap-target-password";
/// Fewer characters can be guessed (RFC 7143, section 12.1.2); more are no secret a person handles.
const CHAP_LENGTH: RangeInclusive<usize> = 12..=128;

/// Secrets as a request carries them; `None` deletes one.
#[derive(Clone, Default)]
pub(crate) struct Secrets(BTreeMap<String, Option<SecretString>>);

impl<'de> Deserialize<'de> for Secrets {
    /// Takes texts, and numbers for what a person typed as digits. Its errors never repeat a value.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let values: BTreeMap<String, Value> = Deserialize::deserialize(from)
            .map_err(|_| serde::de::Error::custom("secrets are not a map of names to texts"))?;
        let secret = |value| match value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(SecretString::from(text))),
            Value::Number(number) => Ok(Some(SecretString::from(number.to_string()))),
            _ => Err(serde::de::Error::custom("a secret is neither a text nor a number")),
        };
        values.into_iter().map(|(name, value)| Ok((name, secret(value)?))).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What the file holds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stored {
    pub(crate) password: SecretString,
    #[serde(default)]
    chap: Option<SecretString>,
    #[serde(default)]
    chap_target: Option<SecretString>,
}

impl Stored {
    /// Whether logins prove the same with both.
    pub(crate) fn proves_like(&self, other: &Self) -> bool {
        let same = |one: &Option<SecretString>, two: &Option<SecretString>| {
            one.as_ref().map(ExposeSecret::expose_secret) == two.as_ref().map(ExposeSecret::expose_secret)
        };
        same(&self.chap, &other.chap) && same(&self.chap_target, &other.chap_target)
    }
}

#[derive(Serialize)]
struct Written<'a> {
    password: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    chap: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chap_target: Option<&'a str>,
}

impl Secrets {
    /// Whether nothing is said of any.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is stored after this has been said. What nobody proves any more is forgotten.
    ///
    /// # Errors
    /// `InvalidInput` naming everything that is wrong: secrets nobody knows, a password that is missing or taken away, and
    /// those of CHAP where they do not fit the names.
    pub(crate) fn applied_to(&self, stored: Option<Stored>, names: Option<&ChapNames>) -> Result<Stored> {
        let mut problems = Vec::new();
        for name in self.0.keys().filter(|it| ![PASSWORD, CHAP, CHAP_TARGET].contains(&it.as_str())) {
            let shown: String = name.chars().take(40).collect();
            problems.push(format!("{shown:?} is no secret this version knows"));
        }
        let (password, chap, chap_target) = match stored {
            Some(it) => (Some(it.password), it.chap, it.chap_target),
            None => (None, None, None),
        };
        let password = match self.0.get(PASSWORD) {
            Some(Some(given)) if !given.expose_secret().is_empty() => Some(given.clone()),
            Some(_) => {
                problems.push(format!("{PASSWORD} cannot be empty or deleted"));
                None
            }
            None if password.is_none() => {
                problems.push(format!("{PASSWORD} is missing"));
                None
            }
            None => password,
        };
        let chap = self.chap_secret(CHAP, names.is_some(), chap, &mut problems);
        let proves = names.is_some_and(|it| it.target.is_some());
        let chap_target = self.chap_secret(CHAP_TARGET, proves, chap_target, &mut problems);
        if let (Some(a), Some(b)) = (&chap, &chap_target)
            && a.expose_secret() == b.expose_secret()
        {
            // Whoever knows one proof could answer with it.
            problems.push(format!("{CHAP} and {CHAP_TARGET} must differ"));
        }
        match password {
            Some(password) if problems.is_empty() => Ok(Stored { password, chap, chap_target }),
            _ => Err(Error::new(ErrorKind::InvalidInput, problems.join("; "))),
        }
    }

    /// One secret of CHAP, which is there exactly where its name is configured.
    fn chap_secret(
        &self,
        key: &'static str,
        is_named: bool,
        stored: Option<SecretString>,
        problems: &mut Vec<String>,
    ) -> Option<SecretString> {
        let name = key.replace("password", "username");
        let secret = match self.0.get(key) {
            Some(Some(_)) if !is_named => {
                problems.push(format!("{key} is given and {name} is not"));
                return None;
            }
            Some(Some(given)) => given.clone(),
            Some(None) if is_named => {
                problems.push(format!("{key} cannot be deleted as long as there is {name}"));
                return None;
            }
            None if is_named && stored.is_none() => {
                problems.push(format!("{key} is missing, and {name} is given"));
                return None;
            }
            None if is_named => return stored,
            Some(None) | None => return None,
        };
        let text = secret.expose_secret();
        if !CHAP_LENGTH.contains(&text.len()) || !text.bytes().all(|it| it.is_ascii_graphic()) {
            let (least, most) = CHAP_LENGTH.into_inner();
            problems
                .push(format!("{key} must be {least} to {most} letters, digits and signs, without spaces"));
        }
        Some(secret)
    }
}

/// The secret files of all storages.
#[derive(Debug, Clone)]
pub(crate) struct SecretFiles(Folder);

impl SecretFiles {
    pub(crate) fn at(folder: Folder) -> Self {
        Self(folder)
    }

    fn file(storage: &str) -> String {
        format!("{storage}.sanbridge")
    }

    pub(crate) async fn write(&self, cx: &Cx, storage: &str, secrets: &Stored) -> Result<()> {
        let written = Written {
            password: secrets.password.expose_secret(),
            chap: secrets.chap.as_ref().map(ExposeSecret::expose_secret),
            chap_target: secrets.chap_target.as_ref().map(ExposeSecret::expose_secret),
        };
        self.0.write(cx, &Self::file(storage), &written).await
    }

    pub(crate) async fn remove(&self, cx: &Cx, storage: &str) -> Result<()> {
        self.0.remove(cx, &Self::file(storage)).await.map(|_| ())
    }

    pub(crate) async fn read(&self, storage: &str) -> Result<Option<Stored>> {
        self.0.read(&Self::file(storage)).await
    }

    /// What logins of a storage's sessions prove, from its file whenever that is asked for.
    pub(crate) fn logins(&self, storage: &str, kind: ChapUse) -> FileLogins {
        FileLogins { files: self.clone(), storage: storage.to_owned(), kind }
    }

    /// The credentials of a storage, from its file whenever they are asked for.
    pub(crate) fn source(&self, storage: &str, username: &str) -> FileCredentials {
        FileCredentials { files: self.clone(), storage: storage.to_owned(), username: username.to_owned() }
    }

    pub(crate) fn path(&self, storage: &str) -> PathBuf {
        self.0.path().join(Self::file(storage))
    }
}

/// Credentials whose password lies in a file.
#[derive(Debug)]
pub(crate) struct FileCredentials {
    files: SecretFiles,
    storage: String,
    username: String,
}

#[async_trait]
impl CredentialSource for FileCredentials {
    async fn read(&self) -> Result<Credentials> {
        let password = self.files.read(&self.storage).await?.ok_or_else(|| {
            let path = self.files.path(&self.storage);
            Error::new(
                ErrorKind::Unauthenticated,
                format!("there is no password for it ({})", path.display()),
            )
            .on(&self.storage)
            .with_remedy(format!("pvesm set {} --{PASSWORD} ...", self.storage))
        })?;
        Ok(Credentials { username: self.username.clone(), password: password.password })
    }
}

/// The names both sides go by; their secrets lie in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChapNames {
    /// The nodes'.
    pub initiator: String,
    /// The array's, where it has to prove itself too.
    pub target: Option<String>,
}

/// What a storage does about CHAP.
#[derive(Debug, Clone)]
pub(crate) enum ChapUse {
    /// It was never told to do anything.
    None,
    /// It was, and is no longer.
    NoLonger,
    /// It proves and is proved this.
    Names(ChapNames),
}

/// What logins prove, as the file says.
#[derive(Debug)]
pub(crate) struct FileLogins {
    files: SecretFiles,
    storage: String,
    kind: ChapUse,
}

#[async_trait]
impl LoginSource for FileLogins {
    async fn read(&self) -> Result<HostLogin> {
        let names = match &self.kind {
            ChapUse::None => return Ok(HostLogin::AsItIs),
            ChapUse::NoLonger => return Ok(HostLogin::Open),
            ChapUse::Names(names) => names,
        };
        let missing = |key: &str| {
            Error::new(ErrorKind::Unauthenticated, format!("there is no {key} for it"))
                .on(&self.storage)
                .with_remedy(format!("pvesm set {} --{key} ...", self.storage))
        };
        let stored = self.files.read(&self.storage).await?;
        let (chap, chap_target) = stored.map(|it| (it.chap, it.chap_target)).unwrap_or_default();
        let secret = chap.ok_or_else(|| missing(CHAP))?;
        let target = match &names.target {
            None => None,
            Some(user) => {
                let secret = chap_target.ok_or_else(|| missing(CHAP_TARGET))?;
                Some(ChapName { user: user.clone(), secret })
            }
        };
        let initiator = ChapName { user: names.initiator.clone(), secret };
        Ok(HostLogin::Chap(Chap { initiator, target }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_not_understood_is_not_repeated() {
        let good: Secrets = serde_json::from_str(r#"{"sanbridge-password":12345678}"#).unwrap();
        assert_eq!(good.applied_to(None, None).unwrap().password.expose_secret(), "12345678");
        for text in [r#"{"sanbridge-password":["hunter2"]}"#, r#"["hunter2"]"#, r#""hunter2""#] {
            let error = serde_json::from_str::<Secrets>(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(!format!("{good:?}").contains("12345678"));
    }

    fn given(pairs: &[(&str, Option<&str>)]) -> Secrets {
        Secrets(pairs.iter().map(|(name, it)| ((*name).to_owned(), it.map(SecretString::from))).collect())
    }

    #[test]
    fn secrets_of_chap_are_there_exactly_where_their_names_are() {
        let one_way = ChapNames { initiator: "pve".into(), target: None };
        let mutual = ChapNames { target: Some("filer".into()), ..one_way.clone() };
        let (long, other) = ("a-long-secret", "another-secret");
        let password = (PASSWORD, Some("x"));
        let (chap, target) = ((CHAP, Some(long)), (CHAP_TARGET, Some(other)));
        for (pairs, names, word) in [
            (vec![password], None, ""),
            (vec![password, chap], Some(&one_way), ""),
            (vec![password, chap, target], Some(&mutual), ""),
            (vec![chap], Some(&one_way), "sanbridge-password is missing"),
            (vec![password, chap], None, "sanbridge-chap-username is not"),
            (vec![password], Some(&one_way), "sanbridge-chap-password is missing"),
            (vec![password, chap], Some(&mutual), "sanbridge-chap-target-password is missing"),
            (vec![password, (CHAP, Some("short"))], Some(&one_way), "12 to 128"),
            (vec![password, (CHAP, Some("with a space in it"))], Some(&one_way), "without spaces"),
            (vec![password, chap, (CHAP_TARGET, Some(long))], Some(&mutual), "must differ"),
            (vec![password, (CHAP, None)], Some(&one_way), "cannot be deleted"),
            (vec![password, ("sanbridge-pin", Some("1"))], None, "sanbridge-pin"),
        ] {
            match given(&pairs).applied_to(None, names) {
                Ok(_) => assert_eq!(word, "", "{pairs:?}"),
                Err(error) => {
                    assert!(!word.is_empty() && error.message().contains(word), "{word:?} in {error}");
                    assert!(!format!("{error:?}").contains("secret\""), "{error:?}");
                }
            }
        }
        let stored = given(&[password, chap, target]).applied_to(None, Some(&mutual)).unwrap();
        let kept = given(&[]).applied_to(Some(stored.clone()), Some(&mutual)).unwrap();
        assert_eq!(kept.chap.unwrap().expose_secret(), long);
        let dropped = given(&[]).applied_to(Some(stored), None).unwrap();
        assert!(dropped.chap.is_none() && dropped.chap_target.is_none());
    }
}
