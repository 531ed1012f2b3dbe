//! Accounts: seeded once, inserted all or none, passwords set, everything audited.
#![allow(missing_docs)]

mod common;

use common::{Fixture, customer, extension};
use nebula_store::extensions::{self, Ha1, Srtp};
use nebula_store::{Error, audit};

on_both!(
    the_first_start_seeds_and_the_second_does_not,
    an_insert_with_one_taken_user_leaves_nothing,
    many_extensions_are_inserted_at_once,
    password_and_state_change_for_those_that_exist,
    protection_is_set_and_left_to_the_configuration_again,
);

async fn the_first_start_seeds_and_the_second_does_not(fixture: Fixture) {
    let ten = || (1000..1010).map(|user| extension(&user.to_string())).collect::<Vec<_>>();
    assert!(extensions::seed(&fixture.store, customer(), ten(), "first start").await.unwrap());
    let fixture = fixture.reopen().await;
    let store = &fixture.store;
    assert!(!extensions::seed(store, customer(), ten(), "second start").await.unwrap());
    let all = extensions::list(store).await.unwrap();
    assert_eq!(all.iter().map(|e| e.user.as_str()).collect::<Vec<_>>()[..2], ["1000", "1001"]);
    assert_eq!(all.len(), 10);
    let one = extensions::find(store, "1003").await.unwrap().unwrap();
    assert_eq!((one.customer_id.as_str(), one.enabled), ("demo", true));
    assert_eq!(one.ha1_sha256, Ha1::new("1003", "nebula", "secret").sha256);
    assert_eq!(extensions::find(store, "1010").await.unwrap(), None);
    let whats: Vec<_> =
        audit::list(store, 10).await.unwrap().into_iter().map(|entry| (entry.who, entry.what)).collect();
    let who = |what: &str| ("first start".to_owned(), what.to_owned());
    assert_eq!(whats, [who("extensions.created"), who("customer.created")]);
}

async fn an_insert_with_one_taken_user_leaves_nothing(fixture: Fixture) {
    let store = &fixture.store;
    extensions::add_customer(store, customer(), "test").await.unwrap();
    extensions::insert(store, "demo", vec![extension("1000")], "test").await.unwrap();
    let audited = audit::list(store, 10).await.unwrap().len();
    let failed = extensions::insert(store, "demo", vec![extension("2000"), extension("1000")], "test").await;
    assert!(matches!(failed, Err(Error::Duplicate)), "{failed:?}");
    assert_eq!(extensions::find(store, "2000").await.unwrap(), None);
    assert_eq!(audit::list(store, 10).await.unwrap().len(), audited, "what did not happen is not audited");
    let nobodys = extensions::insert(store, "nobody", vec![extension("2000")], "test").await;
    assert!(nobodys.is_err(), "the customer must exist");
}

async fn many_extensions_are_inserted_at_once(fixture: Fixture) {
    let many = (10_000..16_000).map(|user| extension(&user.to_string())).collect();
    assert!(extensions::seed(&fixture.store, customer(), many, "test").await.unwrap());
    assert_eq!(extensions::list(&fixture.store).await.unwrap().len(), 6_000);
}

async fn password_and_state_change_for_those_that_exist(fixture: Fixture) {
    let store = &fixture.store;
    extensions::seed(store, customer(), vec![extension("1000"), extension("1001")], "test").await.unwrap();
    let new = Ha1::new("1000", "nebula", "new");
    assert!(extensions::set_password(store, "1000", new.clone(), "operator").await.unwrap());
    assert!(!extensions::set_password(store, "9999", new.clone(), "operator").await.unwrap());
    assert!(extensions::set_enabled(store, "1001", false, "operator").await.unwrap());
    assert!(!extensions::set_enabled(store, "9999", false, "operator").await.unwrap());
    let one = extensions::find(store, "1000").await.unwrap().unwrap();
    assert_eq!((one.ha1_md5, one.ha1_sha256, one.enabled), (new.md5, new.sha256, true));
    let other = extensions::find(store, "1001").await.unwrap().unwrap();
    assert_eq!((other.ha1_md5, other.enabled), (Ha1::new("1001", "nebula", "secret").md5, false));
    let entries = audit::list(store, 2).await.unwrap();
    assert_eq!((entries[0].what.as_str(), entries[0].subject.as_str()), ("extension.enabled", "1001"));
    assert_eq!((entries[1].what.as_str(), entries[1].subject.as_str()), ("extension.password", "1000"));
    assert!(!format!("{entries:?}").contains(&one_secret()), "no secret in the audit log");
}

async fn protection_is_set_and_left_to_the_configuration_again(fixture: Fixture) {
    let required = extensions::NewExtension { srtp: Some(Srtp::Required), ..extension("1000") };
    extensions::seed(&fixture.store, customer(), vec![required, extension("1001")], "test").await.unwrap();
    let fixture = fixture.reopen().await;
    let store = &fixture.store;
    let srtp = async |user: &str| extensions::find(store, user).await.unwrap().unwrap().srtp;
    assert_eq!((srtp("1000").await, srtp("1001").await), (Some(Srtp::Required), None));
    for setting in [Some(Srtp::Off), Some(Srtp::Optional), Some(Srtp::Required), None] {
        assert!(extensions::set_srtp(store, "1001", setting, "operator").await.unwrap());
        assert_eq!(srtp("1001").await, setting);
    }
    assert!(!extensions::set_srtp(store, "9999", None, "operator").await.unwrap());
    let entry = &audit::list(store, 2).await.unwrap()[1];
    assert_eq!((entry.what.as_str(), entry.subject.as_str()), ("extension.srtp", "1001"));
    assert!(format!("{entry:?}").contains("required"), "{entry:?}");
}

fn one_secret() -> String {
    Ha1::new("1000", "nebula", "new").md5
}
