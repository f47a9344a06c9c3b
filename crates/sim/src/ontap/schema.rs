//! Which fields each resource has, since which release, and what may be done with them. The rows are in `fields.rs`.

use super::error::ApiError;
use super::fields;
use super::version::Version;

/// The resources of the API that are simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    Cluster,
    Node,
    Job,
    Svm,
    Aggregate,
    Volume,
    SnapshotPolicy,
    QosPolicy,
    Snapshot,
    Lun,
    Igroup,
    Initiator,
    LunMap,
    IscsiService,
    IscsiSession,
    Credential,
    Interface,
    RecoveryQueue,
}

/// One field: its dotted path, the first release that has it, and how it may be used:
/// `k` part of the key, `g` returned as a matter of course, `e` expensive (returned only when named),
/// `c` may be set by POST, `u` may be set by PATCH, `x` exists on the array but is not simulated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) path: &'static str,
    pub(crate) since: Version,
    pub(crate) uses: &'static str,
}

impl Field {
    fn is(&self, mark: char) -> bool {
        self.uses.contains(mark)
    }

    pub(crate) fn is_key(&self) -> bool {
        self.is('k')
    }

    pub(crate) fn is_cheap(&self) -> bool {
        self.is('k') || self.is('g')
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.is_cheap() || self.is('e')
    }
}

/// Which request sets a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setter {
    Post,
    Patch,
}

impl Resource {
    pub(crate) fn rows(self) -> &'static [Field] {
        match self {
            Self::Cluster => fields::CLUSTER,
            Self::Node => fields::NODE,
            Self::Job => fields::JOB,
            Self::Svm => fields::SVM,
            Self::Aggregate => fields::AGGREGATE,
            Self::Volume => fields::VOLUME,
            Self::SnapshotPolicy => fields::SNAPSHOT_POLICY,
            Self::QosPolicy => fields::QOS_POLICY,
            Self::Snapshot => fields::SNAPSHOT,
            Self::Lun => fields::LUN,
            Self::Igroup => fields::IGROUP,
            Self::Initiator => fields::INITIATOR,
            Self::LunMap => fields::LUN_MAP,
            Self::IscsiService => fields::ISCSI_SERVICE,
            Self::IscsiSession => fields::ISCSI_SESSION,
            Self::Credential => fields::CREDENTIAL,
            Self::Interface => fields::INTERFACE,
            Self::RecoveryQueue => fields::RECOVERY_QUEUE,
        }
    }

    /// The fields of this resource that `version` has.
    pub(crate) fn known(self, version: Version) -> impl Iterator<Item = &'static Field> {
        self.rows().iter().filter(move |field| field.since <= version)
    }

    /// The fields named by `name`: itself, or everything inside it when it names an object. Empty when unknown.
    pub(crate) fn named(self, name: &str, version: Version) -> Vec<&'static Field> {
        self.known(version).filter(|field| field.is_readable() && covers(name, field.path)).collect()
    }

    /// Whether a request may set the field at `path`.
    pub(crate) fn check_setter(self, path: &str, setter: Setter, version: Version) -> Result<(), ApiError> {
        let inside: Vec<&Field> = self.known(version).filter(|field| covers(path, field.path)).collect();
        if inside.is_empty() {
            return Err(ApiError::unknown_argument(path));
        }
        let mark = match setter {
            Setter::Post => 'c',
            Setter::Patch => 'u',
        };
        if inside.iter().any(|field| field.is(mark)) {
            return Ok(());
        }
        if inside.iter().any(|field| field.is('x')) {
            return Err(ApiError::not_simulated(&format!("field \"{path}\"")));
        }
        let message = format!("Field \"{path}\" cannot be set in this operation");
        Err(super::error::NOT_SETTABLE.error(message).target(path))
    }
}

/// Whether `name` is `path` or an object that holds it.
fn covers(name: &str, path: &str) -> bool {
    path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Version = Version::new(9, 12, 1);
    const NEW: Version = Version::new(9, 17, 1);

    #[test]
    fn objects_name_their_members_and_nothing_else() {
        let paths: Vec<&str> = Resource::Lun.named("status", NEW).iter().map(|field| field.path).collect();
        assert_eq!(paths, ["status.state", "status.container_state", "status.read_only", "status.mapped"]);
        assert!(Resource::Lun.named("stat", NEW).is_empty());
    }

    #[test]
    fn fields_appear_with_their_release() {
        assert!(Resource::Lun.named("serial_number_hex", OLD).is_empty());
        assert_eq!(Resource::Lun.named("serial_number_hex", NEW).len(), 1);
    }

    #[test]
    fn every_row_is_well_formed_and_named_once() {
        for resource in [
            Resource::Cluster,
            Resource::Node,
            Resource::Job,
            Resource::Svm,
            Resource::Aggregate,
            Resource::Volume,
            Resource::SnapshotPolicy,
            Resource::QosPolicy,
            Resource::Snapshot,
            Resource::Lun,
            Resource::Igroup,
            Resource::Initiator,
            Resource::LunMap,
            Resource::IscsiService,
            Resource::IscsiSession,
            Resource::Credential,
            Resource::Interface,
            Resource::RecoveryQueue,
        ] {
            let rows = resource.rows();
            assert!(rows.iter().any(Field::is_key), "{resource:?} has no key");
            for (at, row) in rows.iter().enumerate() {
                assert!(row.uses.chars().all(|mark| "kgecux".contains(mark)), "{}", row.path);
                assert!(rows[..at].iter().all(|other| other.path != row.path), "{} twice", row.path);
            }
        }
    }

    #[test]
    fn setting_follows_the_marks() {
        let code =
            |path, setter| Resource::Volume.check_setter(path, setter, NEW).map_err(|error| error.code);
        assert_eq!(code("name", Setter::Post), Ok(()));
        assert_eq!(code("space.snapshot.autodelete.enabled", Setter::Post), Err(262_196));
        assert_eq!(code("space.snapshot.autodelete.enabled", Setter::Patch), Ok(()));
        assert_eq!(code("nonsense", Setter::Post), Err(262_179));
        assert_eq!(code("uuid", Setter::Patch), Err(262_196));
    }
}
