//! The fuzz targets about this crate, over their corpora and mutations of them.

#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/src/envelope.rs"]
mod envelope;

#[test]
fn envelopes() {
    corpus::run("envelope", envelope::envelope);
}
