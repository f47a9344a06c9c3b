//! Tests of the simulator through its public interface.

mod ontap_lifecycle;
mod ontap_rig;
