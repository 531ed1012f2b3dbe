//! The fuzz targets about this crate, over their corpora and mutations of them.

#[path = "../../../fuzz/src/call.rs"]
mod call;
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;

#[test]
fn call_snapshots() {
    corpus::run("call_snapshot", call::call_snapshot);
}
