//! The aggregates as their SVM tells of them, for an account that sees none itself, as one of an SVM.

use san_core::{Cx, Result};
use san_rest::Request;

use crate::aggregates::Room;
use crate::client::Api;
use crate::config::OntapConfig;
use crate::release::{Feature, Release};
use crate::wire;

/// The aggregates by name, in the order of the settings; `None` where the SVM has none of that name assigned.
///
/// Their room is what is left in them, and what the SVM's volumes have of it. An older release does not tell what is left:
/// there it is the volumes themselves, their sizes and what is free in them, which is nothing before the first. Which node
/// they are on and whether they encrypt is told by none.
pub(crate) async fn read(
    cx: &Cx,
    api: &Api,
    config: &OntapConfig,
    release: Release,
    svm: &str,
) -> Result<Vec<(String, Option<Room>)>> {
    let mut fields = "uuid,name,aggregates.name".to_owned();
    if release.has(Feature::SvmRoom) {
        fields.push_str(",aggregates.available_size");
    }
    let svm: wire::Svm =
        api.get(cx, &Request::get("/api/svm/svms/{}", &[svm]).query("fields", fields)).await?;
    let request = Request::get("/api/storage/volumes", &[])
        .query("svm.uuid", &svm.uuid)
        .query("aggregates.name", config.aggregates.join("|"))
        .query("fields", "aggregates.name,space.size,space.available,space.used");
    let volumes: Vec<wire::VolumeRoom> = api.list(cx, request).await?;
    let room = |name: &String| {
        let assigned = svm.aggregates.iter().find(|it| it.name == *name);
        (name.clone(), assigned.map(|it| room(it, &volumes)))
    };
    Ok(config.aggregates.iter().map(room).collect())
}

fn room(aggregate: &wire::Assigned, volumes: &[wire::VolumeRoom]) -> Room {
    let is_in_it =
        |it: &&wire::VolumeRoom| it.aggregates.iter().any(|it| it.name.as_ref() == Some(&aggregate.name));
    let sum = |of: fn(&wire::VolumeSpace) -> u64| -> u64 {
        let spaces = volumes.iter().filter(is_in_it).filter_map(|it| it.space.as_ref());
        spaces.map(of).fold(0, u64::saturating_add)
    };
    let (total, available) = match aggregate.available_size {
        Some(available) => (available.saturating_add(sum(|it| it.used)), available),
        None => (sum(|it| it.size), sum(|it| it.available)),
    };
    Room { name: aggregate.name.clone(), node: String::new(), total, available, encrypts: false }
}
