//! What one call of the engine has to do with the outside: whom it asks, whom it tells, and what it leaves behind for the
//! packet at hand. The inner parts hand it on.

use crate::driver::Forward;
use crate::srtp::{Owed, Safe};

pub(crate) struct Outlet<'a, D, E> {
    pub driver: &'a mut D,
    pub events: &'a mut E,
    /// Where the packet at hand goes.
    pub forward: Option<Forward>,
    /// The tag that it lacks to be sent, and whose key it takes.
    pub owed: Option<(Safe, Owed)>,
}

impl<'a, D, E> Outlet<'a, D, E> {
    #[inline]
    pub fn new(driver: &'a mut D, events: &'a mut E) -> Self {
        Self { driver, events, forward: None, owed: None }
    }
}
