//! Calls: begun, answered, snapshotted and ended by the switchboard that owns them. The end of a call writes its record
//! in the same transaction, exactly once however often and by whomever it is reported.

use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, TryInsertResult};
use serde_json::json;

use crate::cdrs::Cdr;
use crate::entity::{calls, cdrs};
use crate::error::Result;
use crate::outbox;
use crate::store::Store;
use crate::writer::Patience;

pub use crate::entity::calls::Model as CallRow;

/// A call that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCall {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub customer_id: String,
    /// The call machine's state.
    pub state: String,
    /// The caller.
    pub from_user: String,
    /// The caller's display name.
    pub from_display: Option<String>,
    /// What was dialled.
    pub to_user: String,
    /// When it began.
    pub started_unix_ms: i64,
    /// The instance that owns it.
    pub switchboard: String,
    /// What a restarted switchboard needs to take it up, opaque here.
    pub snapshot: Option<String>,
}

/// One call, living or ended.
pub async fn get(store: &Store, id: &str) -> Result<Option<CallRow>> {
    Ok(calls::Entity::find_by_id(id).one(&store.readers()).await?)
}

/// Notes a new call, with the event `call.started`; `Duplicate` if its id is taken.
pub async fn start(store: &Store, call: NewCall) -> Result<()> {
    store
        .write(Patience::None, call, |tx, call| {
            Box::pin(async move {
                let row = call.to_row().into_active_model().reset_all();
                calls::Entity::insert(row).exec_without_returning(tx.db()).await?;
                let data = json!({
                    "call_id": call.id,
                    "customer_id": call.customer_id,
                    "from": { "user": call.from_user, "display": call.from_display },
                    "to": call.to_user,
                });
                outbox::emit(tx, "call.started", &call.id, call.started_unix_ms, data);
                Ok(())
            })
        })
        .await
}

/// Notes the answer, with the event `call.answered`. False, and nothing done, if there is no such call, it has ended or
/// was answered before. A snapshot, if given, replaces the last one.
pub async fn answered(
    store: &Store,
    id: &str,
    state: &str,
    answered_unix_ms: i64,
    snapshot: Option<String>,
) -> Result<bool> {
    let input = (id.to_owned(), state.to_owned(), answered_unix_ms, snapshot);
    store
        .write(Patience::Some, input, |tx, (id, state, at, snapshot)| {
            Box::pin(async move {
                let mut update = calls::Entity::update_many()
                    .col_expr(calls::Column::State, Expr::value(&**state))
                    .col_expr(calls::Column::AnsweredUnixMs, Expr::value(*at));
                if let Some(snapshot) = snapshot {
                    update = update.col_expr(calls::Column::Snapshot, Expr::value(&**snapshot));
                }
                let updated = update
                    .filter(calls::Column::Id.eq(&**id))
                    .filter(calls::Column::AnsweredUnixMs.is_null())
                    .filter(calls::Column::EndedUnixMs.is_null())
                    .exec(tx.db())
                    .await?;
                if updated.rows_affected == 0 {
                    return Ok(false);
                }
                outbox::emit(tx, "call.answered", id, *at, json!({ "call_id": id }));
                Ok(true)
            })
        })
        .await
}

/// Keeps what a restarted switchboard needs. False if there is no such living call.
pub async fn snapshot(store: &Store, id: &str, state: &str, snapshot: Option<String>) -> Result<bool> {
    let input = (id.to_owned(), state.to_owned(), snapshot);
    store
        .write(Patience::Some, input, |tx, (id, state, snapshot)| {
            Box::pin(async move {
                let updated = calls::Entity::update_many()
                    .col_expr(calls::Column::State, Expr::value(&**state))
                    .col_expr(calls::Column::Snapshot, Expr::value(snapshot.clone()))
                    .filter(calls::Column::Id.eq(&**id))
                    .filter(calls::Column::EndedUnixMs.is_null())
                    .exec(tx.db())
                    .await?;
                Ok(updated.rows_affected > 0)
            })
        })
        .await
}

/// Ends a call and writes its record, with the event `call.ended`, in one transaction. True for the first to report it;
/// false, and nothing done, for all others. A call that was never started (refused at once) gets its record too.
pub async fn end(store: &Store, cdr: Cdr) -> Result<bool> {
    store
        .write(Patience::Some, cdr, |tx, cdr| {
            Box::pin(async move {
                let row = cdr.to_row().into_active_model().reset_all();
                let inserted = cdrs::Entity::insert(row)
                    .on_conflict_do_nothing_on([cdrs::Column::CallId])
                    .exec_without_returning(tx.db())
                    .await?;
                if !matches!(inserted, TryInsertResult::Inserted(1..)) {
                    return Ok(false);
                }
                calls::Entity::update_many()
                    .col_expr(calls::Column::State, Expr::value("ended"))
                    .col_expr(calls::Column::EndedUnixMs, Expr::value(cdr.ended_unix_ms))
                    .col_expr(calls::Column::Snapshot, Expr::value(None::<String>))
                    .filter(calls::Column::Id.eq(&*cdr.call_id))
                    .exec(tx.db())
                    .await?;
                outbox::emit(tx, "call.ended", &cdr.call_id, cdr.ended_unix_ms, cdr.to_json());
                Ok(true)
            })
        })
        .await
}

/// Calls that have not ended and whose switchboard is none of these: what died with its owner, oldest first. At its
/// start a switchboard takes them up or ends them.
pub async fn orphans(store: &Store, living_switchboards: &[&str]) -> Result<Vec<CallRow>> {
    let rows = calls::Entity::find()
        .filter(calls::Column::EndedUnixMs.is_null())
        .filter(calls::Column::Switchboard.is_not_in(living_switchboards.iter().copied()))
        .order_by_asc(calls::Column::StartedUnixMs);
    Ok(rows.all(&store.readers()).await?)
}

impl NewCall {
    fn to_row(&self) -> calls::Model {
        calls::Model {
            id: self.id.clone(),
            customer_id: self.customer_id.clone(),
            state: self.state.clone(),
            from_user: self.from_user.clone(),
            from_display: self.from_display.clone(),
            to_user: self.to_user.clone(),
            started_unix_ms: self.started_unix_ms,
            answered_unix_ms: None,
            ended_unix_ms: None,
            switchboard: self.switchboard.clone(),
            snapshot: self.snapshot.clone(),
        }
    }
}
