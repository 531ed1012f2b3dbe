//! The torture messages of RFC 4475 and 5118 over UDP and TCP: whatever comes, the edge answers the next phone.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use nebula_sip::{Message, Method};
use tokio::io::AsyncWriteExt;

/// All messages of both RFCs, or nothing where the test data is not there.
fn messages() -> Vec<(PathBuf, Vec<u8>)> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/testdata");
    let folder = std::env::var_os("NEBULA_TESTDATA").map_or(beside, PathBuf::from);
    let mut messages = Vec::new();
    for rfc in ["rfc4475", "rfc5118"] {
        let Ok(entries) = std::fs::read_dir(folder.join(rfc)) else { continue };
        for path in entries
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|e| e == "dat"))
        {
            let bytes = std::fs::read(&path).expect("readable");
            messages.push((path, bytes));
        }
    }
    if messages.is_empty() {
        eprintln!("no test data in {}: skipped", folder.display());
    }
    messages.sort();
    messages
}

#[tokio::test]
async fn over_udp() {
    let rig = Rig::new().await;
    for (n, (path, bytes)) in messages().into_iter().enumerate() {
        let mut phone = rig.phone("1000").await;
        phone.send(bytes.into()).await;
        alive(&rig, n, &path).await;
    }
    assert_eq!(rig.edge.channels(), 0, "nobody was authenticated");
}

#[tokio::test]
async fn over_tcp() {
    let rig = Rig::new().await;
    for (n, (path, bytes)) in messages().into_iter().enumerate() {
        let mut stream = tokio::net::TcpStream::connect(rig.edge.local_addr()).await.expect("a connection");
        stream.write_all(&bytes).await.expect("written");
        alive(&rig, n, &path).await;
    }
    assert_eq!(rig.edge.channels(), 0, "nobody was authenticated");
}

/// Another phone asks, and is answered.
async fn alive(rig: &Rig, n: usize, after: &Path) {
    let mut phone = rig.phone("1001").await;
    let options = phone.new_request(Method::Options, "1001", &format!("alive-{n}"), 1);
    phone.send(options.to_bytes()).await;
    match phone.receive().await {
        Message::Response(response) => assert_eq!(response.status.get(), 200, "{}", after.display()),
        Message::Request(request) => panic!("{} after {}", request.method, after.display()),
    }
}
