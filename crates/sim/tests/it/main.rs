//! Tests of the simulator through its public interface.

mod ontap_faults;
mod ontap_https;
mod ontap_lifecycle;
mod ontap_queries;
mod ontap_quirks;
mod ontap_refusals;
mod ontap_rig;
