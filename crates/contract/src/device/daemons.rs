//! Clauses about the daemons beside the kernel that are stopped, hung or busy.

use std::time::Duration;

use san_core::ErrorKind;
use tokio::time::Instant;

use super::{DeviceFixture, assert_carries, assert_empty, at_most, attach, detach, try_attach};

/// Without udev there is no device.
pub async fn a_stopped_udev_is_named_and_forgiven(fixture: &impl DeviceFixture) {
    fixture.stop_udev();
    fixture.show(1, 5);
    let start = Instant::now();
    let error = try_attach(fixture, 1, 5).await.unwrap_err();
    assert!(error.chain().to_string().contains("systemd-udevd"), "{error:?}");
    assert!(start.elapsed() < at_most(fixture, Duration::from_secs(30)));
    fixture.start_udev();
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_carries(fixture, &device, 1).await;
}

/// The multipath daemon does not run.
pub async fn a_stopped_daemon_is_named_and_forgiven(fixture: &impl DeviceFixture) {
    fixture.stop_daemon();
    fixture.show(1, 5);
    let error = try_attach(fixture, 1, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.remedy().is_some_and(|it| it.contains("systemctl start multipathd")), "{error:?}");
    fixture.start_daemon();
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_carries(fixture, &device, 1).await;
    // A healthy device does not need it.
    fixture.stop_daemon();
    try_attach(fixture, 1, 5).await.unwrap();
    fixture.start_daemon();
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
}

/// The multipath daemon takes commands and answers none.
pub async fn a_hung_daemon_is_bounded_and_forgiven(fixture: &impl DeviceFixture) {
    fixture.hang_daemon();
    fixture.show(1, 5);
    let start = Instant::now();
    let error = try_attach(fixture, 1, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(error.chain().to_string().contains("multipathd"), "{error:?}");
    assert!(start.elapsed() < at_most(fixture, Duration::from_secs(60)));
    fixture.start_daemon();
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_carries(fixture, &device, 1).await;
}

/// It answers `timeout` for eleven seconds, as seen while a path check blocks.
pub async fn a_busy_daemon_is_asked_again(fixture: &impl DeviceFixture) {
    fixture.delay_daemon(Duration::from_secs(11));
    let device = attach(fixture, 1, 5).await;
    fixture.delay_daemon(Duration::from_secs(5));
    assert_eq!(device.legs.len(), fixture.routes().len());
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
}
