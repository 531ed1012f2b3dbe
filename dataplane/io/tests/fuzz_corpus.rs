//! The fuzz target about frames, over its corpus and mutations of it.

#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/src/frames.rs"]
mod frames;

#[test]
fn frames() {
    corpus::run("frame", frames::frame);
}
