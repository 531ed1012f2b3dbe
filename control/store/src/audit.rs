//! The audit log: who changed what. Written in the transaction of the change; read by operators.

use sea_orm::{ActiveValue::NotSet, ActiveValue::Set, EntityTrait, QueryOrder, QuerySelect};
use serde_json::Value;

use crate::entity::audit_log;
use crate::error::Result;
use crate::store::{SOMETIME, Store, now_unix_ms};
use crate::writer::Transaction;

pub use crate::entity::audit_log::Model as AuditEntry;

/// The newest entries first.
pub async fn list(store: &Store, limit: u64) -> Result<Vec<AuditEntry>> {
    let entries = audit_log::Entity::find().order_by_desc(audit_log::Column::Id).limit(limit);
    store.all(SOMETIME, entries).await
}

/// Notes a change in its own transaction.
pub(crate) async fn note(tx: &Transaction, who: &str, what: &str, subject: &str, detail: Value) -> Result<()> {
    let entry = audit_log::ActiveModel {
        id: NotSet,
        who: Set(who.to_owned()),
        what: Set(what.to_owned()),
        subject: Set(subject.to_owned()),
        at_unix_ms: Set(now_unix_ms()),
        detail: Set(detail.to_string()),
    };
    audit_log::Entity::insert(entry).exec_without_returning(tx.db()).await?;
    Ok(())
}
