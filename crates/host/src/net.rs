//! Unix streams with a deadline, and the TCP probe.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::Uid;
use san_core::{Deadline, EffectState, Error, ErrorKind, Result};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use crate::errno::{kind_of, late};
use crate::files::Root;
use crate::host::{Probe, SocketAddress};

/// Connects, waiting for room in the listener's queue until the deadline. Blocks the thread for so long.
pub(crate) fn connect_unix(root: &Root, address: &SocketAddress, deadline: Deadline) -> Result<UnixStream> {
    let place = match address {
        SocketAddress::Path(path) => SocketAddrUnix::new(root.at(path)?),
        SocketAddress::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
    };
    let attempt = || -> Result<(UnixStream, Uid), Errno> {
        let socket: OwnedFd =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let place = place.clone()?;
        loop {
            // Zero would mean to wait for ever.
            let patience = deadline.remaining().max(Duration::from_millis(1));
            set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
            // With a timeout set the kernel does not go on by itself after a signal.
            match connect(&socket, &place) {
                Err(Errno::INTR) => {}
                done => break done?,
            }
        }
        set_socket_timeout(&socket, Timeout::Send, None)?;
        let listener = socket_peercred(&socket)?.uid;
        Ok((UnixStream::from(socket), listener))
    };
    let (stream, listener) = attempt().map_err(|errno| match errno {
        Errno::NOENT | Errno::CONNREFUSED => {
            Error::new(ErrorKind::Unavailable, "nobody listens").on(address).with_effect(EffectState::None)
        }
        Errno::AGAIN => late("deadline passed while the listener took no connection").on(address),
        errno => Error::new(crate::errno::kind(errno), "cannot connect")
            .on(address)
            .with_effect(EffectState::None)
            .caused_by(io::Error::from(errno)),
    })?;
    if !is_trusted(listener, rustix::process::geteuid()) {
        let message = format!("the listener belongs to user {}", listener.as_raw());
        return Err(Error::new(ErrorKind::PermissionDenied, message).on(address));
    }
    Ok(stream)
}

/// Anybody may listen on an abstract name that is free; only root and ourselves are believed.
fn is_trusted(listener: Uid, own: Uid) -> bool {
    listener.is_root() || listener == own
}

/// See [`crate::Host::probe`].
pub(crate) async fn probe(address: SocketAddr, deadline: Deadline) -> Result<Probe> {
    let Ok(outcome) = timeout_at(deadline.instant(), TcpStream::connect(address)).await else {
        return Ok(Probe::Silent);
    };
    match outcome {
        Ok(_) => Ok(Probe::Open),
        Err(error) => answer_of(&error).ok_or_else(|| {
            Error::new(kind_of(&error), "cannot try the port")
                .on(address)
                .with_effect(EffectState::None)
                .caused_by(error)
        }),
    }
}

/// What a failed attempt says about the far side; `None` where it only says something about us.
fn answer_of(error: &io::Error) -> Option<Probe> {
    match Errno::from_io_error(error)? {
        Errno::CONNREFUSED | Errno::CONNRESET => Some(Probe::Refused),
        // PERM and ACCESS are a packet filter's; ADDRNOTAVAIL and AFNOSUPPORT a node without that protocol.
        Errno::TIMEDOUT
        | Errno::HOSTUNREACH
        | Errno::NETUNREACH
        | Errno::HOSTDOWN
        | Errno::NETDOWN
        | Errno::PERM
        | Errno::ACCESS
        | Errno::ADDRNOTAVAIL
        | Errno::AFNOSUPPORT => Some(Probe::Silent),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_who_took_the_name_is_not_believed() {
        let user = Uid::from_raw;
        assert!(is_trusted(user(0), user(0)) && is_trusted(user(0), user(7)) && is_trusted(user(7), user(7)));
        assert!(!is_trusted(user(7), user(0)) && !is_trusted(user(7), user(8)));
    }

    #[test]
    fn only_what_the_network_says_is_an_answer() {
        for (errno, answer) in [
            (Errno::CONNREFUSED, Some(Probe::Refused)),
            (Errno::HOSTUNREACH, Some(Probe::Silent)),
            (Errno::NETUNREACH, Some(Probe::Silent)),
            (Errno::MFILE, None),
            (Errno::INVAL, None),
        ] {
            assert_eq!(answer_of(&io::Error::from(errno)), answer, "{errno}");
        }
    }
}
