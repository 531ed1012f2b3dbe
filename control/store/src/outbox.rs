//! The outbox: events that were written with the change they tell of, and wait to be published. [`crate::publisher`]
//! empties it.

use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde_json::Value;

use crate::entity::outbox;
use crate::error::{Error, Result};
use crate::store::{SOMETIME, Store};
use crate::writer::{Patience, Transaction};

/// An event as it is published.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxEvent {
    /// Rises by time; unique.
    pub sequence: i64,
    /// `call.started`, `call.answered`, `call.ended`, `registration.changed`.
    pub kind: String,
    /// What it is about: a call id, an extension.
    pub subject: String,
    /// When it happened.
    pub at_unix_ms: i64,
    /// The particulars, a JSON object.
    pub data: Value,
}

/// The oldest events that are not published, after this sequence number, in order.
pub async fn unpublished(store: &Store, after: i64, limit: u64) -> Result<Vec<OutboxEvent>> {
    let waiting = outbox::Entity::find()
        .filter(outbox::Column::PublishedUnixMs.is_null())
        .filter(outbox::Column::Sequence.gt(after))
        .order_by_asc(outbox::Column::Sequence)
        .limit(limit);
    let rows = store.all(SOMETIME, waiting).await?;
    rows.into_iter().map(OutboxEvent::try_from).collect()
}

/// Notes that these were published.
pub async fn mark_published(store: &Store, sequences: Vec<i64>, now_unix_ms: i64) -> Result<()> {
    store
        .write(Patience::Much, (sequences, now_unix_ms), |tx, (sequences, now)| {
            Box::pin(async move {
                outbox::Entity::update_many()
                    .col_expr(outbox::Column::PublishedUnixMs, Expr::value(*now))
                    .filter(outbox::Column::Sequence.is_in(sequences.iter().copied()))
                    .exec(tx.db())
                    .await?;
                Ok(())
            })
        })
        .await
}

/// Removes what was published before this time; how many there were.
pub async fn purge(store: &Store, published_before_unix_ms: i64) -> Result<u64> {
    store
        .write(Patience::Some, published_before_unix_ms, |tx, before| {
            Box::pin(async move {
                let deleted = outbox::Entity::delete_many()
                    .filter(outbox::Column::PublishedUnixMs.lt(*before))
                    .exec(tx.db())
                    .await?;
                Ok(deleted.rows_affected)
            })
        })
        .await
}

/// Writes an event of something that is no change in the store.
pub async fn note(store: &Store, kind: &'static str, subject: &str, at_unix_ms: i64, data: Value) -> Result<()> {
    store
        .write(Patience::Some, (subject.to_owned(), at_unix_ms, kind, data), |tx, (subject, at, kind, data)| {
            Box::pin(async move {
                emit(tx, kind, subject, *at, data.clone());
                Ok(())
            })
        })
        .await
}

/// Writes an event with the change it tells of.
pub(crate) fn emit(tx: &Transaction, kind: &str, subject: &str, at_unix_ms: i64, data: Value) {
    tx.emit(outbox::ActiveModel {
        sequence: NotSet,
        kind: Set(kind.to_owned()),
        subject: Set(subject.to_owned()),
        at_unix_ms: Set(at_unix_ms),
        data: Set(data.to_string()),
        published_unix_ms: Set(None),
    });
}

impl TryFrom<outbox::Model> for OutboxEvent {
    type Error = Error;

    fn try_from(row: outbox::Model) -> Result<Self> {
        let data = serde_json::from_str(&row.data).map_err(|error| Error::Row {
            table: "outbox",
            key: row.sequence.to_string(),
            why: format!("data: {error}"),
        })?;
        let outbox::Model { sequence, kind, subject, at_unix_ms, .. } = row;
        Ok(Self { sequence, kind, subject, at_unix_ms, data })
    }
}
