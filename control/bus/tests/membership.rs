//! A name outlives its process, what it kept comes back, and an older process of that name is refused.
#![allow(missing_docs)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nebula_bus::contract::{InstanceId, Role};
use nebula_bus::snapshots::{Change, KeepError, Kept, Memory};
use nebula_bus::{Keep, Membership};

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

#[tokio::test]
async fn who_is_fenced_inherits_nothing() {
    let keep = Memory::default();
    let (dead, heir) = (enter(&keep, "dead").await, enter(&keep, "heir").await);
    dead.snapshots.put("call-1", "1");
    dead.snapshots.flush().await;
    keep.bury(&dead.instance);
    let successor = enter(&keep, "heir").await;
    assert_eq!(heir.snapshots.take_over(&dead.instance).await, Ok(None), "another process has its name");
    assert_eq!(successor.snapshots.take_over(&dead.instance).await, Ok(Some(vec![kept("call-1", "1")])));
}

/// A keep that notes what it is told, and says no as often as it shall.
#[derive(Default)]
struct Fussy {
    memory: Memory,
    told: Mutex<Vec<Vec<Change>>>,
    rewritten: Mutex<Vec<usize>>,
    refusals: Mutex<Vec<KeepError>>,
}

impl Fussy {
    fn refusal(&self) -> Result<(), KeepError> {
        self.refusals.lock().unwrap().pop().map_or(Ok(()), Err)
    }
}

#[async_trait::async_trait]
impl Keep for Fussy {
    async fn enter(&self, instance: &InstanceId) -> Result<(u64, Kept), KeepError> {
        self.memory.enter(instance).await
    }

    async fn write(&self, instance: &InstanceId, fence: u64, changes: &[Change]) -> Result<(), KeepError> {
        self.refusal()?;
        if !changes.is_empty() {
            self.told.lock().unwrap().push(changes.to_vec());
        }
        self.memory.write(instance, fence, changes).await
    }

    async fn rewrite(&self, instance: &InstanceId, fence: u64, all: &[(String, Bytes)]) -> Result<(), KeepError> {
        self.refusal()?;
        self.rewritten.lock().unwrap().push(all.len());
        self.memory.rewrite(instance, fence, all).await
    }

    async fn take_over(
        &self,
        dead: &InstanceId,
        heir: &InstanceId,
        fence: u64,
    ) -> Result<Option<(u64, Kept)>, KeepError> {
        self.memory.take_over(dead, heir, fence).await
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_changes_the_newest_of_each_key_is_written_in_one_group() {
    let keep = Arc::new(Fussy::default());
    let member = Membership::enter(keep.clone(), Role::Switchboard, "a").await.expect("entered");
    for n in 0..1000 {
        member.snapshots.put("call-1", n.to_string());
        member.snapshots.put(format!("call-{}", 2 + n % 3), "x");
    }
    member.snapshots.delete("call-4");
    member.snapshots.flush().await;
    let told = std::mem::take(&mut *keep.told.lock().unwrap());
    let mut group = told.concat();
    group.sort();
    assert_eq!(told.len(), 1, "one group");
    let x = || Some(Bytes::from_static(b"x"));
    let newest = [
        ("call-1".to_owned(), Some(Bytes::from_static(b"999"))),
        ("call-2".to_owned(), x()),
        ("call-3".to_owned(), x()),
        ("call-4".to_owned(), None),
    ];
    assert_eq!(group, newest);
}

#[tokio::test(start_paused = true)]
async fn an_absent_keep_is_asked_until_it_is_back_and_a_forgetful_one_told_everything() {
    let keep = Arc::new(Fussy::default());
    let member = Membership::enter(keep.clone(), Role::Switchboard, "a").await.expect("entered");
    member.snapshots.put("call-1", "1");
    member.snapshots.flush().await;
    keep.refusals.lock().unwrap().extend((0..5).map(|_| KeepError::Away("gone".into())));
    member.snapshots.put("call-2", "2");
    assert_eq!(member.snapshots.pending(), 1);
    member.snapshots.flush().await;
    assert_eq!(keep.told.lock().unwrap().last().map(Vec::len), Some(1));
    assert_eq!(*keep.rewritten.lock().unwrap(), [0; 0]);

    *keep.refusals.lock().unwrap() = vec![KeepError::Away("gone".into()), KeepError::Lost];
    member.snapshots.put("call-3", "3");
    member.snapshots.flush().await;
    assert_eq!(*keep.rewritten.lock().unwrap(), [3]);
    let mut restored = enter(&keep.memory, "a").await.restored;
    restored.sort();
    assert_eq!(restored, [kept("call-1", "1"), kept("call-2", "2"), kept("call-3", "3")]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_process_finds_out_that_it_is_fenced_and_a_dropped_one_still_writes() {
    let keep = Memory::default();
    let (idle, member) = (enter(&keep, "a").await, enter(&keep, "b").await);
    enter(&keep, "a").await;
    idle.snapshots.fenced().await;
    member.snapshots.put("call-1", "1");
    let (snapshots, instance) = (member.snapshots, member.instance);
    drop(snapshots);
    // The writer gathers for some milliseconds; the clock of this test jumps as soon as all are idle.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(keep.enter(&instance).await.expect("memory").1, [kept("call-1", "1")]);
}
