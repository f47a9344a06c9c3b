//! Clauses about growing.

use san_core::{ByteSize, ErrorKind, Expected};

use super::{DeviceFixture, SIZE, Use, attach, cx, expect};

/// While a guest has it open.
pub async fn growing_reaches_every_leg_and_the_map(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    let size = ByteSize::from_mib(96);
    fixture.resize(1, size);
    let wanted = Expected { size, ..expect(fixture, 1, 5) };
    for _ in 0..2 {
        let grown = fixture.manager().grow(&cx(fixture), &wanted, &fixture.routes()).await.unwrap();
        assert_eq!(
            (grown.size, grown.number, grown.legs.len()),
            (size, device.number, fixture.routes().len())
        );
    }
    let seen = fixture.manager().attach(&cx(fixture), &wanted, &fixture.routes()).await.unwrap();
    assert_eq!(seen.size, size);
    drop(in_use);
    let missing =
        fixture.manager().grow(&cx(fixture), &expect(fixture, 2, 6), &fixture.routes()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

/// The leg that could not grow is left out, told, and taken back when it is there again.
pub async fn growing_works_with_a_road_missing(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    let routes = fixture.routes();
    fixture.cut(&routes[0]).await;
    let size = ByteSize::from_mib(96);
    fixture.resize(1, size);
    let wanted = Expected { size, ..expect(fixture, 1, 5) };
    let grown = fixture.manager().grow(&cx(fixture), &wanted, &routes).await.unwrap();
    assert_eq!((grown.size, grown.legs.len(), grown.missing.len()), (size, routes.len() - 1, 1));
    fixture.mend(&routes[0]).await;
    let whole = fixture.manager().attach(&cx(fixture), &wanted, &routes).await.unwrap();
    assert_eq!((whole.size, whole.legs.len(), whole.number), (size, routes.len(), device.number));
    drop(in_use);
}

/// Neither on request nor because the array did.
pub async fn shrinking_is_refused(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let smaller = ByteSize::from_mib(32);
    let wanted = Expected { size: smaller, ..expect(fixture, 1, 5) };
    let error = fixture.manager().grow(&cx(fixture), &wanted, &fixture.routes()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    fixture.resize(1, smaller);
    let error = fixture
        .manager()
        .grow(&cx(fixture), &Expected { size: ByteSize::from_mib(96), ..wanted }, &fixture.routes())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    let seen = fixture
        .manager()
        .inspect(&cx(fixture), &expect(fixture, 1, 5), &fixture.routes())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((seen.size, seen.number), (SIZE, device.number));
}
