//! The fuzz targets about this crate, over their corpora and mutations of them.

#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/src/leg.rs"]
mod leg;

#[test]
fn leg_snapshots() {
    corpus::run("leg_snapshot", leg::leg_snapshot);
}
