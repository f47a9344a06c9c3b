//! What an administrator configures of one ONTAP tenant, besides addresses and credentials.

use san_core::TransportKind;
use serde::{Deserialize, Serialize};

/// One storage virtual machine and where its volumes go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OntapConfig {
    /// The name of the SVM.
    pub svm: String,
    /// The name of the aggregate that holds its volumes.
    pub aggregate: String,
    /// The protocol its volumes are reached by.
    pub transport: TransportKind,
}
