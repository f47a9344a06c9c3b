//! The Array of NetApp ONTAP.
