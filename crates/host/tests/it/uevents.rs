//! Kernel events of this machine.

use std::time::Duration;

use san_host::Host;

use crate::support::Bench;

#[tokio::test]
async fn a_kernel_event_arrives() {
    let bench = Bench::new();
    let mut events = bench.host.uevents();
    // The kernel repeats a device's event on request; only root may ask for it.
    let Ok(()) = std::fs::write("/sys/class/mem/null/uevent", "change") else {
        println!("skipped: this user may not make the kernel send an event");
        return;
    };
    let seen = async {
        loop {
            if let Some(event) = events.next().await
                && event.device.ends_with("/mem/null")
            {
                return event;
            }
        }
    };
    let event = tokio::time::timeout(Duration::from_secs(10), seen).await.expect("the event arrives");
    assert_eq!(event.action, "change");
    assert_eq!(event.keys["SUBSYSTEM"], "mem");
    assert_eq!(event.keys["DEVNAME"], "null");
}

#[tokio::test]
async fn the_reader_ends_with_the_host() {
    let bench = Bench::new();
    let mut events = bench.host.uevents();
    drop(bench);
    // The channel closes once its thread has gone; messages that were on the way may come first.
    let closed = async { while events.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(10), closed).await.expect("the thread ends");
}
