//! open-iscsi's interfaces: files that say through which card sessions are made. The usual one needs none.

use super::formats::push;
use super::machine::Machine;
use super::records::{EMPTY, TEMPLATE};
use super::settings::Release;

/// The interface that leaves the choice to the routes of the system.
pub(crate) const DEFAULT: &str = "default";
const NAME: &str = "iface.iscsi_ifacename";

/// An interface: its settings, as records have them.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    values: Vec<(String, String)>,
}

impl Interface {
    /// One that is bound to nothing.
    pub(crate) fn new(name: &str) -> Self {
        let lines =
            TEMPLATE.lines().filter(|it| it.starts_with("iface.")).filter_map(|it| it.split_once(" = "));
        let mut interface =
            Self { values: lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect() };
        interface.put(NAME, name);
        interface
    }

    /// Sets a value; `false` where there is no such name.
    pub(crate) fn put(&mut self, name: &str, value: &str) -> bool {
        let found = self.values.iter_mut().find(|(it, _)| it == name);
        found.map(|(_, old)| value.clone_into(old)).is_some()
    }

    /// Its settings.
    pub(crate) fn values(&self) -> &[(String, String)] {
        &self.values
    }

    /// The card it is bound to; empty where it is bound to none.
    pub(crate) fn card(&self) -> &str {
        let card = self.values.iter().find(|(it, _)| it == "iface.net_ifacename");
        card.map_or("", |(_, value)| if value == EMPTY { "" } else { value })
    }

    fn stored(&self, release: Release) -> String {
        let mut text = format!("# BEGIN RECORD {}\n", release.open_iscsi());
        for (name, value) in self.values.iter().filter(|(_, value)| value != EMPTY) {
            push(&mut text, format_args!("{name} = {value}\n"));
        }
        text + "# END RECORD\n"
    }
}

impl Machine {
    fn interface_file(&self, name: &str) -> String {
        format!("{}/{name}", self.spec.release.interfaces())
    }

    /// The interface of this name; `None` where there is none.
    pub(crate) fn interface(&self, name: &str) -> Option<Interface> {
        let mut interface = Interface::new(name);
        let file = self.interface_file(name);
        if self.tree.entry(&file).is_none() {
            return (name == DEFAULT).then_some(interface);
        }
        for (name, value) in self.tree.text(&file).lines().filter_map(|it| it.split_once(" = ")) {
            interface.put(name, value);
        }
        Some(interface)
    }

    pub(crate) fn save_interface(&mut self, name: &str, interface: &Interface) {
        let file = self.interface_file(name);
        self.tree.put_file(&file, interface.stored(self.spec.release));
    }

    pub(crate) fn delete_interface(&mut self, name: &str) {
        let file = self.interface_file(name);
        self.tree.remove(&file);
    }
}
