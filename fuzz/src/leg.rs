//! A leg in the proxy's snapshots.

/// Takes up whatever it says.
pub fn leg_snapshot(bytes: &[u8]) {
    nebula_proxy::fuzzing::leg_snapshot(bytes);
}
