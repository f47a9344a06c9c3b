//! The DeviceManager over dm-multipath and SCSI legs.
