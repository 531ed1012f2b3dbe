//! Calls: begun, answered, snapshotted and ended by the switchboard that owns them. The end of a call writes its record
//! in the same transaction, exactly once however often and by whomever it is reported.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    TryInsertResult,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cdrs::Cdr;
use crate::entity::{calls, cdrs, storable};
use crate::error::Result;
use crate::outbox;
use crate::store::{SOMETIME, Store};
use crate::writer::{Patience, Transaction};

pub use crate::entity::calls::Model as CallRow;

/// A call that begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    store.one(SOMETIME, calls::Entity::find_by_id(id)).await
}

/// Notes a new call, with the event `call.started`; `Duplicate` if its id is taken.
pub async fn start(store: &Store, call: NewCall) -> Result<()> {
    store.change(Patience::None, Change::Started(call)).await.map(drop)
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
    let (id, state) = (id.to_owned(), state.to_owned());
    store.change(Patience::Some, Change::Answered { id, state, at_unix_ms: answered_unix_ms, snapshot }).await
}

/// Keeps what a restarted switchboard needs. False if there is no such living call.
pub async fn snapshot(store: &Store, id: &str, state: &str, snapshot: Option<String>) -> Result<bool> {
    let (id, state) = (id.to_owned(), state.to_owned());
    store.change(Patience::Some, Change::Snapshot { id, state, snapshot }).await
}

/// Ends a call and writes its record, with the event `call.ended`, in one transaction. True for the first to report it;
/// false, and nothing done, for all others. A call that was never started (refused at once) gets its record too.
pub async fn end(store: &Store, cdr: Cdr) -> Result<bool> {
    store.change(Patience::Some, Change::Ended(cdr)).await
}

/// These calls are another switchboard's from now on: it has taken them over. How many of them have a row without an end.
pub async fn hand_over(store: &Store, ids: Vec<String>, switchboard: &str) -> Result<u64> {
    store
        .write(Patience::Some, (ids, switchboard.to_owned()), |tx, (ids, switchboard)| {
            Box::pin(async move {
                let mut handed = 0;
                for ids in ids.chunks(HANDED_AT_ONCE) {
                    let updated = calls::Entity::update_many()
                        .col_expr(calls::Column::Switchboard, Expr::value(&**switchboard))
                        .filter(calls::Column::Id.is_in(ids.iter().map(String::as_str)))
                        .filter(calls::Column::EndedUnixMs.is_null())
                        .exec(tx.db())
                        .await?;
                    handed += updated.rows_affected;
                }
                Ok(handed)
            })
        })
        .await
}

/// Removes the rows of calls that ended before this time; how many there were. Their records stay.
pub async fn purge(store: &Store, ended_before_unix_ms: i64) -> Result<u64> {
    let mut purged = 0;
    loop {
        let some = store
            .write(Patience::Some, ended_before_unix_ms, |tx, before| {
                Box::pin(async move {
                    let over = calls::Entity::find()
                        .select_only()
                        .column(calls::Column::Id)
                        .filter(calls::Column::EndedUnixMs.lt(*before))
                        .limit(PURGED_AT_ONCE)
                        .into_query();
                    let deleted =
                        calls::Entity::delete_many().filter(calls::Column::Id.in_subquery(over)).exec(tx.db()).await?;
                    Ok(deleted.rows_affected)
                })
            })
            .await?;
        purged += some;
        if some < PURGED_AT_ONCE {
            return Ok(purged);
        }
    }
}

/// Ids in one statement; databases bound their parameters.
const HANDED_AT_ONCE: usize = 500;

/// Rows deleted in one transaction: others wait for it.
const PURGED_AT_ONCE: u64 = 1_000;

/// A change in the life of a call: into the database, or into the spool if that is away and from there later. Done
/// twice it has the effect of once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Change {
    Started(NewCall),
    Answered { id: String, state: String, at_unix_ms: i64, snapshot: Option<String> },
    Snapshot { id: String, state: String, snapshot: Option<String> },
    Ended(Cdr),
}

impl Change {
    pub fn call_id(&self) -> &str {
        match self {
            Change::Started(call) => &call.id,
            Change::Answered { id, .. } | Change::Snapshot { id, .. } => id,
            Change::Ended(cdr) => &cdr.call_id,
        }
    }

    /// False if nothing was done.
    pub async fn apply(&self, tx: &Transaction) -> Result<bool> {
        match self {
            Change::Started(call) => insert(tx, call).await,
            Change::Answered { id, state, at_unix_ms, snapshot } => {
                answer(tx, id, state, *at_unix_ms, snapshot.as_deref()).await
            }
            Change::Snapshot { id, state, snapshot } => keep(tx, id, state, snapshot.as_deref()).await,
            Change::Ended(cdr) => record(tx, cdr).await,
        }
    }

