//! What becomes of a packet that is believed: to the other leg, back as echo, or nowhere; and what we report of it.

pub mod echo;
pub(crate) mod protect;
pub(crate) mod relay;
pub mod report;
