//! The [`Array`](san_core::Array) of NetApp ONTAP over its REST API: FAS, AFF and ASA (not ASA r2) from 9.8 on, one
//! FlexVol with one LUN per volume, on aggregates of one SVM, with an account of the cluster or of the SVM (`roles/` has the
//! least it needs). What differs by release is in one table (`release.rs`).
//!
//! The FlexVol carries the name and, in its comment, the ownership mark; the LUN carries the identity. Every answer is
//! checked to be about the SVM and the object that was asked for.

mod aggregates;
mod array;
mod assigned;
mod checkup;
mod client;
mod clones;
mod config;
mod convert;
mod create;
mod error;
mod hosts;
mod jobs;
mod layout;
mod logins;
mod look;
mod mappings;
mod policy;
mod ports;
mod probe;
mod readers;
mod recovery;
mod relation;
mod release;
mod sessions;
mod snapshots;
mod splits;
mod volumes;
mod wire;

pub use array::Ontap;
pub use client::client;
pub use config::{Autodelete, Encryption, OntapConfig, Provisioning, Tiering, VolumeSettings};
pub use error::OntapError;
