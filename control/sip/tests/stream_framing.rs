//! A byte stream becomes messages, whatever the pieces it arrives in.

mod testdata;

use nebula_sip::message::limits::MESSAGE_BYTES_MAX;
use nebula_sip::message::stream::{Frame, Framer};
use nebula_sip::message::{Fault, HeaderError, Malformed, Message, Name, ParseError};

fn message(call_id: &str, length: &str, body: &str) -> String {
    format!(
        "MESSAGE sip:a@b SIP/2.0\r\nv: SIP/2.0/TCP h;branch=z9hG4bK1\r\nf: <sip:a@b>;tag=1\r\nt: <sip:b@b>\r\n\
         i: {call_id}\r\nCSeq: 1 MESSAGE\r\n{length}\r\n{body}"
    )
}

fn frames(framer: &mut Framer, bytes: &[u8]) -> Vec<Frame> {
    framer.buffer().extend_from_slice(bytes);
    std::iter::from_fn(|| framer.next_frame()).collect()
}

/// Call-ID and body of a good message, else what it was.
fn name(frame: &Frame) -> String {
    match frame {
        Frame::Message(Ok(Message::Request(request))) => {
            format!("{} {}", request.headers.call_id().unwrap(), String::from_utf8_lossy(&request.body))
        }
        other => format!("{other:?}").chars().take(60).collect(),
    }
}

fn call_id(frame: &Frame) -> Option<&str> {
    match frame {
        Frame::Message(Ok(message)) => message.headers().call_id().ok(),
        _ => None,
    }
}

#[test]
fn any_cut_gives_the_same_messages() {
    let stream = [
        message("one", "l: 5\r\n", "he\r\n\r"),
        "\r\n\r\n".to_owned(),
        message("two", "Content-Length : 0\r\n", ""),
        "\r\n".to_owned(),
        message("three", "", ""),
        message("four", "L:\r\n 3\r\n", "abc"),
    ]
    .concat();
    let expected = ["one he\r\n\r", "Ping", "two ", "Pong", "three ", "four abc"];
    for piece_bytes in [1, 2, 3, 5, 7, 64, stream.len()] {
        let mut framer = Framer::default();
        let mut seen = Vec::new();
        for piece in stream.as_bytes().chunks(piece_bytes) {
            seen.extend(frames(&mut framer, piece).iter().map(name));
        }
        assert_eq!(seen, expected, "{piece_bytes}");
        assert!(!framer.is_partial());
    }
}

#[test]
fn a_malformed_message_does_not_end_the_stream() {
    let broken = message("one", "l: 3\r\n", "abc").replace("t: <sip:b@b>", "t: \"x <sip:b@b>");
    let stream = format!("{broken}{}", message("two", "l: 0\r\n", ""));
    let seen = frames(&mut Framer::default(), stream.as_bytes());
    let Frame::Message(Err(malformed)) = &seen[0] else { panic!("{seen:?}") };
    assert!(matches!(&malformed.error, ParseError::Header(HeaderError::Bad { name: Name::To, .. })));
    assert!(malformed.salvage.is_some());
    assert_eq!(name(&seen[1]), "two ");
}

#[test]
fn what_has_no_length_ends_it_and_can_still_be_refused() {
    let unframeable = |length: &str| {
        let mut framer = Framer::default();
        let seen = frames(&mut framer, message("one", length, "x").as_bytes());
        assert!(frames(&mut framer, message("two", "l: 0\r\n", "").as_bytes()).is_empty());
        match seen.into_iter().next() {
            Some(Frame::Fatal(malformed)) => malformed,
            other => panic!("{other:?}"),
        }
    };
    let Malformed { error, salvage } = unframeable("l: -1\r\n");
    assert!(
        matches!(error, ParseError::Header(HeaderError::Bad { name: Name::ContentLength, error }) if error.fault == Fault::Number)
    );
    assert!(salvage.unwrap().headers.has(Name::CallId));
    assert_eq!(unframeable("l: 1\r\nContent-Length: 1\r\n").error, HeaderError::Repeated(Name::ContentLength).into());
    assert_eq!(unframeable(&format!("l: {MESSAGE_BYTES_MAX}\r\n")).error, ParseError::TooLarge);
    assert_eq!(unframeable("l: 99999999999999999999\r\n").error, ParseError::TooLarge);
}

#[test]
fn memory_is_bounded_before_the_head_ends() {
    let mut framer = Framer::default();
    let mut last = Vec::new();
    for _ in 0..=MESSAGE_BYTES_MAX / 1000 {
        last = frames(&mut framer, "a".repeat(1000).as_bytes());
        if !last.is_empty() {
            break;
        }
    }
    assert!(matches!(&last[..], [Frame::Fatal(Malformed { error: ParseError::TooLarge, .. })]), "{last:?}");
    assert!(framer.buffer().is_empty());
}

/// Over a stream, the request that trails in dblreq is a message of its own, and clerr waits for its body.
#[test]
fn torture_messages_over_a_stream() {
    let Some(double) = testdata::rfc4475("dblreq") else { return };
    let seen = frames(&mut Framer::default(), &double);
    let call_ids: Vec<&str> = seen.iter().filter_map(call_id).collect();
    assert_eq!(call_ids, ["dblreq.0ha0isndaksdj99sdfafnl3lk233412", "dblreq.0ha0isnda977644900765@192.0.2.15"]);
    let Some(short) = testdata::rfc4475("clerr") else { return };
    assert!(frames(&mut Framer::default(), &short).is_empty());
}
