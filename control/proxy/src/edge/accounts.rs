//! Extensions as looked up: a bounded memory of short life, so that a busy phone costs no query per request, and one
//! query at a time for each extension, however many requests wait for it.
//!
//! Owned by the actor; queries run in tasks of their own, at most `lookups_max`. What changed in the store is seen after
//! `account_ttl_ms` at the latest. A full memory forgets what is stale, then all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nebula_sip::transaction::TransactionId;
use nebula_store::extensions::{self, Extension};
use tokio::time::timeout;

use super::Input;
use super::core::Core;
use crate::options::Options;
use crate::route::USER_BYTES_MAX;

/// What a look-up gave.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// It is known: an extension, or that there is none.
    Known(Option<Arc<Extension>>),
    /// Ask again when [`Input::Account`] comes.
    Pending,
    /// Too many queries are under way: 503.
    Overload,
}

/// The memory and what waits for it.
pub struct Accounts {
    known: HashMap<String, (Instant, Option<Arc<Extension>>)>,
    waiting: HashMap<String, Vec<TransactionId>>,
    /// How many requests wait.
    waiting_len: usize,
    ttl: Duration,
    known_max: usize,
    waiting_max: usize,
}

impl Accounts {
    /// Empty.
    pub fn new(options: &Options) -> Self {
        Self {
            known: HashMap::new(),
            waiting: HashMap::new(),
            waiting_len: 0,
            ttl: Duration::from_millis(options.account_ttl_ms.into()),
            known_max: options.accounts_max as usize,
            waiting_max: options.lookups_max as usize,
        }
    }

    /// Looks an extension up for a request.
    pub fn find(&mut self, user: &str, for_whom: TransactionId, core: &Core, now: Instant) -> Lookup {
        if user.len() > USER_BYTES_MAX {
            return Lookup::Known(None);
        }
        if let Some((until, account)) = self.known.get(user)
            && now < *until
        {
            core.metrics.accounts_hit.increment(1);
            return Lookup::Known(account.clone());
        }
        if self.waiting_len >= self.waiting_max {
            core.metrics.lookups_refused.increment(1);
            return Lookup::Overload;
        }
        self.waiting_len += 1;
        if let Some(waiting) = self.waiting.get_mut(user) {
            waiting.push(for_whom);
            return Lookup::Pending;
        }
        core.metrics.accounts_missed.increment(1);
        self.waiting.insert(user.to_owned(), vec![for_whom]);
        let (store, inputs, user) = (core.store.clone(), core.inputs.clone(), user.to_owned());
        // A caller who waits longer is better off with a 503.
        let patience = Duration::from_millis(core.options.invite_timeout_ms.into());
        tokio::spawn(async move {
            let found = match timeout(patience, extensions::find(&store, &user)).await {
                Ok(found) => found.map(|found| found.map(Arc::new)).map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer from the store in {} ms", patience.as_millis())),
            };
            // The actor may be gone, at shutdown; then nobody needs to know.
            let _ = inputs.send(Input::Account { user, found });
        });
        Lookup::Pending
    }

    /// A query came back: remembers it and says who waited.
    pub fn found(&mut self, user: &str, account: Option<Arc<Extension>>, now: Instant) -> Vec<TransactionId> {
        if self.known.len() >= self.known_max {
            self.known.retain(|_, (until, _)| now < *until);
            if self.known.len() >= self.known_max {
                self.known.clear();
            }
        }
        self.known.insert(user.to_owned(), (now + self.ttl, account));
        self.take_waiting(user)
    }

    /// A query failed: says who waited.
    pub fn take_waiting(&mut self, user: &str) -> Vec<TransactionId> {
        let waiting = self.waiting.remove(user).unwrap_or_default();
        self.waiting_len -= waiting.len();
        waiting
    }
}
