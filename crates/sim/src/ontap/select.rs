//! The `fields` parameter: which fields of a record are returned.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::schema::{Field, Resource};
use super::version::Version;

/// What a GET returns when `fields` is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    /// A collection: the key and the fields that were filtered on.
    Keys,
    /// A single object: every field that is not expensive.
    Cheap,
}

/// A set of fields, as a tree.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    members: BTreeMap<&'static str, Selection>,
}

/// What to do about names in `fields` that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    Refuse,
    Ignore,
}

impl Selection {
    pub(crate) fn new(
        resource: Resource,
        version: Version,
        fields: Option<&str>,
        whole: Whole,
        unknown: Unknown,
    ) -> Result<Self, ApiError> {
        let mut selection = Self::default();
        resource.known(version).filter(|field| field.is_key()).for_each(|field| selection.add(field));
        match fields {
            None if whole == Whole::Cheap => selection.add_cheap(resource, version),
            None => {}
            Some(names) => {
                for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                    selection.add_name(resource, version, name, unknown)?;
                }
            }
        }
        Ok(selection)
    }

    fn add_cheap(&mut self, resource: Resource, version: Version) {
        resource.known(version).filter(|field| field.is_cheap()).for_each(|field| self.add(field));
    }

    fn add_name(
        &mut self,
        resource: Resource,
        version: Version,
        name: &str,
        unknown: Unknown,
    ) -> Result<(), ApiError> {
        match name {
            "*" => self.add_cheap(resource, version),
            "**" => {
                resource.known(version).filter(|field| field.is_readable()).for_each(|field| self.add(field));
            }
            _ => self.add_named(&resource.named(name, version), name, unknown)?,
        }
        Ok(())
    }

    /// A field by its own name is returned whatever it costs; an object gives its cheap members, or all of them when
    /// the whole object is expensive.
    fn add_named(&mut self, fields: &[&'static Field], name: &str, unknown: Unknown) -> Result<(), ApiError> {
        if fields.is_empty() {
            return match unknown {
                Unknown::Ignore => Ok(()),
                Unknown::Refuse => Err(ApiError::bad_value(name, "fields")),
            };
        }
        let all_costly = fields.iter().all(|field| !field.is_cheap());
        for field in fields {
            if field.path == name || field.is_cheap() || all_costly {
                self.add(field);
            }
        }
        Ok(())
    }

    /// Adds the fields a filter used: they are always returned.
    pub(crate) fn add_filter(&mut self, resource: Resource, version: Version, path: &str) {
        resource
            .named(path, version)
            .into_iter()
            .filter(|field| field.path == path)
            .for_each(|it| self.add(it));
    }

    fn add(&mut self, field: &Field) {
        let mut at = self;
        for part in field.path.split('.') {
            at = at.members.entry(part).or_default();
        }
    }

    /// The record without what was not selected, and without what is not set.
    pub(crate) fn prune(&self, record: Value) -> Value {
        if self.members.is_empty() {
            return record;
        }
        match record {
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.prune(item)).collect()),
            Value::Object(mut members) => {
                let mut kept = Map::new();
                for (name, inner) in &self.members {
                    match members.remove(*name).map(|value| inner.prune(value)) {
                        None | Some(Value::Null) => {}
                        Some(Value::Object(empty)) if empty.is_empty() => {}
                        Some(value) => {
                            kept.insert((*name).to_owned(), value);
                        }
                    }
                }
                Value::Object(kept)
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(fields: Option<&str>, whole: Whole) -> Value {
        let record = json!({
            "uuid": "u", "name": "/vol/v/l", "serial_number": "s", "comment": null,
            "status": {"state": "online", "mapped": true}, "space": {"size": 1, "guarantee": {"requested": false}},
            "lun_maps": [{"logical_unit_number": 0, "igroup": {"name": "i", "uuid": "x"}}],
        });
        let version = Version::new(9, 16, 1);
        Selection::new(Resource::Lun, version, fields, whole, Unknown::Refuse).unwrap().prune(record)
    }

    #[test]
    fn collections_show_keys_objects_show_cheap_fields() {
        assert_eq!(shown(None, Whole::Keys), json!({"uuid": "u", "name": "/vol/v/l"}));
        let cheap = json!({
            "uuid": "u", "name": "/vol/v/l", "serial_number": "s", "status": {"state": "online"},
            "space": {"size": 1, "guarantee": {"requested": false}}
        });
        assert_eq!(shown(None, Whole::Cheap), cheap);
        assert_eq!(shown(Some("*"), Whole::Keys), cheap);
    }

    #[test]
    fn expensive_fields_only_when_named() {
        assert_eq!(shown(Some("status"), Whole::Keys)["status"], json!({"state": "online"}));
        assert_eq!(shown(Some("status.mapped"), Whole::Keys)["status"], json!({"mapped": true}));
        assert_eq!(shown(Some("**"), Whole::Keys)["status"]["mapped"], json!(true));
        assert_eq!(shown(Some("lun_maps"), Whole::Keys)["lun_maps"][0]["igroup"]["name"], json!("i"));
        assert_eq!(
            shown(Some("*,lun_maps.igroup.name"), Whole::Keys)["lun_maps"],
            json!([{"igroup": {"name": "i"}}])
        );
    }
}
