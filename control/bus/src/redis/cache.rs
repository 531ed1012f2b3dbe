//! A cache in Redis: values by key that live for a time. It answers at once or says that it is away; whoever uses it
//! then asks the source itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};
use tokio::time::timeout;

use super::keys::Place;
use super::{Redis, Tasks};
use crate::Error;
use crate::error::code;

/// A cache slower than this is no help: the source itself answers in a few milliseconds.
const ANSWER_MAX: Duration = Duration::from_millis(100);

/// The handle of a cache; clones share it.
#[derive(Clone)]
pub struct Cache {
    tasks: Arc<Tasks>,
    /// What its keys begin with.
    begins: String,
}

impl Redis {
    /// The cache of this name; all processes share it.
    pub fn cache(&self, name: &str) -> Cache {
        let begins = format!("{}:cache:{name}:", self.shared.core.keys.tag(Place::Shared));
        Cache { tasks: self.shared.clone(), begins }
    }
}

impl Cache {
    /// The value, if it is there and its time has not passed.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        match self.ask(redis::cmd("GET").arg(self.key(key))).await? {
            Value::BulkString(value) => Ok(Some(value.into())),
            _ => Ok(None),
        }
    }

    /// Keeps a value for so long (at least a millisecond), in place of any other.
    pub async fn set(&self, key: &str, value: &[u8], time_to_live: Duration) -> Result<(), Error> {
        let live_ms = u64::try_from(time_to_live.as_millis()).unwrap_or(u64::MAX).max(1);
        self.ask(redis::cmd("SET").arg(self.key(key)).arg(value).arg("PX").arg(live_ms)).await.map(drop)
    }

    /// Keeps a value for so long (at least a millisecond), unless there is one; whether it did.
    pub async fn add(&self, key: &str, value: &[u8], time_to_live: Duration) -> Result<bool, Error> {
        let live_ms = u64::try_from(time_to_live.as_millis()).unwrap_or(u64::MAX).max(1);
        let answer = self.ask(redis::cmd("SET").arg(self.key(key)).arg(value).arg("PX").arg(live_ms).arg("NX")).await?;
        Ok(answer == Value::Okay)
    }

    /// Forgets a value.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        self.ask(redis::cmd("UNLINK").arg(self.key(key))).await.map(drop)
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.begins)
    }

    async fn ask(&self, command: &Cmd) -> Result<Value, Error> {
        let link = &self.tasks.core.lanes.of(Place::Shared).link;
        match timeout(ANSWER_MAX, link.ask(command)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::transient(code::UNAVAILABLE, "Redis: no answer in time")),
        }
    }
}
