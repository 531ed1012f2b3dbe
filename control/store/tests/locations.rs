//! Bindings: set, refreshed, removed, ordered, expired; events only for what came or went.
#![allow(missing_docs)]

mod common;

use common::{Fixture, binding};
use nebula_store::locations::{self, Applied, Binding, Changes};
use nebula_store::{Store, outbox};

on_both!(
    bindings_come_are_refreshed_and_go,
    an_older_register_of_the_same_call_id_changes_nothing,
    replacing_all_in_one_register_is_one_change,
    the_sweep_removes_what_has_ended,
);

const A: &str = "sip:1000@192.0.2.7:5060";
const B: &str = "sip:1000@192.0.2.8:5060;transport=tcp";

fn register(cseq: u32, set: Vec<Binding>) -> Changes {
    Changes { call_id: "register@phone".into(), cseq, set, ..Changes::default() }
}

async fn contacts(store: &Store, now: i64) -> Vec<String> {
    locations::live(store, "1000", now).await.unwrap().into_iter().map(|binding| binding.contact).collect()
}

async fn events(store: &Store) -> Vec<(serde_json::Value, serde_json::Value)> {
    let events = outbox::unpublished(store, 0, 100).await.unwrap();
    assert!(events.iter().all(|event| event.kind == "registration.changed"));
    events.into_iter().map(|event| (event.data["added"].clone(), event.data["removed"].clone())).collect()
}

async fn bindings_come_are_refreshed_and_go(fixture: Fixture) {
    let mut preferred = binding(B, 1);
    preferred.q_thousandths = 900;
    let set = vec![binding(A, 1), preferred.clone()];
    let applied = locations::apply(&fixture.store, "1000", register(1, set), 1).await.unwrap();
    assert_eq!(applied, Applied::Done(vec![preferred.clone(), binding(A, 1)]));
    let mut refreshed = binding(A, 2);
    refreshed.expires_unix_ms = 90_000;
    locations::apply(&fixture.store, "1000", register(2, vec![refreshed.clone()]), 2).await.unwrap();

    let fixture = fixture.reopen().await;
    let store = &fixture.store;
    assert_eq!(locations::live(store, "1000", 3).await.unwrap(), [preferred, refreshed.clone()]);
    assert_eq!(locations::live(store, "1000", 60_000).await.unwrap(), [refreshed.clone()], "one has ended");
    let remove = Changes { remove: vec![B.into(), "sip:unknown@x".into()], ..register(3, vec![]) };
    assert_eq!(locations::apply(store, "1000", remove, 4).await.unwrap(), Applied::Done(vec![refreshed]));
    let all = Changes { remove_all: true, ..register(4, vec![]) };
    assert_eq!(locations::apply(store, "1000", all, 5).await.unwrap(), Applied::Done(vec![]));
    let none = serde_json::json!([]);
    let expected = [
        (serde_json::json!([A, B]), none.clone()),
        (none.clone(), serde_json::json!([B])),
        (none, serde_json::json!([A])),
    ];
    assert_eq!(events(store).await, expected, "the refresh is no event");
}

async fn an_older_register_of_the_same_call_id_changes_nothing(fixture: Fixture) {
    let store = &fixture.store;
    locations::apply(store, "1000", register(5, vec![binding(A, 5)]), 1).await.unwrap();
    for cseq in [4, 5] {
        let stale = Changes { remove_all: true, ..register(cseq, vec![binding(B, cseq)]) };
        assert_eq!(locations::apply(store, "1000", stale, 2).await.unwrap(), Applied::Stale);
    }
    assert_eq!(contacts(store, 2).await, [A]);
    // Another Call-ID (the phone was started anew) counts from its own beginning.
    let mut anew = register(1, vec![binding(A, 1)]);
    anew.call_id = "another@phone".into();
    anew.set[0].call_id = "another@phone".into();
    assert!(matches!(locations::apply(store, "1000", anew, 3).await.unwrap(), Applied::Done(_)));
    // So does the same one when its binding has ended.
    let after = register(1, vec![binding(A, 1)]);
    assert!(matches!(locations::apply(store, "1000", after, 70_000).await.unwrap(), Applied::Done(_)));
}

async fn replacing_all_in_one_register_is_one_change(fixture: Fixture) {
    let store = &fixture.store;
    locations::apply(store, "1000", register(1, vec![binding(A, 1)]), 1).await.unwrap();
    let replace = Changes { remove_all: true, ..register(2, vec![binding(B, 2)]) };
    locations::apply(store, "1000", replace, 2).await.unwrap();
    assert_eq!(contacts(store, 3).await, [B]);
    assert_eq!(events(store).await[1], (serde_json::json!([B]), serde_json::json!([A])));
}

async fn the_sweep_removes_what_has_ended(fixture: Fixture) {
    let store = &fixture.store;
    let mut long = binding(B, 1);
    long.expires_unix_ms = 100_000;
    locations::apply(store, "1000", register(1, vec![binding(A, 1), long]), 1).await.unwrap();
    locations::apply(store, "1001", register(1, vec![binding("sip:1001@x", 1)]), 1).await.unwrap();
    assert_eq!(locations::sweep(store, 59_999).await.unwrap(), 0);
    assert_eq!(locations::sweep(store, 60_000).await.unwrap(), 2);
    assert_eq!(locations::sweep(store, 60_000).await.unwrap(), 0);
    assert_eq!(contacts(store, 1).await, [B]);
    let swept: Vec<_> = events(store).await.split_off(2);
    assert_eq!(
        swept.iter().map(|(_, removed)| removed.clone()).collect::<Vec<_>>(),
        [serde_json::json!([A]), serde_json::json!(["sip:1001@x"])]
    );
}
