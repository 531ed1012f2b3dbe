//! The embedded keep of snapshots: values outlive their process, and only the last owner of a name writes.
#![allow(missing_docs)]

use std::fs;

use nebula_store::snapshots::{Error, File};

fn put(key: &str, value: &str) -> (String, Option<Vec<u8>>) {
    (key.into(), Some(value.into()))
}

fn row(key: &str, value: &str) -> (String, Vec<u8>) {
    (key.into(), value.into())
}

const DELETE: Option<Vec<u8>> = None;

#[tokio::test]
async fn the_next_owner_finds_what_was_kept_and_the_last_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshots.db");
    let first = File::open(&path).unwrap();
    let (fence, rows) = first.enter("proxy-a").await.unwrap();
    assert_eq!((fence, rows.len()), (1, 0));
    first.write("proxy-a", fence, &[put("leg/1", "early"), put("leg/2", "up")]).await.unwrap();
    first.write("proxy-a", fence, &[put("leg/1", "answered"), ("leg/2".into(), DELETE)]).await.unwrap();

    let second = File::open(&path).unwrap();
    let (risen, rows) = second.enter("proxy-a").await.unwrap();
    assert!(risen > fence);
    assert_eq!(rows, [row("leg/1", "answered")]);
    let refused = first.write("proxy-a", fence, &[put("leg/1", "stale")]).await;
    assert_eq!(refused, Err(Error::Fenced("proxy-a".into())));
    second.rewrite("proxy-a", risen, &[row("leg/9", "new")]).await.unwrap();
    assert_eq!(File::open(&path).unwrap().enter("proxy-a").await.unwrap().1, [row("leg/9", "new")]);
    let unknown = second.write("proxy-z", u64::MAX, &[put("leg/1", "x")]).await;
    assert_eq!(unknown, Err(Error::Fenced("proxy-z".into())), "who never entered owns nothing");
}

#[tokio::test]
async fn what_another_instance_left_is_taken_over_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshots.db");
    let before = File::open(&path).unwrap();
    let (old, _) = before.enter("switchboard-old").await.unwrap();
    before.write("switchboard-old", old, &[put("call/1", "up")]).await.unwrap();

    let file = File::open(&path).unwrap();
    let (own, _) = file.enter("switchboard-new").await.unwrap();
    file.write("switchboard-new", own, &[put("call/2", "up")]).await.unwrap();
    assert_eq!(file.left().await.unwrap(), ["switchboard-old"]);
    assert_eq!(file.take_over("switchboard-new", "switchboard-new", own).await.unwrap(), None, "it lives");
    let fenced = file.take_over("switchboard-old", "switchboard-new", own - 1).await.unwrap();
    assert_eq!(fenced, None, "an heir that is fenced inherits nothing");
    let (fence, rows) = file.take_over("switchboard-old", "switchboard-new", own).await.unwrap().unwrap();
    assert!(fence > own && own > old);
    assert_eq!(rows, [row("call/1", "up")]);
    assert_eq!(file.take_over("switchboard-old", "switchboard-new", own).await.unwrap(), None, "it is taken");
    file.write("switchboard-new", own, &[put("call/3", "up")]).await.expect("a write that was under way");
    let refused = before.write("switchboard-old", old, &[put("call/1", "zombie")]).await;
    assert!(matches!(refused, Err(Error::Fenced(_))), "{refused:?}");
    let rows = File::open(&path).unwrap().enter("switchboard-new").await.unwrap().1;
    assert_eq!(rows, [row("call/1", "up"), row("call/2", "up"), row("call/3", "up")]);
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside_and_a_newer_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshots.db");
    fs::write(&path, "This is a letter, and a long one. ".repeat(100)).unwrap();
    let file = File::open(&path).unwrap();
    let (fence, _) = file.enter("media-a").await.unwrap();
    file.write("media-a", fence, &[put("stream/1", "up")]).await.unwrap();
    let aside = fs::read_to_string(folder.path().join("snapshots.db.damaged")).unwrap();
    assert!(aside.starts_with("This is a letter"), "it was left as it is");

    let newer = folder.path().join("newer.db");
    drop(File::open(&newer).unwrap());
    rusqlite::Connection::open(&newer).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let Err(error) = File::open(&newer) else { panic!("a newer file was opened") };
    assert!(matches!(error, Error::Newer { found: 7, .. }), "{error}");
    assert!(error.to_string().contains("newer.db"), "{error}");
    let Err(error) = File::open(&folder.path().join("none/snapshots.db")) else { panic!("no folder, but a file") };
    assert!(matches!(error, Error::Open { .. }), "{error}");
}
