//! SIP: messages, framing of streams, snapshots.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nebula_sip::dialog::{Dialog, DialogId, Forks};
use nebula_sip::digest::{Credentials, Nonces, SavedNonces};
use nebula_sip::message::limits::{HEADER_LINE_BYTES_MAX, HEADERS_MAX, MESSAGE_BYTES_MAX, START_LINE_BYTES_MAX};
use nebula_sip::message::stream::{Frame, Framer};
use nebula_sip::session_timer::Offer;
use nebula_sip::snapshot::Resume;
use nebula_sip::transaction::{Layer, Options, SavedTransaction};
use nebula_sip::{Flow, Headers, Message, Method, Name, NameAddr, Protocol, Request, Response, StatusCode, Uri};

/// Reads a message, asks it for everything, writes it, and reads the same again.
pub fn message(bytes: &[u8]) {
    let message = match Message::parse(Bytes::copy_from_slice(bytes)) {
        Ok(message) => message,
        Err(malformed) => {
            if let Some(salvage) = malformed.salvage {
                let refusal = Response::to_salvage(&salvage, StatusCode::BAD_REQUEST).to_bytes();
                assert!(refusal.starts_with(b"SIP/2.0 400 "));
            }
            return;
        }
    };
    ask(message.headers());
    let written = message.to_bytes();
    match Message::parse(written.clone()) {
        Ok(again) => assert_same(&message, &again, &written),
        Err(malformed) => assert!(exceeds(&written), "what we write we cannot read: {}", malformed.error),
    }
    match message {
        Message::Request(request) => serve(request),
        Message::Response(response) => {
            let _ = DialogId::of_response(&response);
        }
    }
}

fn assert_same(message: &Message, again: &Message, written: &Bytes) {
    assert_eq!(again.to_bytes(), *written);
    let without_length = |message: &Message| {
        let mut headers = message.headers().clone();
        headers.remove(Name::ContentLength);
        headers
    };
    assert_eq!(without_length(message), without_length(again));
    match (message, again) {
        (Message::Request(a), Message::Request(b)) => {
            assert_eq!((&a.method, &a.uri, &a.body), (&b.method, &b.uri, &b.body));
        }
        (Message::Response(a), Message::Response(b)) => {
            assert_eq!((a.status, &a.reason, &a.body), (b.status, &b.reason, &b.body));
        }
        _ => panic!("a request became a response"),
    }
}

/// Writing adds Content-Length, a space after each colon, and three bytes for one that is no UTF-8.
fn exceeds(written: &Bytes) -> bool {
    let mut lines = written.split(|byte| *byte == b'\n');
    let start = lines.next().map_or(0, <[u8]>::len);
    let head: Vec<usize> = lines.take_while(|line| *line != b"\r").map(<[u8]>::len).collect();
    written.len() > MESSAGE_BYTES_MAX
        || start > START_LINE_BYTES_MAX
        || head.len() > HEADERS_MAX
        || head.iter().any(|len| *len > HEADER_LINE_BYTES_MAX)
}

fn ask(headers: &Headers) {
    headers.from().expect("checked");
    headers.to().expect("checked");
    headers.call_id().expect("checked");
    headers.cseq().expect("checked");
    let top = headers.via_top().expect("checked");
    let _ = (top.response_target(), top.rfc3261_branch(), top.received());
    let _ = (headers.expires(), headers.min_expires(), headers.retry_after(), headers.date(), headers.rseq());
    let _ = (headers.rack(), headers.accept(), headers.content_type(), Offer::of(headers));
    for name in [Name::Authorization, Name::ProxyAuthorization, Name::WwwAuthenticate] {
        for auth in headers.auths(name).unwrap_or_default() {
            if let Ok(credentials) = Credentials::parse(&auth) {
                let _ = Nonces::new([0; 16], 300).spend(&credentials.nonce, None, 0);
            }
        }
    }
    let contact = headers.contact().ok().flatten();
    for address in contact.into_iter().chain(headers.record_routes().unwrap_or_default()) {
        let again = NameAddr::parse(&address.to_string()).expect("an address that was read can be written");
        assert_eq!(again, address);
        assert!(address.uri.is_equivalent(&address.uri), "a URI is equivalent to itself");
    }
}

