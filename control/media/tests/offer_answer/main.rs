//! Offer/answer as the switchboard drives it: text in, text out, on one leg or on the two legs of a call.

mod hold;
mod hostile;
mod lines;
mod mirroring;
mod rfc_examples;
mod srtp;
mod steps;

use nebula_media::offer_answer::{Endpoint, Error, Exchange, Turn};

/// A leg whose endpoint is `198.51.100.1`, port 10000.
pub fn leg() -> Exchange {
    leg_at("198.51.100.1")
}

/// A leg at this address.
pub fn leg_at(ip: &str) -> Exchange {
    let mut leg = Exchange::default();
    leg.place(Endpoint { ip: ip.parse().unwrap(), rtp_port: 10_000, session_id: 4711, loopback: false });
    leg
}

/// An offer or answer with these lines behind a common head, at `192.0.2.10`.
pub fn sdp(lines: &str) -> String {
    let head = "v=0\no=phone 1 1 IN IP4 192.0.2.10\ns=-\nc=IN IP4 192.0.2.10\nt=0 0\n";
    format!("{head}{lines}").lines().map(|line| format!("{}\r\n", line.trim())).collect()
}

/// Takes a turn that makes a description.
pub fn say(leg: &mut Exchange, turn: Turn<'_>) -> String {
    assert!(leg.take(turn).unwrap(), "{turn:?} makes a description");
    leg.render().expect("a placed leg renders")
}

/// Takes a turn that makes none.
pub fn hear(leg: &mut Exchange, turn: Turn<'_>) {
    assert!(!leg.take(turn).unwrap(), "{turn:?} makes no description");
}

/// Takes a turn that must fail.
pub fn refuse(leg: &mut Exchange, turn: Turn<'_>) -> Error {
    leg.take(turn).expect_err("to be refused")
}

/// The two legs of a call through the first exchange: A offers, B answers; returns (offer to B, answer to A).
pub fn connect(a: &mut Exchange, b: &mut Exchange, offer: &str, answer: &str) -> (String, String) {
    hear(a, Turn::RemoteOffer(offer));
    let to_b = say(b, Turn::LocalOffer(Some(&a.remote().unwrap().terms)));
    hear(b, Turn::RemoteAnswer(answer));
    let to_a = say(a, Turn::LocalAnswer(Some(&b.remote().unwrap().terms)));
    (to_b, to_a)
}

/// All lines that begin so, without the beginning.
pub fn lines<'a>(sdp: &'a str, beginning: &str) -> Vec<&'a str> {
    sdp.lines().filter_map(|line| line.strip_prefix(beginning)).collect()
}

/// Payload type numbers as (from the peer, towards the partner).
pub fn map(leg: &Exchange, partner: Option<&Exchange>) -> Vec<(u8, u8)> {
    leg.payload_types(partner).as_slice().iter().map(|row| (row.number, row.forward_as)).collect()
}
