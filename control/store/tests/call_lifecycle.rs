//! A call leaves a row, its events in order, and exactly one record.
#![allow(missing_docs)]

mod common;

use common::{Fixture, call, cdr};
use nebula_store::{Error, calls, cdrs, outbox};

on_both!(
    a_name_with_a_nul_fails_no_record,
    rows_of_ended_calls_are_purged_and_nothing_else,
    start_answer_end_leave_row_record_and_events_over_a_reopening,
    ends_reported_at_once_from_everywhere_leave_one_record,
    a_refused_call_that_never_started_has_its_record,
    what_died_with_its_switchboard_is_found,
    a_failing_write_leaves_its_neighbours_of_the_group_alone,
);

async fn start_answer_end_leave_row_record_and_events_over_a_reopening(fixture: Fixture) {
    let store = &fixture.store;
    calls::start(store, call("c1")).await.unwrap();
    assert!(matches!(calls::start(store, call("c1")).await, Err(Error::Duplicate)));
    assert!(calls::answered(store, "c1", "up", 3_000, None).await.unwrap());
    assert!(!calls::answered(store, "c1", "up", 4_000, None).await.unwrap(), "the second answer");
    assert!(!calls::answered(store, "none", "up", 4_000, None).await.unwrap(), "no such call");
    assert!(calls::snapshot(store, "c1", "held", Some("{\"x\":1}".into())).await.unwrap());
    let row = calls::get(store, "c1").await.unwrap().unwrap();
    assert_eq!((row.state.as_str(), row.answered_unix_ms, row.ended_unix_ms), ("held", Some(3_000), None));
    assert_eq!(row.snapshot.as_deref(), Some("{\"x\":1}"));
    assert!(calls::end(store, cdr("c1")).await.unwrap());
    assert!(!calls::snapshot(store, "c1", "up", None).await.unwrap(), "it has ended");

    let fixture = fixture.reopen().await;
    let store = &fixture.store;
    let row = calls::get(store, "c1").await.unwrap().unwrap();
    assert_eq!((row.state.as_str(), row.ended_unix_ms, row.snapshot), ("ended", Some(10_500), None));
    assert_eq!(cdrs::get(store, "c1").await.unwrap(), Some(cdr("c1")));
    let events = outbox::unpublished(store, 0, 10).await.unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["call.started", "call.answered", "call.ended"]);
    assert!(events.iter().all(|event| event.subject == "c1"));
    assert_eq!((&events[2].data["duration_ms"], &events[2].data["billed_ms"]), (&9_500.into(), &7_500.into()));
}

async fn ends_reported_at_once_from_everywhere_leave_one_record(fixture: Fixture) {
    calls::start(&fixture.store, call("c1")).await.unwrap();
    let ends: Vec<_> = (0..50)
        .map(|n| {
            let (store, mut cdr) = (fixture.store.clone(), cdr("c1"));
            cdr.ended_unix_ms += n;
            tokio::spawn(async move { calls::end(&store, cdr).await.unwrap() })
        })
        .collect();
    let mut first = 0;
    for end in ends {
        first += u32::from(end.await.unwrap());
    }
    assert_eq!(first, 1);
    assert_eq!(cdrs::list(&fixture.store, 100).await.unwrap().len(), 1);
    let events = outbox::unpublished(&fixture.store, 0, 100).await.unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "call.ended").count(), 1);
}

async fn a_refused_call_that_never_started_has_its_record(fixture: Fixture) {
    let mut refused = cdr("c9");
    refused.answered_unix_ms = None;
    assert!(calls::end(&fixture.store, refused.clone()).await.unwrap());
    let kept = cdrs::get(&fixture.store, "c9").await.unwrap().unwrap();
    assert_eq!((kept.billed_ms(), kept.duration_ms()), (0, 9_500));
}

async fn what_died_with_its_switchboard_is_found(fixture: Fixture) {
    let store = &fixture.store;
    for (id, switchboard, started) in
        [("old", "dead", 1), ("mine", "living", 2), ("new", "gone", 3), ("over", "dead", 4)]
    {
        let mut call = call(id);
        (call.switchboard, call.started_unix_ms) = (switchboard.into(), started);
        calls::start(store, call).await.unwrap();
    }
    calls::end(store, cdr("over")).await.unwrap();
    let orphans = calls::orphans(store, &["living"]).await.unwrap();
    assert_eq!(orphans.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["old", "new"]);
    assert_eq!(calls::orphans(store, &[]).await.unwrap().len(), 3);
}

async fn a_failing_write_leaves_its_neighbours_of_the_group_alone(fixture: Fixture) {
    calls::start(&fixture.store, call("taken")).await.unwrap();
    // All are queued while the writer runs the first: they share a group with those that fail.
    let starts: Vec<_> = (0..40)
        .map(|n| {
            let store = fixture.store.clone();
            let id = if n % 10 == 5 { "taken".to_owned() } else { format!("c{n}") };
            tokio::spawn(async move { calls::start(&store, call(&id)).await })
        })
        .collect();
    let mut failed = 0;
    for start in starts {
        match start.await.unwrap() {
            Ok(()) => {}
            Err(Error::Duplicate) => failed += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(failed, 4);
    let store = &fixture.store;
    assert_eq!(calls::orphans(store, &[]).await.unwrap().len(), 37);
    // Neither a lost event nor one too many, from writes that were run twice.
    assert_eq!(outbox::unpublished(store, 0, 100).await.unwrap().len(), 37);
    assert!(fixture.store.write_counts().reruns > 0, "no group had a failure: the test shows nothing");
}

async fn rows_of_ended_calls_are_purged_and_nothing_else(fixture: Fixture) {
    let store = &fixture.store;
    let mut lives = tokio::task::JoinSet::new();
    for n in 0..1_203 {
        let (store, mut record) = (store.clone(), cdr(&format!("c{n}")));
        record.ended_unix_ms = if n < 1_200 { 5_000 } else { 9_000 };
        lives.spawn(async move {
            calls::start(&store, call(&record.call_id)).await.unwrap();
            calls::end(&store, record).await.unwrap();
        });
    }
    lives.join_all().await;
    calls::start(store, call("living")).await.unwrap();
    assert_eq!(calls::purge(store, 9_000).await.unwrap(), 1_200, "more than go at once");
    assert_eq!(calls::purge(store, 9_000).await.unwrap(), 0);
    assert!(calls::get(store, "c0").await.unwrap().is_none() && calls::get(store, "c1200").await.unwrap().is_some());
    assert!(calls::get(store, "living").await.unwrap().is_some());
    assert_eq!(cdrs::list(store, 10_000).await.unwrap().len(), 1_203);
}

async fn a_name_with_a_nul_fails_no_record(fixture: Fixture) {
    let (mut begun, mut record) = (call("c1"), cdr("c1"));
    begun.from_display = Some("A\0B".into());
    record.from_display = begun.from_display.clone();
    calls::start(&fixture.store, begun).await.unwrap();
    assert!(calls::end(&fixture.store, record).await.unwrap());
    let kept = cdrs::get(&fixture.store, "c1").await.unwrap().unwrap();
    assert_eq!(kept.from_display.as_deref(), Some("A\u{fffd}B"));
}
