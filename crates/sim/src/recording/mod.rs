//! Recordings of real hosts: a fixed list of scenes, a player that plays them on any [`san_host::Host`], and the text in
//! which it writes down what it saw.
//!
//! The lab plays the scenes on a real kernel, with open-iscsi, udev and multipathd, against the kernel's own targets, and
//! its transcripts are stored. The tests of this crate play the same scenes on a simulated host and compare. So a format
//! or a reaction that the simulated host has wrong is a failed test, and a newer tool that behaves otherwise is a
//! transcript that changed.

mod events;
mod player;
mod scene;
mod scenes;
mod scenes_logins;
mod scenes_maps;
mod scrub;
mod shelf;
mod walk;

pub use player::{Stage, Trouble, play};
pub use scene::{Act, Admission, Scene, Step, Until};
pub use scenes::{INITIATOR, TARGET, portals, scenes};
pub use shelf::Shelf;
