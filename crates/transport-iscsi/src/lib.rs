//! The iSCSI Transport over open-iscsi.
