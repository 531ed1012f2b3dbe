//! The fuzz targets about SIP, over their corpora and mutations of them.

#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/src/sip.rs"]
mod sip;

#[test]
fn messages() {
    corpus::run("sip_message", sip::message);
}

#[test]
fn streams() {
    corpus::run("sip_stream", sip::stream);
}

#[test]
fn snapshots() {
    corpus::run("sip_snapshot", sip::snapshot);
}
