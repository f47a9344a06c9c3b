//! Secrets of a storage: one root-only file in the cluster file system, read again when the array refuses them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use san_core::{Cx, Error, ErrorKind, Result};
use san_engine::Folder;
use san_rest::{CredentialSource, Credentials};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The one secret option there is.
const PASSWORD: &str = "sanbridge-password";

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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    password: SecretString,
}

#[derive(Serialize)]
struct Written<'a> {
    password: &'a str,
}

impl Secrets {
    /// The password, if one is given.
    ///
    /// # Errors
    /// `InvalidInput` for secrets nobody knows, and for a password that is taken away.
    pub(crate) fn password(&self) -> Result<Option<&SecretString>> {
        if let Some(name) = self.0.keys().find(|it| *it != PASSWORD) {
            let shown: String = name.chars().take(40).collect();
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{shown:?} is no secret this version knows"),
            ));
        }
        match self.0.get(PASSWORD) {
            None => Ok(None),
            Some(Some(password)) if !password.expose_secret().is_empty() => Ok(Some(password)),
            Some(_) => {
                Err(Error::new(ErrorKind::InvalidInput, format!("{PASSWORD} cannot be empty or deleted")))
            }
        }
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

    pub(crate) async fn write(&self, cx: &Cx, storage: &str, password: &SecretString) -> Result<()> {
        self.0.write(cx, &Self::file(storage), &Written { password: password.expose_secret() }).await
    }

    pub(crate) async fn remove(&self, cx: &Cx, storage: &str) -> Result<()> {
        self.0.remove(cx, &Self::file(storage)).await.map(|_| ())
    }

    pub(crate) async fn read(&self, storage: &str) -> Result<Option<SecretString>> {
        let stored: Option<Stored> = self.0.read(&Self::file(storage)).await?;
        Ok(stored.map(|it| it.password))
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
        Ok(Credentials { username: self.username.clone(), password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_not_understood_is_not_repeated() {
        let good: Secrets = serde_json::from_str(r#"{"sanbridge-password":12345678}"#).unwrap();
        assert_eq!(good.password().unwrap().unwrap().expose_secret(), "12345678");
        for text in [r#"{"sanbridge-password":["hunter2"]}"#, r#"["hunter2"]"#, r#""hunter2""#] {
            let error = serde_json::from_str::<Secrets>(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(!format!("{good:?}").contains("12345678"));
    }
}
