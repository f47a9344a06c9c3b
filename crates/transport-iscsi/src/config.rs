//! The settings of the iSCSI transport.

use std::time::Duration;

/// How sessions are made and how long their parts may take. The defaults suit arrays that fail over within seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiConfig {
    /// How long a portal may take to accept a TCP connection before it counts as dead.
    pub probe_timeout: Duration,
    /// open-iscsi's `login_timeout`, and the bound of one login here.
    pub login_timeout: Duration,
    /// The open-iscsi interfaces sessions are bound to: one session for each of them and port, and those of others do not
    /// count. Empty: any session counts, and new ones are left to the routes of the system.
    pub interfaces: Vec<String>,
    /// How long the kernel holds requests of a broken session before multipath may try another leg.
    pub replacement_timeout: Duration,
    /// Interval of the pings on an idle session, and how long one may stay unanswered.
    pub ping: Duration,
    /// How long a failed login is not repeated; doubled by every further failure, at most sixteenfold.
    pub login_hold: Duration,
    /// How long a portal found dead is not probed again while another port of the same call is up.
    pub probe_hold: Duration,
}

impl Default for IscsiConfig {
    fn default() -> Self {
        Self {
            probe_timeout: Duration::from_secs(1),
            login_timeout: Duration::from_secs(5),
            interfaces: Vec::new(),
            replacement_timeout: Duration::from_secs(5),
            ping: Duration::from_secs(5),
            login_hold: Duration::from_secs(30),
            probe_hold: Duration::from_secs(5),
        }
    }
}
