//! Clauses about identity: another volume, no identity, another size, and what belongs to others.

use san_core::{ByteSize, ErrorKind, Expected};

use super::{
    DeviceFixture, Garble, Use, assert_carries, assert_empty, attach, bury, cx, detach, expect, known,
    retire, try_attach,
};

/// The LUN number was given to another volume while the legs of the old one stayed.
pub async fn stale_legs_of_another_volume_are_replaced(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    fixture.remove_map(1).await;
    fixture.hide(5);
    let device = attach(fixture, 2, 5).await;
    assert_eq!(device.legs.len(), fixture.routes().len());
    assert_carries(fixture, &device, 2).await;
    assert!(
        fixture
            .manager()
            .inspect(&cx(fixture), &expect(fixture, 1, 5), &fixture.routes())
            .await
            .unwrap()
            .is_none()
    );
}

/// The swap happens under a map that a guest has open: nobody is told by the kernel.
pub async fn a_swap_under_an_open_map_is_found_and_refused(fixture: &impl DeviceFixture) {
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    fixture.hide(5);
    fixture.show(2, 5);
    let (legs, maps) = (fixture.legs(), fixture.maps());
    let error = try_attach(fixture, 2, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    let error =
        fixture.manager().inspect(&cx(fixture), &expect(fixture, 1, 5), &fixture.routes()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    let error = try_attach(fixture, 1, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    assert_eq!((fixture.legs(), fixture.maps()), (legs, maps), "nothing under a holder is touched");
    drop(in_use);
}

/// Two volumes with one identifier; the daemon would merge them into one map.
pub async fn equal_identifiers_with_other_serials_are_refused(fixture: &impl DeviceFixture) {
    fixture.garble(2, Garble::WwidOf(1));
    let device = attach(fixture, 1, 5).await;
    let in_use = fixture.take_into_use(&device.path, Use::Handle);
    let legs = fixture.legs();
    fixture.show(2, 6);
    let mut wanted = expect(fixture, 2, 6);
    wanted.identity.wwid = fixture.identity(1).wwid;
    let answer = fixture.manager().attach(&cx(fixture), &wanted, &fixture.routes()).await;
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    assert_eq!(fixture.legs(), legs, "no leg of the other one stays under the first one's map");
    assert_carries(fixture, &device, 1).await;
    drop(in_use);
}

/// A unit that does not say what it is cannot be proved to be the volume.
pub async fn an_empty_identity_is_refused(fixture: &impl DeviceFixture) {
    let wanted = [expect(fixture, 1, 5), expect(fixture, 2, 6)];
    fixture.garble(1, Garble::NoWwid);
    fixture.garble(2, Garble::NoSerial);
    fixture.show(1, 5);
    fixture.show(2, 6);
    for expect in wanted {
        let error = fixture.manager().attach(&cx(fixture), &expect, &fixture.routes()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    }
    // A daemon that takes every path holds them for the volumes it believes in.
    if !fixture.maps_come_by_themselves() {
        assert_empty(fixture);
    }
}

/// One port shows another volume at the address.
pub async fn one_wrong_leg_is_left_out_and_told(fixture: &impl DeviceFixture) {
    let routes = fixture.routes();
    fixture.show(1, 5);
    fixture.show_behind(&routes[0], 2, 5);
    let device = try_attach(fixture, 1, 5).await.unwrap();
    assert_eq!(device.legs.len(), routes.len() - 1);
    assert_eq!(device.missing.len(), 1);
    assert_eq!(device.missing[0].route, routes[0]);
    assert_eq!(device.missing[0].error.kind(), ErrorKind::IdentityMismatch);
    assert_carries(fixture, &device, 1).await;
    assert_eq!(fixture.legs().len(), routes.len() - 1, "what was scanned in by mistake is gone again");
}

/// The array shows somebody else there, whatever it told us.
pub async fn only_other_volumes_is_an_identity_mismatch(fixture: &impl DeviceFixture) {
    fixture.show(2, 5);
    let error = try_attach(fixture, 1, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
    assert_empty(fixture);
}

/// A number whose form differs between array and kernel.
pub async fn flat_addressing_is_refused_by_name(fixture: &impl DeviceFixture) {
    fixture.show(1, 300);
    let error = try_attach(fixture, 1, 300).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("300"), "{error:?}");
}

/// The size is part of what is expected.
pub async fn another_size_than_the_array_says_is_refused(fixture: &impl DeviceFixture) {
    fixture.show(1, 5);
    let wanted = Expected { size: ByteSize::from_mib(32), ..expect(fixture, 1, 5) };
    let error = fixture.manager().attach(&cx(fixture), &wanted, &fixture.routes()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(fixture.maps_come_by_themselves() || fixture.maps().is_empty());
    detach(fixture, 1, 5).await;
    assert_empty(fixture);
}

/// The number belongs to another volume, attached, by the time the burial is repeated.
pub async fn an_address_given_to_another_volume_is_left_alone(fixture: &impl DeviceFixture) {
    attach(fixture, 1, 5).await;
    let retired = retire(fixture, 1, 5).await;
    fixture.hide(5);
    bury(fixture, &retired).await;
    let other = attach(fixture, 2, 5).await;
    let in_use = fixture.take_into_use(&other.path, Use::Handle);
    bury(fixture, &retired).await;
    assert_eq!(retire(fixture, 1, 5).await.legs, []);
    assert_carries(fixture, &other, 2).await;
    assert_eq!(try_attach(fixture, 2, 5).await.unwrap().legs.len(), fixture.routes().len());
    drop(in_use);
}

/// Another volume behind the same sessions notices nothing.
pub async fn bystanders_are_not_touched(fixture: &impl DeviceFixture) {
    let other = attach(fixture, 9, 40).await;
    let in_use = fixture.take_into_use(&other.path, Use::Handle);
    assert_carries(fixture, &other, 9).await;
    let before = fixture.changes().len();
    attach(fixture, 1, 5).await;
    detach(fixture, 1, 5).await;
    for change in &fixture.changes()[before..] {
        let wwid = other.identity.wwid.multipath_name();
        let touches = change.contains(":40/") || change.contains(" 40") || change.contains(&wwid);
        assert!(!touches, "{change}");
        assert!(!other.legs.iter().any(|leg| change.ends_with(&format!(" {}", leg.name))), "{change}");
    }
    assert_eq!(fixture.legs().len(), other.legs.len());
    assert_carries(fixture, &other, 9).await;
    drop(in_use);
}

/// A device at a recorded address that does not say what it is, and is under no map of ours, is nobody's to remove: the
/// address may have passed to another target since it was recorded.
pub async fn what_says_nothing_is_left_alone(fixture: &impl DeviceFixture) {
    fixture.garble(1, Garble::NoWwid);
    fixture.show(1, 5);
    fixture.scan_everything().await;
    let before = fixture.legs();
    assert!(!before.is_empty());
    let retired = fixture.manager().retire(&cx(fixture), &known(fixture, 2, 5)).await;
    if fixture.maps_come_by_themselves() {
        // A map of somebody's holds it: perhaps a leg of ours was merged into that, so people have to look.
        assert_eq!(retired.unwrap_err().kind(), ErrorKind::IdentityMismatch);
    } else {
        let retired = retired.unwrap();
        assert_eq!(retired.legs, []);
        bury(fixture, &retired).await;
    }
    assert_eq!(fixture.legs(), before);
}
