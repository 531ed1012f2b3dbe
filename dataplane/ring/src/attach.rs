//! Attaching: control connects to the dataplane's Unix socket (SOCK_SEQPACKET), says its ABI version, and is handed the
//! segment and the eventfds. The newest attach owns the rings: it bumps the epoch, and the connection before it is closed.
//!
//! The connection carries nothing else. It stays open for what its end means: the dataplane died, or another control
//! took over.
//!
//! An observer says so in its hello. It gets the segment alone, open for reading only, takes nothing over, and its
//! connection is closed at once.

mod control;
mod observer;
mod server;

pub use control::{Attached, Connection, Dataplane, Lost, SendError, WorkerHandle};
pub use observer::observe;
pub use server::{BindError, Change, Server};

use crate::segment;

/// First word of both messages.
const MAGIC: u64 = u64::from_le_bytes(*b"NEBULA\0A");

/// Why control could not attach.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there, or the way there is barred.
    #[error("cannot reach the dataplane at {path}: {errno}")]
    Unreachable {
        /// The socket's path.
        path: std::path::PathBuf,
        /// The system's reason.
        errno: rustix::io::Errno,
    },
    /// The dataplane speaks another version of the ABI.
    #[error("the dataplane has ABI version {theirs}, this program {ours}")]
    Version {
        /// Our version.
        ours: u32,
        /// Its version.
        theirs: u32,
    },
    /// It answered with something else, or closed before it answered.
    #[error("what listens there is no dataplane")]
    NotADataplane,
    /// The system refused.
    #[error("attach: {0}")]
    System(#[from] rustix::io::Errno),
    /// The segment it handed over is not sound.
    #[error(transparent)]
    Segment(#[from] segment::Error),
}

/// What control says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hello {
    abi_version: u32,
    pid: u32,
    role: Role,
}

/// What a client wants to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Control,
    Observer,
}

/// What the dataplane answers. To control: the versions agree if `epoch` is not zero, and the file descriptors come with
/// it. To an observer, whose epoch is that of whoever controls: they agree if `abi_version` is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Welcome {
    abi_version: u32,
    workers: u32,
    epoch: u64,
}

impl Hello {
    const BYTES: usize = 24;

    fn encode(self) -> [u8; Self::BYTES] {
        message([MAGIC, u64::from(self.abi_version) | u64::from(self.pid) << 32, self.role as u64])
    }

    /// Longer messages are accepted, and those of two words that ABI version 2 sent: other versions may say more or less,
    /// and must be told of the mismatch.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let [MAGIC, word] = words(bytes)? else { return None };
        let is_observer = words(bytes).is_some_and(|[_, _, role]: [u64; 3]| role == Role::Observer as u64);
        let role = if is_observer { Role::Observer } else { Role::Control };
        Some(Self { abi_version: word as u32, pid: (word >> 32) as u32, role })
    }
}

impl Welcome {
    const BYTES: usize = 24;

    fn encode(self) -> [u8; Self::BYTES] {
        message([MAGIC, u64::from(self.abi_version) | u64::from(self.workers) << 32, self.epoch])
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let [MAGIC, word, epoch] = words(bytes)? else { return None };
        Some(Self { abi_version: word as u32, workers: (word >> 32) as u32, epoch })
    }
}

fn message<const WORDS: usize, const BYTES: usize>(words: [u64; WORDS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes.as_chunks_mut::<8>().0.iter_mut().zip(words).for_each(|(chunk, word)| *chunk = word.to_le_bytes());
    bytes
}

fn words<const WORDS: usize>(bytes: &[u8]) -> Option<[u64; WORDS]> {
    let (chunks, _) = bytes.as_chunks::<8>();
    let chunks = chunks.first_chunk::<WORDS>()?;
    Some(chunks.map(u64::from_le_bytes))
}

/// Eventfds and segment in one message: the segment, then the command eventfds, then the event eventfds.
const FILES_MAX: usize = 1 + 2 * segment::WORKERS_MAX;
const _: () = assert!(FILES_MAX <= 253, "SCM_MAX_FD");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_round_trip(abi_version: u32, pid: u32, observes: bool, workers: u32, epoch: u64) {
            let role = if observes { Role::Observer } else { Role::Control };
            let hello = Hello { abi_version, pid, role };
            prop_assert_eq!(Hello::decode(&hello.encode()), Some(hello));
            let welcome = Welcome { abi_version, workers, epoch };
            prop_assert_eq!(Welcome::decode(&welcome.encode()), Some(welcome));
        }

        #[test]
        fn short_or_foreign_messages_are_none(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0usize..16) {
            prop_assume!(!bytes.starts_with(&MAGIC.to_le_bytes()));
            prop_assert_eq!((Hello::decode(&bytes), Welcome::decode(&bytes)), (None, None));
            let hello = Hello { abi_version: 1, pid: 1, role: Role::Control };
            prop_assert_eq!(Hello::decode(&hello.encode()[..cut]), None);
            prop_assert_eq!(Hello::decode(&hello.encode()[..16]), Some(hello), "as version 2 said it");
        }
    }
}
