//! Where phones are: the bindings of RFC 3261 section 10.3. Written by the proxy's registrar, read for every call to an
//! extension. Changes of one REGISTER are applied whole or not at all, and refused when a later one was there before.

use std::collections::BTreeMap;

use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cache::Key;
use crate::entity::locations;
use crate::error::{Error, Result};
use crate::outbox;
use crate::store::{SOON, Store};
use crate::writer::{Patience, Transaction};

/// A registered contact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The Contact URI, as registered.
    pub contact: String,
    /// Call-ID of the REGISTER.
    pub call_id: String,
    /// CSeq number of the REGISTER.
    pub cseq: u32,
    /// When it ends.
    pub expires_unix_ms: i64,
    /// `udp` or `tcp`.
    pub transport: String,
    /// Where the REGISTER came from, `ip:port`.
    pub address: String,
    /// Path values (RFC 3327), outermost first.
    pub path: Vec<String>,
    /// User-Agent as sent.
    pub user_agent: String,
    /// The contact's preference, 0 to 1000.
    pub q_thousandths: u16,
    /// The proxy instance that took the REGISTER.
    pub proxy: String,
}

/// What one REGISTER does. An empty one only fetches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Its Call-ID.
    pub call_id: String,
    /// Its CSeq number.
    pub cseq: u32,
    /// `Contact: *`: removes all bindings first.
    pub remove_all: bool,
    /// Contact URIs to remove (`expires=0`); those that are not there are passed over.
    pub remove: Vec<String>,
    /// Bindings to add or refresh, by their Contact URI.
    pub set: Vec<Binding>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// All was done; these bindings are live now, most preferred first.
    Done(Vec<Binding>),
    /// A binding it touches was set by the same Call-ID with this or a higher CSeq (section 10.3 step 7); nothing was
    /// done.
    Stale,
}

/// The live bindings of an extension, the most preferred first, then the most recently set.
pub async fn live(store: &Store, user: &str, now_unix_ms: i64) -> Result<Vec<Binding>> {
    let all = locations::Entity::find()
        .filter(locations::Column::User.eq(user))
        .order_by_desc(locations::Column::QThousandths)
        .order_by_desc(locations::Column::UpdatedUnixMs);
    // Those that have ended too: what is cached is read at another time.
    let read = async {
        let rows = store.all(SOON, all).await?;
        let bindings: Vec<Binding> = rows.into_iter().map(Binding::try_from).collect::<Result<_>>()?;
        Ok((!bindings.is_empty()).then_some(bindings))
    };
    let mut bindings = store.look_up(Key::Locations(user.to_owned()), read).await?.unwrap_or_default();
    bindings.retain(|binding| binding.expires_unix_ms > now_unix_ms);
    Ok(bindings)
}

/// Applies a REGISTER. The event `registration.changed` is written if contacts came or went; a refresh is none.
pub async fn apply(store: &Store, user: &str, changes: Changes, now_unix_ms: i64) -> Result<Applied> {
    let input = (user.to_owned(), changes, now_unix_ms);
    let key = Key::Locations(user.to_owned());
    store
        .write_cached(key, Patience::None, input, |tx, (user, changes, now)| {
            Box::pin(apply_in(tx, user, changes, *now))
        })
        .await
}

/// Removes what has ended, with an event for each extension it concerns; how many bindings there were.
pub async fn sweep(store: &Store, now_unix_ms: i64) -> Result<usize> {
    store
        .write(Patience::Some, now_unix_ms, |tx, now| {
            Box::pin(async move {
                let ended = locations::Column::ExpiresUnixMs.lte(*now);
                // In one statement: another process sweeps as well, and each binding ends with one event.
                let rows = locations::Entity::delete_many().filter(ended).exec_with_returning(tx.db()).await?;
                let count = rows.len();
                let mut by_user: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for row in rows {
                    by_user.entry(row.user).or_default().push(row.contact);
                }
                for (user, removed) in by_user {
                    changed(tx, &user, &[], &removed, *now);
                }
                Ok(count)
            })
        })
        .await
}

