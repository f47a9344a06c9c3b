//! Outside of the machine: its image, its life, the groups that run in it, and what came of them.

pub mod accelerator;
mod archive;
pub mod cache;
pub mod channel;
pub mod image;
pub mod lanes;
pub mod machine;
mod modules;
mod needs;
pub mod programs;
mod recipe;
pub mod report;
pub mod run;
pub mod standing;
pub mod tools;