    /// The same for a change that may be there already, or come after the call's end: another switchboard has taken the
    /// call over and was faster.
    pub async fn replay(&self, tx: &Transaction) -> Result<bool> {
        if let Change::Started(call) = self
            && (calls::Entity::find_by_id(&call.id).one(tx.db()).await?.is_some()
                || cdrs::Entity::find_by_id(&call.id).one(tx.db()).await?.is_some())
        {
            return Ok(false);
        }
        self.apply(tx).await
    }
}

async fn insert(tx: &Transaction, call: &NewCall) -> Result<bool> {
    calls::Entity::insert(call.to_row().into_active_model().reset_all()).exec_without_returning(tx.db()).await?;
    let data = json!({
        "call_id": call.id,
        "customer_id": call.customer_id,
        "from": { "user": call.from_user, "display": call.from_display },
        "to": call.to_user,
    });
    outbox::emit(tx, "call.started", &call.id, call.started_unix_ms, data);
    Ok(true)
}

async fn answer(tx: &Transaction, id: &str, state: &str, at_unix_ms: i64, snapshot: Option<&str>) -> Result<bool> {
    let mut update = calls::Entity::update_many()
        .col_expr(calls::Column::State, Expr::value(state))
        .col_expr(calls::Column::AnsweredUnixMs, Expr::value(at_unix_ms));
    if let Some(snapshot) = snapshot {
        update = update.col_expr(calls::Column::Snapshot, Expr::value(snapshot));
    }
    let updated = update
        .filter(calls::Column::Id.eq(id))
        .filter(calls::Column::AnsweredUnixMs.is_null())
        .filter(calls::Column::EndedUnixMs.is_null())
        .exec(tx.db())
        .await?;
    if updated.rows_affected == 0 {
        return Ok(false);
    }
    outbox::emit(tx, "call.answered", id, at_unix_ms, json!({ "call_id": id }));
    Ok(true)
}

async fn keep(tx: &Transaction, id: &str, state: &str, snapshot: Option<&str>) -> Result<bool> {
    let updated = calls::Entity::update_many()
        .col_expr(calls::Column::State, Expr::value(state))
        .col_expr(calls::Column::Snapshot, Expr::value(snapshot))
        .filter(calls::Column::Id.eq(id))
        .filter(calls::Column::EndedUnixMs.is_null())
        .exec(tx.db())
        .await?;
    Ok(updated.rows_affected > 0)
}

async fn record(tx: &Transaction, cdr: &Cdr) -> Result<bool> {
    let inserted = cdrs::Entity::insert(cdr.to_row().into_active_model().reset_all())
        .on_conflict_do_nothing_on([cdrs::Column::CallId])
        .exec_without_returning(tx.db())
        .await?;
    if !matches!(inserted, TryInsertResult::Inserted(1..)) {
        return Ok(false);
    }
    calls::Entity::update_many()
        .col_expr(calls::Column::State, Expr::value("ended"))
        .col_expr(calls::Column::AnsweredUnixMs, Expr::value(cdr.answered_unix_ms))
        .col_expr(calls::Column::EndedUnixMs, Expr::value(cdr.ended_unix_ms))
        .col_expr(calls::Column::Snapshot, Expr::value(None::<String>))
        .filter(calls::Column::Id.eq(&*cdr.call_id))
        .exec(tx.db())
        .await?;
    outbox::emit(tx, "call.ended", &cdr.call_id, cdr.ended_unix_ms, cdr.to_json());
    Ok(true)
}

/// Calls that have not ended and whose switchboard is none of these: what died with its owner, oldest first. At its
/// start a switchboard takes them up or ends them.
pub async fn orphans(store: &Store, living_switchboards: &[&str]) -> Result<Vec<CallRow>> {
    let rows = calls::Entity::find()
        .filter(calls::Column::EndedUnixMs.is_null())
        .filter(calls::Column::Switchboard.is_not_in(living_switchboards.iter().copied()))
        .order_by_asc(calls::Column::StartedUnixMs);
    store.all(SOMETIME, rows).await
}

impl NewCall {
    fn to_row(&self) -> calls::Model {
        calls::Model {
            id: self.id.clone(),
            customer_id: self.customer_id.clone(),
            state: self.state.clone(),
            from_user: storable(&self.from_user),
            from_display: self.from_display.as_deref().map(storable),
            to_user: storable(&self.to_user),
            started_unix_ms: self.started_unix_ms,
            answered_unix_ms: None,
            ended_unix_ms: None,
            switchboard: self.switchboard.clone(),
            snapshot: self.snapshot.clone(),
        }
    }
}
