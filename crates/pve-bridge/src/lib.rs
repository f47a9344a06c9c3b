//! Sanbridge for Proxmox VE: daemon, protocol, names and locks.
