//! The SRTP keys of a stream, asked of the media agent that has it. They are in no table and no log, so there is one way to
//! them: a socket of the agent's process in its state folder. Who may connect is decided there and by the folder's mode: root,
//! and the agent's own user, who can read the keys in the agent's snapshots as well. Both ends are here, so that they agree:
//! `nebula capture` asks, on its main thread; the `nebula` binary answers.
//!
//! A line each way: the stream's id, and an [`Answer`] in JSON.

use nebula_ring::srtp::{MasterKey, Mki, SrtpConfig, Suite};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The socket's name in the state folder.
pub const SOCKET: &str = "keys.sock";
/// The longest line either way: two keys of 46 bytes in hex, and what names them, are some 500.
pub const LINE_BYTES_MAX: u64 = 4096;
/// Who may ask, for errors of either end.
pub const WHO_MAY: &str = "captures are decrypted for root and for the user that the media agent runs as, nobody else";

/// How long an agent may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is answered. It shows no key to whoever prints it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The keys of a stream, of which a plain one has none.
    Keys {
        /// What its peer protects with.
        receive: Option<Key>,
        /// What we protect with.
        send: Option<Key>,
    },
    /// Why there are none.
    Refused(String),
}

/// A master key.
#[derive(Serialize, Deserialize)]
pub struct Key {
    serial: u32,
    suite: String,
    /// In hex, as the next.
    mki: String,
    key_and_salt: String,
}

impl Answer {
    /// Of a stream's configuration.
    pub fn of(config: Option<&SrtpConfig>) -> Self {
        let key = |key: Option<&MasterKey>| key.map(Key::of);
        Self::Keys {
            receive: key(config.and_then(|config| config.receive.as_ref())),
            send: key(config.and_then(|config| config.send.as_ref())),
        }
    }

    fn config(self) -> Result<SrtpConfig, Error> {
        let master = |key: Option<Key>| key.map(|key| key.master().ok_or(Error::Malformed)).transpose();
        match self {
            Self::Keys { receive, send } => Ok(SrtpConfig { receive: master(receive)?, send: master(send)? }),
            Self::Refused(why) => Err(Error::Refused(why)),
        }
    }
}

impl Key {
    fn of(master: &MasterKey) -> Self {
        Self {
            serial: master.serial,
            suite: master.suite.name().to_owned(),
            mki: hex::encode(master.mki.as_bytes()),
            key_and_salt: hex::encode([master.key(), master.salt()].concat()),
        }
    }

    fn master(&self) -> Option<MasterKey> {
        let mki = Mki::new(&hex::decode(&self.mki).ok()?)?;
        MasterKey::new(self.serial, Suite::from_name(&self.suite)?, &hex::decode(&self.key_and_salt).ok()?, mki)
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system says no.
    #[error("{}: {WHO_MAY}", socket.display())]
    NotAllowed {
        /// The agent's socket.
        socket: PathBuf,
    },
    /// Nobody is there.
    #[error("no media agent at {}: {source}; --state says which folder is its own", socket.display())]
    Unreachable {
        /// The agent's socket.
        socket: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The agent says no.
    #[error("{0}")]
    Refused(String),
    /// It went away.
    #[error("the media agent does not answer: {0}")]
    Silent(#[from] std::io::Error),
    /// Another version, perhaps.
    #[error("the media agent's answer makes no sense; use the nebula that is installed beside it")]
    Malformed,
}

/// A connection to the media agent.
#[derive(Debug)]
pub struct Agent(BufReader<UnixStream>);

impl Agent {
    /// Connects.
    pub fn open(socket: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
            ErrorKind::PermissionDenied => Error::NotAllowed { socket: socket.into() },
            _ => Error::Unreachable { socket: socket.into(), source },
        })?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The keys of a stream as they are now.
    pub fn keys(&mut self, stream: u64) -> Result<SrtpConfig, Error> {
        // Who was refused finds the answer there, though the other end listens no more.
        let asked = self.0.get_mut().write_all(format!("{stream:016x}\n").as_bytes());
        let mut line = String::new();
        let read = Read::by_ref(&mut self.0).take(LINE_BYTES_MAX).read_line(&mut line);
        if line.is_empty() {
            asked?;
        }
        read?;
        serde_json::from_str::<Answer>(&line).map_err(|_| Error::Malformed)?.config()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_as_they_are_sent_and_nonsense_is_none() {
        let master = |serial, suite: Suite, mki: &[u8]| {
            let bytes: Vec<u8> = (0..suite.key_bytes() + suite.salt_bytes()).map(|n| n as u8).collect();
            MasterKey::new(serial, suite, &bytes, Mki::new(mki).unwrap())
        };
        for suite in Suite::ALL {
            let config = SrtpConfig { receive: master(7, suite, &[1, 2]), send: master(1, suite, &[]) };
            let line = serde_json::to_string(&Answer::of(Some(&config))).unwrap();
            assert!(line.len() < LINE_BYTES_MAX as usize);
            assert_eq!(serde_json::from_str::<Answer>(&line).unwrap().config().unwrap(), config);
        }
        assert_eq!(Answer::of(None).config().unwrap(), SrtpConfig::default());
        let mut key = Key::of(&master(1, Suite::AeadAes128Gcm, &[]).unwrap());
        key.key_and_salt.truncate(4);
        let answer = Answer::Keys { receive: Some(key), send: None };
        assert!(matches!(answer.config(), Err(Error::Malformed)));
        assert!(matches!(Answer::Refused("no".into()).config(), Err(Error::Refused(why)) if why == "no"));
    }
}