/// What a server does with a request: a dialog, a response, a layer that answers it.
fn serve(request: Request) {
    let response = Response::to(&request, StatusCode::OK);
    match Message::parse(response.to_bytes()) {
        Ok(Message::Response(again)) => assert_eq!(again.status, StatusCode::OK),
        Ok(Message::Request(_)) => panic!("a response became a request"),
        Err(_) => assert!(exceeds(&response.to_bytes()), "a response of ours cannot be read"),
    }
    let contact = NameAddr::new("sip:us@192.0.2.1".parse::<Uri>().expect("a URI"));
    if let Ok(mut dialog) = Dialog::uas(&request, "ours", contact) {
        let _ = dialog.receive(&request);
        let _ = dialog.request(Method::Bye).to_bytes();
    }
    let now = Instant::now();
    let address = "192.0.2.9:5060".parse().expect("an address");
    let flow = Flow { protocol: Protocol::Udp, local: address, remote: address, connection: 0 };
    let mut layer = Layer::new(Options::default(), [0; 16]);
    for _ in 0..2 {
        layer.receive(now, request.clone().into(), flow);
        while layer.poll_output().is_some() {}
    }
    assert!(layer.len() <= 1);
}

/// Cuts a stream into frames, in pieces of the length that the first byte says; however it is cut, the frames are the same.
pub fn stream(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = frames(bytes, bytes.len().max(1));
    let pieces = frames(bytes, usize::from(*piece).max(1));
    // A lone CRLF is told only when it is seen to be no ping, which is the same in the end.
    assert_eq!(whole.len(), pieces.len());
    for (a, b) in whole.iter().zip(&pieces) {
        match (a, b) {
            // What is salvaged of a stream that broke is what had come so far.
            (Frame::Fatal(a), Frame::Fatal(b)) => assert_eq!(a.error, b.error),
            _ => assert_eq!(a, b),
        }
    }
}

fn frames(bytes: &[u8], piece: usize) -> Vec<Frame> {
    let mut framer = Framer::default();
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece) {
        framer.buffer().extend_from_slice(piece);
        while let Some(frame) = framer.next_frame() {
            frames.push(frame);
        }
    }
    frames
}

/// Takes up whatever a snapshot says; a transaction that was taken up ends, unless its user has to end it.
pub fn snapshot(bytes: &[u8]) {
    let now = Instant::now();
    let resume = Resume { now, elapsed: Duration::from_millis(bytes.len() as u64) };
    if let Ok(mut dialog) = serde_json::from_slice::<Dialog>(bytes) {
        let _ = dialog.request(Method::Bye).to_bytes();
        serde_json::from_str::<Dialog>(&serde_json::to_string(&dialog).expect("JSON")).expect("what we write we read");
    }
    if let Ok(forks) = serde_json::from_slice::<Forks>(bytes) {
        assert!(forks.early().count() <= nebula_sip::dialog::FORKS_MAX);
    }
    if let Ok(nonces) = serde_json::from_slice::<SavedNonces>(bytes) {
        let mut nonces = Nonces::resume([0; 16], 300, &nonces);
        let nonce = nonces.issue(1);
        let _ = nonces.spend(&nonce, Some(1), 1);
        let _ = nonces.save(10);
    }
    if let Ok(saved) = serde_json::from_slice::<SavedTransaction>(bytes) {
        transaction(saved, &resume);
    }
}

fn transaction(saved: SavedTransaction, resume: &Resume) {
    let mut layer = Layer::new(Options::default(), [0; 16]);
    let Ok(id) = layer.resume(saved, resume) else { return };
    while layer.poll_output().is_some() {}
    let written = layer.save(id, resume.now).map(|saved| serde_json::to_string(&saved).expect("JSON"));
    for _ in 0..256 {
        let Some(at) = layer.next_timeout() else { break };
        layer.handle_timeout(at.max(resume.now));
        while layer.poll_output().is_some() {}
    }
    assert_eq!(layer.next_timeout(), None, "its timers end");
    let waits_for_user =
        written.is_some_and(|text| text.contains("Server\":\"Trying\"") || text.contains("Server\":\"Proceeding\""));
    assert!(layer.is_empty() || waits_for_user, "a transaction without an end");
}
