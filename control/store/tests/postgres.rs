//! Postgres' own: TLS, the schema and who may bring it, what an operator gets wrong, and two processes at one database.
#![allow(missing_docs)]

mod common;

use common::postgres::Server;
use common::{binding, call};
use nebula_store::locations::{self, Applied, Changes};
use nebula_store::migration::{self, State};
use nebula_store::{Error, Options, Store, calls, outbox};
use tokio::task::JoinSet;

async fn refusal(options: &Options) -> Error {
    match Store::open(options).await {
        Ok(_) => panic!("{} was opened", options.url),
        Err(error) => error,
    }
}

#[tokio::test]
async fn tls_is_used_and_the_certificate_is_checked_as_the_url_says() {
    let server = Server::with_tls().await;
    let plain = server.url().replace("sslmode=require", "sslmode=disable");
    assert!(matches!(refusal(&Options::url(plain)).await, Error::Refused { .. }));
    let verified = |host: &str, ca: &str| {
        let strict = format!("sslmode=verify-full&sslrootcert={ca}");
        Options::url(server.url().replace("sslmode=require", &strict).replace("localhost", host))
    };
    let ca = server.ca().display().to_string();
    let store = Store::open(&verified("localhost", &ca)).await.expect("the certificate is good");
    calls::start(&store, call("c1")).await.unwrap();
    store.close().await;
    let error = refusal(&verified("127.0.0.1", &ca)).await;
    assert!(matches!(error, Error::Refused { .. }), "another name than the certificate's: {error}");
    let other = Server::with_tls().await;
    let error = refusal(&verified("localhost", &other.ca().display().to_string())).await;
    assert!(matches!(error, Error::Refused { .. }), "another authority: {error}");
    Store::open(&Options::url(server.url())).await.expect("sslmode=require checks no name").close().await;
}

#[tokio::test]
async fn what_an_operator_gets_wrong_is_one_line_without_the_password() {
    let server = Server::start().await;
    let password = server.url().replace("s3cret", "wr0ng");
    let error = refusal(&Options::url(&password)).await;
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("localhost") && !error.to_string().contains("wr0ng"), "{error}");
    let name = server.url().replace("/postgres", "/nothing");
    let error = refusal(&Options::url(name)).await;
    assert!(matches!(&error, Error::Refused { why, .. } if why.contains("nothing")), "{error}");
    let url = server.url();
    drop(server);
    let error = refusal(&Options::url(url)).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn only_up_migrates_and_a_schema_that_differs_is_refused_by_name() {
    let server = Server::start().await;
    let check = Options { migrate: false, ..Options::url(server.url()) };
    let error = refusal(&check).await;
    assert!(matches!(&error, Error::OlderSchema { found, .. } if found == "none"), "{error}");
    assert!(error.to_string().contains("nebula migrate up"), "{error}");
    let states = async || -> Vec<_> {
        migration::status(&server.url()).await.unwrap().into_iter().map(|known| (known.name, known.state)).collect()
    };
    let named = |name: &str, state| (name.to_owned(), state);
    let all = ["m0001_spine", "m0002_fleet", "m0003_extension_srtp"];
    assert_eq!(states().await, all.map(|name| named(name, State::Pending)));
    assert_eq!(migration::up(&server.url()).await.unwrap(), all);
    assert_eq!(migration::up(&server.url()).await.unwrap(), Vec::<String>::new());
    Store::open(&check).await.expect("the schema is right now").close().await;

    server.execute("DELETE FROM seaql_migrations WHERE version = 'm0003_extension_srtp'").await;
    let error = refusal(&check).await;
    assert!(matches!(&error, Error::OlderSchema { found, known, .. } if found == all[1] && known == all[2]));
    server.execute("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_future', 1)").await;
    assert_eq!(states().await[3], named("m9999_future", State::Unknown));
    for migrate in [true, false] {
        let error = refusal(&Options { migrate, ..check.clone() }).await;
        assert!(matches!(&error, Error::NewerSchema { found, .. } if found == "m9999_future"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_start_at_once_migrate_once() {
    let server = Server::start().await;
    let mut starts = JoinSet::new();
    for _ in 0..8 {
        let url = server.url();
        starts.spawn(async move { migration::up(&url).await.unwrap().len() });
    }
    let applied: Vec<usize> = starts.join_all().await;
    let all = migration::status(&server.url()).await.unwrap().len();
    assert_eq!(applied.iter().filter(|n| **n > 0).collect::<Vec<_>>(), [&all], "{applied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn registers_of_one_extension_by_two_processes_are_applied_one_after_the_other() {
    let server = Server::start().await;
    let one = Store::open(&Options::url(server.url())).await.unwrap();
    let other = Store::open(&Options::url(server.url())).await.unwrap();
    let mut registers = JoinSet::new();
    for cseq in 1..=60 {
        let store = if cseq % 2 == 0 { one.clone() } else { other.clone() };
        // Some users, so that the groups of the two hold and want each other's locks.
        let user = format!("10{:02}", cseq % 3);
        registers.spawn(async move {
            let contact = format!("sip:{user}@192.0.2.7:{cseq}");
            let set = vec![binding(&contact, cseq)];
            let changes = Changes { call_id: format!("call-{cseq}"), cseq, remove_all: true, set, remove: vec![] };
            matches!(locations::apply(&store, &user, changes, 1).await.unwrap(), Applied::Done(_))
        });
    }
    assert!(registers.join_all().await.into_iter().all(|done| done));
    for user in ["1000", "1001", "1002"] {
        assert_eq!(locations::live(&one, user, 2).await.unwrap().len(), 1, "each replaced all before it");
    }
    // Every contact came once and, but for the last three, went once.
    let events = outbox::unpublished(&other, 0, 1000).await.unwrap();
    let count = |field: &str| events.iter().map(|event| event.data[field].as_array().unwrap().len()).sum::<usize>();
    assert_eq!((count("added"), count("removed")), (60, 57));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_restarted_is_used_again() {
    let mut server = Server::start().await;
    let store = Store::open(&Options::url(server.url())).await.unwrap();
    calls::start(&store, call("before")).await.unwrap();
    server.kill();
    server.start_again().await;
    calls::start(&store, call("after")).await.unwrap();
    assert_eq!(calls::orphans(&store, &[]).await.unwrap().len(), 2);
}
