//! SDP, and a stream in the media agent's snapshots.

use nebula_media::agent::Agent;
use nebula_media::offer_answer::crypto::{Crypto, Policy, Seed};
use nebula_media::offer_answer::{Endpoint, Exchange, Turn};
use nebula_media::options::Options;
use nebula_ring::srtp::Suite;

/// Takes it as an offer and as an answer, and mirrors it to another leg; what we write can be read by ourselves.
pub fn sdp(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let endpoint = Endpoint { ip: [192, 0, 2, 1].into(), rtp_port: 10_000, session_id: 7, loopback: false };
    let mut caller = Exchange::default();
    if caller.take(Turn::RemoteOffer(text)).is_ok() {
        caller.place(endpoint);
        if caller.take(Turn::LocalAnswer(None)).is_ok() {
            read_back(&mut caller);
        }
        let mut callee = Exchange::default();
        let terms = caller.remote().map(|description| &description.terms);
        callee.take(Turn::LocalOffer(terms)).expect("an offer can always be made");
        callee.place(endpoint);
        let offer = callee.render().expect("it was placed");
        callee.take(Turn::RemoteAnswer(&offer)).expect("an offer of ours is an answer to itself");
        let _ = (callee.payload_types(Some(&caller)), callee.remote_addresses(), callee.codec(), callee.is_held());
        let again: Exchange = serde_json::from_str(&serde_json::to_string(&caller).expect("JSON")).expect("as written");
        assert_eq!(again.remote_addresses(), caller.remote_addresses());
    }
    let mut protected = Exchange::new(Policy::Accepted, &Suite::ALL, Seed::new([7; 32]));
    if protected.take(Turn::RemoteOffer(text)).is_ok() {
        protected.place(endpoint);
        if protected.take(Turn::LocalAnswer(None)).is_ok() {
            let keys = protected.srtp().map(|srtp| (srtp.receive.is_some(), srtp.send.is_some()));
            assert!(keys.is_none_or(|both| both == (true, true)), "an answer has both keys or none");
            let again: Exchange =
                serde_json::from_str(&serde_json::to_string(&protected).expect("JSON")).expect("as written");
            assert_eq!(again.srtp(), protected.srtp());
        }
    }
    let mut ours = Exchange::default();
    ours.take(Turn::LocalOffer(None)).expect("an offer can always be made");
    ours.place(endpoint);
    read_back(&mut ours);
    let _ = (ours.take(Turn::RemoteAnswer(text)), ours.payload_types(None), ours.direction(), ours.is_muxed());
    let _ = ours.take(Turn::Rollback);
}

fn read_back(exchange: &mut Exchange) {
    let Some(text) = exchange.render() else { return };
    Exchange::default().take(Turn::RemoteOffer(&text)).unwrap_or_else(|error| panic!("{error}: {text}"));
}

/// Reads it as the value of `a=crypto`; what can be used is written and read the same.
pub fn crypto(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(crypto) = Crypto::read(text) else { return };
    let again = Crypto::read(&crypto.write()).expect("what we write we read");
    assert!(again.shares_secret(&crypto) && (again.tag, again.suite()) == (crypto.tag, crypto.suite()));
    let master = crypto.master(1).expect("what can be used makes a key");
    assert_eq!(master.key().len() + master.salt().len(), crypto.suite().key_bytes() + crypto.suite().salt_bytes());
}

/// Takes up whatever the snapshot says.
pub fn stream_snapshot(bytes: &[u8]) {
    let mut agent = Agent::new(Options::default());
    let _ = agent.restore([("stream/st_00000000000000aa", bytes)], 1_000_000);
    let _ = agent.take_changes(1_000_001);
    if let Ok(mut exchange) = serde_json::from_slice::<Exchange>(bytes) {
        let _ = (exchange.payload_types(None), exchange.remote_addresses(), exchange.codec(), exchange.direction());
        let _ = (exchange.render(), exchange.remote().is_some(), exchange.is_held(), exchange.is_muxed());
        exchange.take(Turn::LocalOffer(None)).expect("an offer can always be made");
        let _ = exchange.render();
    }
}
