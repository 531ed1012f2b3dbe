//! `cdrs`. A call's record. The primary key makes it exactly one.

use sea_orm::entity::prelude::*;

/// A call's record. The primary key makes it exactly one.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "cdrs")]
pub struct Model {
    /// The call.
    #[sea_orm(primary_key, auto_increment = false)]
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
    /// From its beginning to its end.
    pub duration_ms: i64,
    /// From its answer to its end; 0 if it was not answered.
    pub billed_ms: i64,
    /// `caller`, `callee` or `system`.
    pub ended_by: String,
    /// The SIP status that says best why.
    pub sip_code: i32,
    /// Why, from the fixed list.
    pub cause: String,
    /// Why, for people.
    pub cause_text: String,
    /// Both legs with their stream statistics, a JSON list.
    pub legs: String,
}

/// None: rows are joined by nobody.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
