//! Kernel events: the netlink socket, the thread that reads it, and the parser.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::broadcast;

use crate::host::{Uevent, Uevents};

/// What a slow receiver may be behind before it is told that it missed some.
const BACKLOG: usize = 1024;
/// Kernel messages are at most 2 KiB (`UEVENT_BUFFER_SIZE`) and a head.
const MESSAGE_MAX: usize = 8192;
/// A scan of many LUNs sends thousands of messages at once.
const RECEIVE_BUFFER: usize = 16 * 1024 * 1024;
/// The multicast group of the kernel's own messages; udev's have another.
const KERNEL_GROUP: u32 = 1;

/// The stream of kernel events. The thread behind it ends when this is dropped, which closes the pipe.
#[derive(Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<Arc<Uevent>>,
    _stop: Option<OwnedFd>,
}

impl Events {
    /// Begins to listen. Where the socket cannot be had (a container without rights) there are no events; whoever waits
    /// looks at the state every now and then anyway.
    pub(crate) fn start() -> Self {
        let (sender, _) = broadcast::channel(BACKLOG);
        let stop = listen(sender.clone())
            .inspect_err(|error| tracing::warn!(%error, "no kernel events: waits rely on looking again"))
            .ok();
        Self { sender, _stop: stop }
    }

    pub(crate) fn subscribe(&self) -> Uevents {
        Uevents::new(self.sender.subscribe())
    }
}

fn listen(sender: broadcast::Sender<Arc<Uevent>>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    // Needs a privilege; with the default size events are only missed sooner, and that is noticed.
    let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
    bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
    std::thread::Builder::new()
        .name("uevents".into())
        .spawn(move || read_until_stopped(&socket, &stopped, &sender))?;
    Ok(stop)
}

fn read_until_stopped(socket: &OwnedFd, stopped: &OwnedFd, sender: &broadcast::Sender<Arc<Uevent>>) {
    loop {
        let mut waits = [PollFd::new(socket, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut waits, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(%error, "kernel events ended");
                return;
            }
        }
        if !waits[1].revents().is_empty() {
            return;
        }
        while let Some(event) = receive(socket) {
            // Fails only where nobody listens.
            let _ = sender.send(Arc::new(event));
        }
    }
}

/// One message of the kernel, or the mark of missed ones; `None` where nothing is waiting.
fn receive(socket: &OwnedFd) -> Option<Uevent> {
    let mut buffer = [0_u8; MESSAGE_MAX];
    loop {
        match recvfrom(socket, &mut buffer[..], RecvFlags::TRUNC) {
            Ok((_, length, from)) => {
                // Port 0 is the kernel; any privileged process may send to the group.
                let from = from.and_then(|it| SocketAddrNetlink::try_from(it).ok());
                if from.is_none_or(|it| it.pid() != 0) {
                    continue;
                }
                return Some(buffer.get(..length).and_then(parse).unwrap_or_else(Uevent::missed));
            }
            Err(Errno::INTR) => {}
            // The kernel had no room for some.
            Err(Errno::NOBUFS) => return Some(Uevent::missed()),
            Err(_) => return None,
        }
    }
}

/// Reads `ACTION@DEVPATH` and the `KEY=VALUE` fields behind it, each ended by NUL.
pub(crate) fn parse(message: &[u8]) -> Option<Uevent> {
    let mut fields = std::str::from_utf8(message).ok()?.split_terminator('\0');
    let (action, device) = fields.next()?.split_once('@')?;
    if action.is_empty() || !device.starts_with('/') {
        return None;
    }
    let mut keys = BTreeMap::new();
    for field in fields {
        let (key, value) = field.split_once('=')?;
        keys.insert(key.to_owned(), value.to_owned());
    }
    Some(Uevent { action: action.to_owned(), device: device.to_owned(), keys })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_read() {
        let message = b"add@/devices/platform/host2/session1/target2:0:0/2:0:0:3/block/sdb\0ACTION=add\0\
            DEVPATH=/devices/platform/host2/session1/target2:0:0/2:0:0:3/block/sdb\0SUBSYSTEM=block\0MAJOR=8\0\
            MINOR=16\0DEVNAME=sdb\0DEVTYPE=disk\0SEQNUM=4711\0";
        let event = parse(message).unwrap();
        assert_eq!(event.action, "add");
        assert!(event.device.ends_with("/2:0:0:3/block/sdb"));
        assert_eq!(event.keys["DEVNAME"], "sdb");
        assert_eq!(event.keys.len(), 8);
        let odd = parse(b"change@/devices/x\0NAME=a=b\0EMPTY=\0").unwrap();
        assert_eq!((odd.keys["NAME"].as_str(), odd.keys["EMPTY"].as_str()), ("a=b", ""));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bad in [
            &b""[..],
            b"\0",
            b"add",
            b"@/devices/x",
            b"add@devices/x",
            b"libudev\0\xfe\xed\xca\xfe",
            b"add@/devices/x\0NOVALUE\0",
            b"add@/devices/\xff\0",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn missed_events_are_told() {
        let events = Events { sender: broadcast::channel(2).0, _stop: None };
        let mut receiver = events.subscribe();
        let event = Arc::new(parse(b"add@/devices/x\0").unwrap());
        events.sender.send(Arc::clone(&event)).unwrap();
        events.sender.send(Arc::new(Uevent::missed())).unwrap();
        assert_eq!(receiver.next().await, Some(Arc::clone(&event)));
        assert_eq!(receiver.next().await, None, "the kernel dropped some");
        for _ in 0..3 {
            events.sender.send(Arc::clone(&event)).unwrap();
        }
        assert_eq!(receiver.next().await, None, "the receiver was too slow");
        assert_eq!(receiver.next().await, Some(event));
    }

    #[tokio::test]
    async fn what_is_there_already_is_passed_over() {
        let events = Events { sender: broadcast::channel(2).0, _stop: None };
        let mut receiver = events.subscribe();
        let event = |device: &str| Arc::new(parse(format!("add@{device}\0").as_bytes()).unwrap());
        for _ in 0..3 {
            events.sender.send(event("/devices/old")).unwrap();
        }
        receiver.catch_up();
        events.sender.send(event("/devices/new")).unwrap();
        assert_eq!(receiver.next().await, Some(event("/devices/new")));
        receiver.catch_up();
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read(
            action in "[a-z]{1,8}", device in "/[a-z0-9:/@]{0,40}",
            keys in proptest::collection::btree_map("[A-Z_]{1,8}", "[ -~]{0,20}", 0..8),
        ) {
            let mut message = format!("{action}@{device}\0");
            for (key, value) in &keys {
                message.extend([key, "=", value, "\0"]);
            }
            prop_assert_eq!(parse(message.as_bytes()), Some(Uevent { action, device, keys }));
        }
    }
}
