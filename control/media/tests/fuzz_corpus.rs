//! The fuzz targets about this crate, over their corpora and mutations of them.

#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/src/sdp.rs"]
mod sdp;

#[test]
fn sdps() {
    corpus::run("sdp", sdp::sdp);
}

#[test]
fn crypto_lines() {
    corpus::run("crypto", sdp::crypto);
}

#[test]
fn stream_snapshots() {
    corpus::run("stream_snapshot", sdp::stream_snapshot);
}
