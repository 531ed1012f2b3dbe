//! What an operator gets wrong is one clear line that names the file.
#![allow(missing_docs)]

mod common;

use std::fs;

use common::{Fixture, options};
use nebula_store::{Error, Options, Store};

async fn refusal(options: &Options) -> Error {
    match Store::open(options).await {
        Ok(_) => panic!("{} was opened", options.url),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_file_of_another_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nebula.db");
    fs::write(&path, "This is a letter, and a long one. ".repeat(100)).unwrap();
    let error = refusal(&options(&folder)).await;
    assert!(matches!(error, Error::NotADatabase { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(fs::read_to_string(&path).unwrap().starts_with("This is a letter"), "it was left as it is");
}

#[tokio::test]
async fn a_damaged_database() {
    let fixture = Fixture::sqlite().await;
    fixture.store.close().await;
    let path = fixture.folder.path().join("nebula.db");
    let mut bytes = fs::read(&path).unwrap();
    // The header stays, the first page's b-tree does not.
    bytes[100..4096].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let error = refusal(&options(&fixture.folder)).await;
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("nebula.db"), "{error}");
}

#[tokio::test]
async fn a_folder_that_is_not_there_and_a_folder_as_file() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("none/nebula.db"), folder.path().to_owned()] {
        let error = refusal(&Options::file(&path)).await;
        assert!(matches!(error, Error::Open { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn a_database_that_takes_no_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nebula.db");
    fs::write(&path, "").unwrap();
    let error = refusal(&Options::url(format!("sqlite://{}?mode=ro", path.display()))).await;
    assert!(matches!(error, Error::NotWritable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_url_of_another_kind() {
    let error = refusal(&Options::url("mysql://localhost/x")).await;
    assert!(matches!(error, Error::Url { .. }), "{error}");
}

#[tokio::test]
async fn a_newer_schema_names_both_versions() {
    use sea_orm::{ConnectionTrait, Database};

    let fixture = Fixture::sqlite().await;
    fixture.store.close().await;
    let path = fixture.folder.path().join("nebula.db");
    let newer = Database::connect(format!("sqlite://{}", path.display())).await.unwrap();
    newer
        .execute_unprepared("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_future', 1)")
        .await
        .unwrap();
    newer.close().await.unwrap();
    let error = refusal(&options(&fixture.folder)).await;
    let Error::NewerSchema { found, known, .. } = &error else { panic!("{error}") };
    assert_eq!((found.as_str(), known.as_str()), ("m9999_future", "m0003_extension_srtp"));
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let fixture = Fixture::sqlite().await;
    let other = fixture.store.clone();
    fixture.store.close().await;
    let error = nebula_store::calls::start(&other, common::call("c1")).await.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
}

#[tokio::test]
async fn a_store_in_memory_works_alike() {
    let store = Store::memory().await.unwrap();
    nebula_store::calls::start(&store, common::call("c1")).await.unwrap();
    assert!(nebula_store::calls::get(&store, "c1").await.unwrap().is_some());
}
