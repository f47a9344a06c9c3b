//! How a disk that is made or renamed gets its name.

use san_core::{Cx, Error, ErrorKind, Owner, Result, VolumeKey};
use serde::{Deserialize, Serialize};

use crate::san::San;
use crate::tombstone::is_tombstone;

/// Names that look free in the cluster's bindings and are taken on the array: after so many the array is asked for all.
const SURPRISES: usize = 3;
/// More numbered disks of one stem there are not.
const NUMBERS: u32 = 10_000;

/// How a disk gets its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Naming {
    /// Exactly this one.
    Exact(String),
    /// The stem and the lowest free number.
    Numbered {
        /// What all names begin with.
        stem: String,
    },
}

impl Naming {
    /// Refuses names that cannot be, before anything is begun.
    pub(crate) fn check(&self, san: &San) -> Result<()> {
        let sample = match self {
            Self::Exact(object) => object.clone(),
            Self::Numbered { stem } => format!("{stem}{NUMBERS}"),
        };
        if is_tombstone(&sample) {
            let message = "names that begin so are those of volumes that were deleted";
            return Err(Error::new(ErrorKind::InvalidInput, message).on(sample));
        }
        san.encode(&san.owner(&sample)?).map(drop)
    }

    /// Refuses the one name where the cluster knows a living volume by it, also one that the array shows under another name
    /// while it is being renamed: it may get this one back. What is known of a volume that is gone is forgotten.
    pub(crate) async fn require_unbound(&self, cx: &Cx, san: &San) -> Result<()> {
        let Self::Exact(object) = self else { return Ok(()) };
        let owner = san.owner(object)?;
        let Some(binding) = san.cluster().binding(cx, &owner).await? else { return Ok(()) };
        match san.array().volume(cx, &VolumeKey::Id(binding.id.clone())).await? {
            None => san.cluster().unbind(cx, &owner, &binding.id).await,
            // Where it was deleted, and whoever did so came no further, looking at it ends that.
            Some(now) if now.name != binding.name => match san.find(cx, &owner, Some(&binding)).await {
                Ok(None) => Ok(()),
                _ => Err(taken(object)),
            },
            Some(_) => Err(taken(object)),
        }
    }

    /// Operations that choose of the same names run one after the other.
    pub(crate) fn lock_name(&self, space: &str) -> String {
        match self {
            Self::Exact(object) => format!("{space}/{object}"),
            Self::Numbered { stem } => format!("{space}/{stem}#"),
        }
    }

    /// The one name, or the lowest number that neither the cluster nor an earlier attempt (`taken`) knows.
    pub(crate) async fn choose(&self, cx: &Cx, san: &San, taken: &[String]) -> Result<Owner> {
        let stem = match self {
            Self::Exact(object) => return san.owner(object),
            Self::Numbered { stem } => stem,
        };
        let mut known: Vec<String> = Vec::new();
        for owner in san.cluster().bound(cx, san.realm(), san.space()).await? {
            if owner.object().starts_with(stem) {
                known.push(owner.object().to_owned());
            }
        }
        if taken.len() >= SURPRISES {
            // The bindings do not tell the truth here; the array does.
            known.extend(san.disks(cx).await?.into_iter().map(|it| it.owner.object().to_owned()));
        }
        let free = (0..NUMBERS)
            .map(|it| format!("{stem}{it}"))
            .find(|it| !known.contains(it) && !taken.contains(it));
        let object = free.ok_or_else(|| {
            let message = format!("all {NUMBERS} names beginning with {stem} are taken");
            Error::new(ErrorKind::LimitReached, message)
        })?;
        san.owner(&object)
    }
}

pub(crate) fn taken(object: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, "a volume of this name exists").on(object)
}
