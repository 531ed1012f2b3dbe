//! A name outlives its process, what it kept comes back, and an older process of that name is refused.
#![allow(missing_docs)]

use std::sync::Arc;

use bytes::Bytes;
use nebula_bus::Membership;
use nebula_bus::contract::Role;
use nebula_bus::snapshots::Memory;

async fn enter(keep: &Memory, node: &str) -> Membership {
    Membership::enter(Arc::new(keep.clone()), Role::Switchboard, node).await.expect("entered")
}

fn kept(key: &str, value: &'static str) -> (String, Bytes) {
    (key.to_owned(), Bytes::from_static(value.as_bytes()))
}

#[tokio::test]
async fn what_was_kept_comes_back_to_the_next_process_of_the_name() {
    let keep = Memory::default();
    let first = enter(&keep, "a").await;
    assert!(first.restored.is_empty());
    first.snapshots.put("call-1", "old");
    first.snapshots.put("call-1", "new");
    first.snapshots.put("call-2", "ended");
    first.snapshots.delete("call-2");
    first.snapshots.flush().await;
    assert_eq!(first.snapshots.pending(), 0);

    let second = enter(&keep, "a").await;
    assert_eq!(second.instance, first.instance);
    assert!(second.fence.get() > first.fence.get());
    assert_eq!(second.restored, [kept("call-1", "new")]);

    first.snapshots.put("call-1", "from the dead");
    first.snapshots.fenced().await;
    assert_eq!(enter(&keep, "a").await.restored, [kept("call-1", "new")]);
}

#[tokio::test]
async fn what_the_dead_kept_goes_to_one_heir_with_a_higher_fence() {
    let keep = Memory::default();
    let (dead, heir, other) = (enter(&keep, "dead").await, enter(&keep, "heir").await, enter(&keep, "other").await);
    dead.snapshots.put("call-1", "1");
    dead.snapshots.flush().await;
    assert_eq!(heir.snapshots.take_over(&dead.instance).await, Ok(None), "it lives");

    keep.bury(&dead.instance);
    assert_eq!(heir.snapshots.take_over(&dead.instance).await, Ok(Some(vec![kept("call-1", "1")])));
    assert_eq!(other.snapshots.take_over(&dead.instance).await, Ok(None), "somebody was first");
    assert!(heir.fence.get() > dead.fence.get());
    dead.snapshots.put("call-1", "2");
    dead.snapshots.fenced().await;

    heir.snapshots.put("call-2", "2");
    heir.snapshots.flush().await;
    let mut restored = enter(&keep, "heir").await.restored;
    restored.sort();
    assert_eq!(restored, [kept("call-1", "1"), kept("call-2", "2")]);
}
