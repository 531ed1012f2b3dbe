//! The fuzz targets about packets and rings, over their corpora and mutations of them.

#[path = "../../../fuzz/src/control.rs"]
mod control;
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/src/packets.rs"]
mod packets;

#[test]
fn rtp() {
    corpus::run("rtp", packets::rtp);
}

#[test]
fn rtcp() {
    corpus::run("rtcp", packets::rtcp);
}

#[test]
fn srtp() {
    corpus::run("srtp", packets::srtp);
}

#[test]
fn rings() {
    corpus::run("ring", packets::ring);
}

#[test]
fn a_control_that_writes_garbage() {
    corpus::run("control", control::control);
}
