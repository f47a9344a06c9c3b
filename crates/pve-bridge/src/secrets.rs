//! Secrets of a storage: one root-only file in the cluster file system, read again when the array refuses them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use san_core::{Cx, Error, ErrorKind, Result};
use san_engine::Folder;
use san_rest::{CredentialSource, Credentials};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// The one secret option there is.
const PASSWORD: &str = "sanbridge-password";

/// Secrets as a request carries them; `None` deletes one.
#[derive(Clone, Deserialize, Default)]
#[serde(transparent)]
pub(crate) struct Secrets(BTreeMap<String, Option<SecretString>>);

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
    pub(crate) fn at(folder: &Path) -> Self {
        Self(Folder::at(folder))
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
