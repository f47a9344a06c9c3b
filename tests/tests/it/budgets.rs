//! What each operation costs on three nodes, exactly: a change of any of these numbers is a decision, not an accident.

use sanbridge_tests::bench::{Cell, Operation, counts};

#[tokio::test(start_paused = true)]
async fn operations_cost_what_they_should() {
    let cell = Cell { nodes: 3, volumes: 20, attached: 2 };
    let measured: Vec<(Operation, usize, u64)> = counts(cell)
        .await
        .unwrap()
        .into_iter()
        .map(|(it, cost)| (it, cost.requests, cost.processes))
        .collect();
    let requests = [
        (Operation::Ask, 1),
        (Operation::Create, 2),
        (Operation::CreateNumbered, 2),
        (Operation::AttachFirst, 2),
        (Operation::AttachAgain, 0),
        (Operation::Path, 0),
        (Operation::Size, 0),
        (Operation::GrowOnline, 2),
        (Operation::Detach, 1),
        (Operation::DetachAbsent, 0),
        (Operation::Snapshot, 4),
        (Operation::ReadSnapshot, 3),
        (Operation::ReadSnapshotAgain, 0),
        (Operation::CloseSnapshot, 2),
        (Operation::RollBack, 4),
        (Operation::DeleteSnapshot, 4),
        (Operation::Delete, 2),
        (Operation::DeleteAttached, 3),
        (Operation::LinkedClone, 2),
    ];
    assert_eq!(measured, requests.map(|(it, requests)| (it, requests, 0)));
    for (operation, requests, processes) in measured {
        let budget = operation.budget();
        assert!(budget.requests.is_none_or(|it| requests <= it), "{operation:?}: {requests}");
        assert!(budget.processes.is_none_or(|it| processes <= it), "{operation:?}: {processes}");
    }
}
