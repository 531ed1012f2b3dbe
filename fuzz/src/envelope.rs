//! The envelopes of the bus.

/// Reads them as a request, as a response and as what Redis carries.
pub fn envelope(bytes: &[u8]) {
    nebula_bus::fuzzing::envelope(bytes);
}
