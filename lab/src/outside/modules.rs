//! Which files of a kernel's modules the guest needs: a list of names, and what they depend on.

use std::collections::{BTreeMap, BTreeSet};

/// What `depmod` knows of a kernel.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// Path of each module by its name, relative to the folder of the release.
    paths: BTreeMap<String, String>,
    /// The paths it needs, each before what needs it.
    needs: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
}

/// The names in one of the lists: words, with comments to the end of the line.
pub(super) fn names(list: &str) -> Vec<&str> {
    list.lines().flat_map(|it| it.split('#').next().unwrap_or_default().split_whitespace()).collect()
}

/// Dashes and underscores are the same in a module's name.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

impl Modules {
    /// Reads the files `modules.dep` and `modules.builtin`.
    pub(super) fn new(dependencies: &str, builtin: &str) -> Self {
        let mut modules = Self { builtin: builtin.lines().map(name).collect(), ..Self::default() };
        for (path, needs) in dependencies.lines().filter_map(|it| it.split_once(':')) {
            modules.paths.insert(name(path), path.to_owned());
            // modules.dep lists what has to be there first last.
            let needs = needs.split_whitespace().rev().map(str::to_owned).collect();
            modules.needs.insert(path.to_owned(), needs);
        }
        modules
    }

    /// The paths of these modules and of all they need, in an order in which they can be loaded.
    ///
    /// # Errors
    /// The names this kernel does not have.
    pub(super) fn closure(&self, wanted: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let mut unknown = Vec::new();
        let mut seen = BTreeSet::new();
        let mut paths = Vec::new();
        for it in wanted {
            let wanted = it.replace('-', "_");
            let Some(path) = self.paths.get(&wanted) else {
                if !self.builtin.contains(&wanted) {
                    unknown.push((*it).to_owned());
                }
                continue;
            };
            for path in self.needs.get(path).into_iter().flatten().chain([path]) {
                if seen.insert(path.as_str()) {
                    paths.push(path.clone());
                }
            }
        }
        if unknown.is_empty() { Ok(paths) } else { Err(unknown) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n\
        kernel/net/9p/9pnet.ko.xz:\n\
        kernel/fs/netfs/netfs.ko.xz:\n\
        kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz\n";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let modules = Modules::new(DEPENDENCIES, "kernel/drivers/virtio/virtio_pci.ko\n");
        assert_eq!(
            modules.closure(&["9p", "virtio-pci", "9pnet-virtio"]).unwrap(),
            [
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/net/9p/9pnet.ko.xz",
                "kernel/fs/9p/9p.ko.xz",
                "kernel/net/9p/9pnet_virtio.ko.xz"
            ]
        );
    }

    #[test]
    fn unknown_names_are_told() {
        let modules = Modules::new(DEPENDENCIES, "");
        assert_eq!(modules.closure(&["9p", "zfs"]).unwrap_err(), ["zfs"]);
    }

    #[test]
    fn lists_have_comments() {
        assert_eq!(names("# all\na b # c\n\nd\n"), ["a", "b", "d"]);
    }
}
