//! The realm: what makes this cluster's volumes this cluster's, even where another one has the same name.

use std::path::Path;
use std::time::Duration;

use san_core::{Cx, Error, ErrorKind, Owner, Result};
use san_engine::Folder;
use serde::{Deserialize, Serialize};

/// The file that holds it, below the cluster folder.
const FILE: &str = "realm";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Realm {
    realm: String,
}

/// Held by the node that is choosing the realm; of no meaning once that is done.
const CLAIM: &str = "realm.claim";
/// Choosing takes milliseconds: a claim of this age was left by a node that died.
const CLAIM_AGE: Duration = Duration::from_secs(60);

/// The cluster's realm. Made once, by whichever node comes first: the cluster's name and a random part.
pub(crate) async fn realm(cx: &Cx, pve: &Path, folder: &Folder, node: &str) -> Result<String> {
    if let Some(it) = folder.read::<Realm>(FILE).await? {
        return Ok(it.realm);
    }
    if !folder.claim(cx, CLAIM, &node).await? {
        if folder.age(CLAIM).await?.is_some_and(|it| it > CLAIM_AGE) {
            folder.remove(cx, CLAIM).await?;
        }
        return Err(Error::new(ErrorKind::Busy, "another node is choosing the cluster's realm")
            .on(folder.path().display())
            .with_remedy("try again in a moment"));
    }
    // Somebody may have finished between the look and the claim.
    if let Some(it) = folder.read::<Realm>(FILE).await? {
        folder.remove(cx, CLAIM).await?;
        return Ok(it.realm);
    }
    let name = cluster_name(pve).await?.unwrap_or_else(|| node.to_owned());
    let random = uuid::Uuid::new_v4().simple().to_string();
    let made = Realm { realm: format!("{name}-{}", &random[..8]) };
    Owner::new(&made.realm, "x", "x")?;
    folder.write(cx, FILE, &made).await?;
    folder.remove(cx, CLAIM).await?;
    Ok(made.realm)
}

/// The name in corosync's configuration; `None` on a node without a cluster.
async fn cluster_name(pve: &Path) -> Result<Option<String>> {
    let path = pve.join("corosync.conf");
    let text = match tokio::fs::read_to_string(&path).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Error::new(ErrorKind::Unavailable, "cannot read the cluster's configuration")
                .on(path.display())
                .caused_by(error));
        }
    };
    let name = text.lines().filter_map(|it| it.trim().strip_prefix("cluster_name:")).map(str::trim).next();
    Ok(name.map(str::to_owned))
}