async fn apply_in(tx: &Transaction, user: &str, changes: &Changes, now: i64) -> Result<Applied> {
    tx.lock("locations", user).await?;
    let rows = locations::Entity::find().filter(locations::Column::User.eq(user)).all(tx.db()).await?;
    let mut bindings = BTreeMap::new();
    for row in rows {
        bindings.insert(row.contact.clone(), (row.updated_unix_ms, Binding::try_from(row)?));
    }
    let touched = |contact: &String| {
        changes.remove_all || changes.remove.contains(contact) || changes.set.iter().any(|set| set.contact == *contact)
    };
    let newer = |binding: &Binding| binding.call_id == changes.call_id && binding.cseq >= changes.cseq;
    let live = |binding: &Binding| binding.expires_unix_ms > now;
    if bindings.iter().any(|(contact, (_, binding))| touched(contact) && live(binding) && newer(binding)) {
        return Ok(Applied::Stale);
    }

    let gone: Vec<String> = bindings
        .keys()
        .filter(|contact| changes.remove_all || changes.remove.contains(*contact))
        .filter(|contact| !changes.set.iter().any(|set| set.contact == **contact))
        .cloned()
        .collect();
    let come: Vec<String> = changes
        .set
        .iter()
        .filter(|set| !bindings.get(&set.contact).is_some_and(|(_, known)| live(known)))
        .map(|set| set.contact.clone())
        .collect();
    if !gone.is_empty() {
        locations::Entity::delete_many()
            .filter(locations::Column::User.eq(user))
            .filter(locations::Column::Contact.is_in(&gone))
            .exec(tx.db())
            .await?;
    }
    for set in &changes.set {
        upsert(tx, user, set, now).await?;
    }
    if !gone.is_empty() || !come.is_empty() {
        changed(tx, user, &come, &gone, now);
    }

    bindings.retain(|contact, (_, binding)| live(binding) && !gone.contains(contact));
    bindings.extend(changes.set.iter().map(|set| (set.contact.clone(), (now, set.clone()))));
    let mut bindings: Vec<_> = bindings.into_values().collect();
    bindings.sort_by_key(|(updated, binding)| std::cmp::Reverse((binding.q_thousandths, *updated)));
    Ok(Applied::Done(bindings.into_iter().map(|(_, binding)| binding).collect()))
}

async fn upsert(tx: &Transaction, user: &str, binding: &Binding, now: i64) -> Result<()> {
    use locations::Column::*;
    let keys = OnConflict::columns([User, Contact])
        .update_columns([
            CallId,
            Cseq,
            ExpiresUnixMs,
            Transport,
            Address,
            Path,
            UserAgent,
            QThousandths,
            Proxy,
            UpdatedUnixMs,
        ])
        .to_owned();
    let row = binding.to_row(user, now).into_active_model().reset_all();
    locations::Entity::insert(row).on_conflict(keys).exec_without_returning(tx.db()).await?;
    Ok(())
}

fn changed(tx: &Transaction, user: &str, added: &[String], removed: &[String], now: i64) {
    outbox::emit(tx, "registration.changed", user, now, json!({ "user": user, "added": added, "removed": removed }));
}

impl Binding {
    fn to_row(&self, user: &str, now: i64) -> locations::Model {
        locations::Model {
            user: user.to_owned(),
            contact: self.contact.clone(),
            call_id: self.call_id.clone(),
            cseq: self.cseq.into(),
            expires_unix_ms: self.expires_unix_ms,
            transport: self.transport.clone(),
            address: self.address.clone(),
            path: json!(self.path).to_string(),
            user_agent: self.user_agent.clone(),
            q_thousandths: self.q_thousandths.into(),
            proxy: self.proxy.clone(),
            updated_unix_ms: now,
        }
    }
}

impl TryFrom<locations::Model> for Binding {
    type Error = Error;

    fn try_from(row: locations::Model) -> Result<Self> {
        let wrong = |key: &str, why: String| Error::Row { table: "locations", key: key.to_owned(), why };
        let path = serde_json::from_str(&row.path).map_err(|error| wrong(&row.user, format!("path: {error}")))?;
        let cseq = row.cseq.try_into().map_err(|_| wrong(&row.user, format!("cseq {}", row.cseq)))?;
        let q_thousandths =
            row.q_thousandths.try_into().map_err(|_| wrong(&row.user, format!("q {}", row.q_thousandths)))?;
        Ok(Self {
            contact: row.contact,
            call_id: row.call_id,
            cseq,
            expires_unix_ms: row.expires_unix_ms,
            transport: row.transport,
            address: row.address,
            path,
            user_agent: row.user_agent,
            q_thousandths,
            proxy: row.proxy,
        })
    }
}
