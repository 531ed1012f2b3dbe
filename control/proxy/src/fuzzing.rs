//! A way in for the fuzz target about snapshots of legs, which are private.

/// Reads a leg's snapshot and takes it up, but for what needs an edge.
pub fn leg_snapshot(bytes: &[u8]) {
    crate::edge::snapshot::fuzz(bytes);
}
