//! An observer's side: `nebula top` and its like. It looks at the segment and disturbs nobody, neither the workers, which
//! do not learn of it, nor whoever controls them.

use super::control::greet;
use super::{Error, Hello, Role};
use crate::ABI_VERSION;
use crate::segment::Observed;
use std::path::Path;

/// Opens the segment of the dataplane that listens at `path`, for reading. Blocks for the handshake. What is returned stays
/// readable after the dataplane's death: its heartbeats then stand still.
pub fn observe(path: &Path) -> Result<Observed, Error> {
    let hello = Hello { abi_version: ABI_VERSION, pid: std::process::id(), role: Role::Observer };
    let (_socket, welcome, files) = greet(path, hello)?;
    if welcome.abi_version != ABI_VERSION {
        return Err(Error::Version { ours: ABI_VERSION, theirs: welcome.abi_version });
    }
    let [segment] = <[_; 1]>::try_from(files).map_err(|_| Error::NotADataplane)?;
    let observed = Observed::open(segment)?;
    if observed.sizes().workers == welcome.workers as usize { Ok(observed) } else { Err(Error::NotADataplane) }
}
