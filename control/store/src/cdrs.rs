//! Call detail records: what is billed. Written by [`crate::calls::end`] alone, never changed.

use sea_orm::{EntityTrait, QueryOrder, QuerySelect};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::entity::{cdrs, storable};
use crate::error::{Error, Result};
use crate::store::{SOMETIME, Store};

/// The record of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cdr {
    /// The call.
    pub call_id: String,
    /// Whose it is.
    pub customer_id: String,
    /// The caller.
    pub from_user: String,
    /// The caller's display name.
    pub from_display: Option<String>,
    /// What was dialled.
    pub to_user: String,
    /// When it began.
    pub started_unix_ms: i64,
    /// When it was answered.
    pub answered_unix_ms: Option<i64>,
    /// When it ended.
    pub ended_unix_ms: i64,
    /// `caller`, `callee` or `system`.
    pub ended_by: String,
    /// The SIP status that says best why.
    pub sip_code: u16,
    /// Why, from the contract's fixed list (`normal`, `no_answer`, ...).
    pub cause: String,
    /// Why, for people.
    pub cause_text: String,
    /// Its legs, the caller's first.
    pub legs: Vec<Leg>,
}

/// A leg of a recorded call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    /// The channel.
    pub channel_id: String,
    /// Its SIP Call-ID, if it came to one.
    pub sip_call_id: Option<String>,
    /// Where the phone was: the caller's address or the URI that was called.
    #[serde(default)]
    pub place: String,
    /// It took part in the talk.
    #[serde(default)]
    pub answered: bool,
    /// The SIP status it ended with, if it came to one.
    #[serde(default)]
    pub sip_code: Option<u16>,
    /// Its stream's final statistics, as the media agent gave them; null if there was no stream.
    pub stats: Value,
}

impl Cdr {
    /// From its beginning to its end.
    pub fn duration_ms(&self) -> i64 {
        (self.ended_unix_ms - self.started_unix_ms).max(0)
    }

    /// From its answer to its end; 0 if it was not answered.
    pub fn billed_ms(&self) -> i64 {
        self.answered_unix_ms.map_or(0, |answered| (self.ended_unix_ms - answered).max(0))
    }

    /// As events and the API show it: all fields, and the two durations.
    pub fn to_json(&self) -> Value {
        let mut json = serde_json::json!(self);
        json["duration_ms"] = self.duration_ms().into();
        json["billed_ms"] = self.billed_ms().into();
        json
    }

    pub(crate) fn to_row(&self) -> cdrs::Model {
        cdrs::Model {
            call_id: self.call_id.clone(),
            customer_id: self.customer_id.clone(),
            from_user: storable(&self.from_user),
            from_display: self.from_display.as_deref().map(storable),
            to_user: storable(&self.to_user),
            started_unix_ms: self.started_unix_ms,
            answered_unix_ms: self.answered_unix_ms,
            ended_unix_ms: self.ended_unix_ms,
            duration_ms: self.duration_ms(),
            billed_ms: self.billed_ms(),
            ended_by: self.ended_by.clone(),
            sip_code: self.sip_code.into(),
            cause: self.cause.clone(),
            cause_text: storable(&self.cause_text),
            legs: serde_json::json!(self.legs).to_string(),
        }
    }
}

impl TryFrom<cdrs::Model> for Cdr {
    type Error = Error;

    fn try_from(row: cdrs::Model) -> Result<Self> {
        let wrong = |why: String| Error::Row { table: "cdrs", key: row.call_id.clone(), why };
        let legs = serde_json::from_str(&row.legs).map_err(|error| wrong(format!("legs: {error}")))?;
        let sip_code = row.sip_code.try_into().map_err(|_| wrong(format!("sip_code {}", row.sip_code)))?;
        Ok(Self {
            call_id: row.call_id,
            customer_id: row.customer_id,
            from_user: row.from_user,
            from_display: row.from_display,
            to_user: row.to_user,
            started_unix_ms: row.started_unix_ms,
            answered_unix_ms: row.answered_unix_ms,
            ended_unix_ms: row.ended_unix_ms,
            ended_by: row.ended_by,
            sip_code,
            cause: row.cause,
            cause_text: row.cause_text,
            legs,
        })
    }
}

/// One record.
pub async fn get(store: &Store, call_id: &str) -> Result<Option<Cdr>> {
    store.one(SOMETIME, cdrs::Entity::find_by_id(call_id)).await?.map(Cdr::try_from).transpose()
}

/// The newest records first.
pub async fn list(store: &Store, limit: u64) -> Result<Vec<Cdr>> {
    let newest = cdrs::Entity::find().order_by_desc(cdrs::Column::EndedUnixMs).limit(limit);
    let rows = store.all(SOMETIME, newest).await?;
    rows.into_iter().map(Cdr::try_from).collect()
}
