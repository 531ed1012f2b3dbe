//! The eventfds by which either side wakes the other.

use rustix::fd::{AsFd, OwnedFd};

/// A new eventfd for either direction.
pub fn wakeup() -> rustix::io::Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

/// Raises an eventfd. It fails only if it is raised 2^64 times already: then it is up anyway.
pub(crate) fn wake(wakeup: &OwnedFd) {
    let _ = rustix::io::write(wakeup, &1u64.to_ne_bytes());
}

/// Lowers an eventfd.
pub fn lower(wakeup: impl AsFd) {
    let _ = rustix::io::read(wakeup, &mut [0; 8]);
}
