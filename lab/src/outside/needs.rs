//! What the lab needs of this computer: which programs, in which Debian packages, and how they get here.

use std::path::Path;

use super::tools::{Trouble, command, find, finish, say};

/// A program or file and the Debian package that brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Need {
    package: &'static str,
    test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Program(&'static str),
    /// One of these files.
    File(&'static [&'static str]),
}

/// To run a machine.
const RUNNING: [Need; 3] = [
    Need { package: "qemu-system-x86", test: Test::Program("qemu-system-x86_64") },
    Need { package: "util-linux", test: Test::Program("setpriv") },
    Need { package: "e2fsprogs", test: Test::Program("mke2fs") },
];

/// To build the image.
const BUILDING: [Need; 7] = [
    Need { package: "mmdebstrap", test: Test::Program("mmdebstrap") },
    Need { package: "dpkg", test: Test::Program("dpkg-deb") },
    Need { package: "kmod", test: Test::Program("depmod") },
    Need { package: "xz-utils", test: Test::Program("xz") },
    Need { package: "zstd", test: Test::Program("zstd") },
    // mmdebstrap asks it which keys belong to which suite.
    Need { package: "gpg", test: Test::Program("gpg") },
    // An older release may have an older package, without the key of the guest's.
    Need {
        package: "debian-archive-keyring",
        test: Test::File(&[
            "/usr/share/keyrings/debian-archive-trixie-stable.gpg",
            "/usr/share/keyrings/debian-archive-trixie-stable.pgp",
        ]),
    },
];

/// What somebody is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Run a machine of an image that is there.
    Run,
    /// Build the image, and run it.
    Build,
}

/// The packages that are missing for a task, as `has_program` and `has_file` see this computer.
fn missing(
    task: Task,
    has_program: impl Fn(&str) -> bool,
    has_file: impl Fn(&str) -> bool,
) -> Vec<&'static str> {
    let building: &[Need] = if task == Task::Build { &BUILDING } else { &[] };
    let absent = |need: &&Need| match need.test {
        Test::Program(name) => !has_program(name),
        Test::File(names) => !names.iter().any(|it| has_file(it)),
    };
    RUNNING.iter().chain(building).filter(absent).map(|it| it.package).collect()
}

fn missing_here(task: Task) -> Vec<&'static str> {
    missing(task, |it| find(it).is_some(), |it| Path::new(it).is_file())
}

/// Whether this process may do what only root may.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Sees to it that everything a task needs is here: installs it where that is possible.
///
/// # Errors
/// Where something is missing and cannot be installed; it says what.
pub(super) async fn ensure(task: Task) -> Result<(), Trouble> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Trouble::lacking(format!(
            "the machine is an x86_64 one and gets this computer's programs, which are for {}",
            std::env::consts::ARCH
        )));
    }
    let packages = missing_here(task);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let advice = format!("missing: apt-get install {list}");
    if !is_root() || find("apt-get").is_none() {
        return Err(Trouble::lacking(advice));
    }
    say(&format!("installing {list}"));
    install(&packages).await.map_err(|error| Trouble::lacking(format!("{advice}\n{error}")))?;
    let still = missing_here(task);
    if still.is_empty() {
        return Ok(());
    }
    Err(Trouble::lacking(format!("these packages do not bring what is needed here: {}", still.join(" "))))
}

async fn install(packages: &[&str]) -> Result<(), Trouble> {
    let apt = |arguments: &[&str]| {
        let mut apt = command("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    finish(&mut apt(&["update", "-q"])).await?;
    let mut install = apt(&["install", "-q", "-y", "--no-install-recommends"]);
    finish(install.args(packages)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_missing_where_everything_is_there() {
        assert!(missing(Task::Build, |_| true, |_| true).is_empty());
    }

    #[test]
    fn names_the_packages_of_what_is_missing() {
        assert_eq!(missing(Task::Run, |it| it != "qemu-system-x86_64", |_| true), ["qemu-system-x86"]);
        assert_eq!(missing(Task::Build, |it| it != "xz", |_| false), ["xz-utils", "debian-archive-keyring"]);
    }

    #[test]
    fn running_needs_nothing_of_what_building_needs() {
        assert!(missing(Task::Run, |it| it != "mmdebstrap", |_| false).is_empty());
    }
}
