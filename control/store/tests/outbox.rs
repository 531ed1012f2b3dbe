//! The outbox: events in order, at least once, over failures and a crash.
#![allow(missing_docs)]

mod common;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::postgres::Server;
use common::{Fixture, call, cdr};
use nebula_store::{Options, Store, calls, outbox, publisher};
use tokio::sync::mpsc;
use tokio::time::timeout;

on_both!(
    a_pass_publishes_in_order_and_marks,
    a_failure_holds_its_subject_back_and_no_other,
    a_crash_between_publishing_and_marking_publishes_again,
    a_commit_wakes_the_publisher_and_failures_are_tried_again,
);

async fn two_calls(store: &Store) {
    for id in ["a", "b"] {
        calls::start(store, call(id)).await.unwrap();
    }
    for id in ["a", "b"] {
        calls::end(store, cdr(id)).await.unwrap();
    }
}

async fn a_pass_publishes_in_order_and_marks(fixture: Fixture) {
    two_calls(&fixture.store).await;
    let mut seen = Vec::new();
    let mut publish = |event: outbox::OutboxEvent| {
        seen.push((event.sequence, event.kind, event.subject));
        async { Ok::<_, Infallible>(()) }
    };
    assert_eq!(publisher::pass(&fixture.store, &mut publish).await.unwrap(), 0);
    assert!(seen.is_sorted_by_key(|(sequence, ..)| *sequence));
    let subjects: Vec<_> = seen.iter().map(|(_, kind, subject)| format!("{kind} {subject}")).collect();
    assert_eq!(subjects, ["call.started a", "call.started b", "call.ended a", "call.ended b"]);
    assert_eq!(outbox::unpublished(&fixture.store, 0, 10).await.unwrap(), []);
    assert_eq!(outbox::purge(&fixture.store, i64::MAX).await.unwrap(), 4);
}

async fn a_failure_holds_its_subject_back_and_no_other(fixture: Fixture) {
    two_calls(&fixture.store).await;
    let mut seen = Vec::new();
    let mut publish = |event: outbox::OutboxEvent| {
        let fails = event.kind == "call.started" && event.subject == "a";
        if !fails {
            seen.push(format!("{} {}", event.kind, event.subject));
        }
        async move { if fails { Err("the bus is away") } else { Ok(()) } }
    };
    assert_eq!(publisher::pass(&fixture.store, &mut publish).await.unwrap(), 2);
    assert_eq!(seen, ["call.started b", "call.ended b"]);
    let left = outbox::unpublished(&fixture.store, 0, 10).await.unwrap();
    assert_eq!(left.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["call.started", "call.ended"]);
    assert!(left.iter().all(|event| event.subject == "a"));
}

async fn a_crash_between_publishing_and_marking_publishes_again(fixture: Fixture) {
    two_calls(&fixture.store).await;
    let (published, mut first) = mpsc::unbounded_channel();
    let store = fixture.store.clone();
    let dying = tokio::spawn(publisher::run(store, move |event| {
        let published = published.clone();
        async move {
            published.send(event.sequence).unwrap();
            if event.sequence == 3 {
                // Handed over, and then the process hangs: the mark is never made.
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(())
        }
    }));
    for expected in 1..=3 {
        assert_eq!(timeout(Duration::from_secs(5), first.recv()).await.unwrap(), Some(expected));
    }
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());

    let fixture = fixture.reopen().await;
    let again = Arc::new(Mutex::new(Vec::new()));
    let seen = again.clone();
    let mut publish = |event: outbox::OutboxEvent| {
        seen.lock().unwrap().push(event.sequence);
        async { Ok::<_, Infallible>(()) }
    };
    publisher::pass(&fixture.store, &mut publish).await.unwrap();
    assert_eq!(*again.lock().unwrap(), [1, 2, 3, 4], "nothing was marked, so all come again, in order");
}

