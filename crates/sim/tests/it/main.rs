//! Tests of the simulator through its public interface.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod host_faults;
mod host_findings;
mod host_formats;
mod host_iscsi;
mod host_multipath;
mod host_plane;
mod host_rig;
mod host_scsi;
mod ontap_faults;
mod ontap_https;
mod ontap_lifecycle;
mod ontap_queries;
mod ontap_quirks;
mod ontap_refusals;
mod ontap_rig;
mod recordings;
