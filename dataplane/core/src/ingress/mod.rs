//! What happens to a packet before it is media: what it is, and whether it comes from whom it should.

pub mod classify;
pub mod latch;
pub(crate) mod unprotect;