async fn a_commit_wakes_the_publisher_and_failures_are_tried_again(fixture: Fixture) {
    let (published, mut events) = mpsc::unbounded_channel();
    let store = fixture.store.clone();
    let mut failures = 2;
    let running = tokio::spawn(publisher::run(store, move |event| {
        let fails = failures > 0;
        failures -= i32::from(fails);
        if !fails {
            published.send((event.kind, event.subject)).unwrap();
        }
        async move { if fails { Err("not yet") } else { Ok(()) } }
    }));
    for n in 0..600 {
        calls::start(&fixture.store, call(&n.to_string())).await.unwrap();
    }
    for _ in 0..600 {
        let event = timeout(Duration::from_secs(10), events.recv()).await.expect("an event in time");
        assert_eq!(event.unwrap().0, "call.started");
    }
    running.abort();
}

/// Takes events until there are this many.
async fn take(events: &mut mpsc::UnboundedReceiver<(u32, i64, String)>, count: usize) -> Vec<(u32, i64, String)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let event = timeout(Duration::from_secs(20), events.recv()).await;
        taken.push(event.unwrap_or_else(|_| panic!("{} of {count} events", taken.len())).unwrap());
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_processes_one_publishes_and_another_goes_on_when_it_dies() {
    let server = Server::start().await;
    let (published, mut events) = mpsc::unbounded_channel();
    let mut processes = Vec::new();
    for process in 0..3_u32 {
        let store = Store::open(&Options::url(server.url())).await.unwrap();
        let published = published.clone();
        let publish = move |event: outbox::OutboxEvent| {
            published.send((process, event.sequence, event.subject)).unwrap();
            async { Ok::<_, Infallible>(()) }
        };
        processes.push((tokio::spawn(publisher::run(store.clone(), publish)), store));
    }
    let write = async |from: usize| {
        for n in from..from + 90 {
            calls::start(&processes[n % 3].1, call(&format!("c{n:03}"))).await.unwrap();
        }
    };
    write(0).await;
    let first = take(&mut events, 90).await;
    let leader = first[0].0;
    assert!(first.iter().all(|(process, ..)| *process == leader), "one publishes");
    // Its session ends with it.
    processes[leader as usize].0.abort();
    write(100).await;
    let then = take(&mut events, 90).await;
    let heir = then[0].0;
    assert!(heir != leader && then.iter().all(|(process, ..)| *process == heir), "another one goes on");
    let mut sequences: Vec<_> = first.iter().chain(&then).map(|(_, sequence, _)| *sequence).collect();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 180, "each once, since nobody died between publishing and marking");
    processes.iter().for_each(|(running, _)| running.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_process_is_published_soon() {
    let server = Server::start().await;
    let (published, mut events) = mpsc::unbounded_channel();
    let publishing = Store::open(&Options::url(server.url())).await.unwrap();
    let running = tokio::spawn(publisher::run(publishing, move |event: outbox::OutboxEvent| {
        published.send((0, event.sequence, event.subject)).unwrap();
        async { Ok::<_, Infallible>(()) }
    }));
    let store = Store::open(&Options::url(server.url())).await.unwrap();
    calls::start(&store, call("first")).await.unwrap();
    take(&mut events, 1).await;
    for n in 0..10 {
        let begun = Instant::now();
        calls::start(&store, call(&format!("c{n}"))).await.unwrap();
        take(&mut events, 1).await;
        // A poll alone would take 5 s.
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_costs_no_event() {
    let mut server = Server::start().await;
    let (published, mut events) = mpsc::unbounded_channel();
    let store = Store::open(&Options::url(server.url())).await.unwrap();
    let running = tokio::spawn(publisher::run(store.clone(), move |event: outbox::OutboxEvent| {
        published.send((0, event.sequence, event.subject)).unwrap();
        async { Ok::<_, Infallible>(()) }
    }));
    calls::start(&store, call("before")).await.unwrap();
    take(&mut events, 1).await;
    server.kill();
    server.start_again().await;
    calls::start(&store, call("after")).await.unwrap();
    // The first one again, if its mark was lost with the server.
    let subjects = async { while events.recv().await.expect("a publisher").2 != "after" {} };
    timeout(Duration::from_secs(20), subjects).await.expect("the publisher leads again");
    running.abort();
}
