//! `calls`. A call, living or ended, as its switchboard knows it.

use sea_orm::entity::prelude::*;

/// A call, living or ended, as its switchboard knows it.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "calls")]
pub struct Model {
    /// The call id.
    #[sea_orm(primary_key, auto_increment = false)]
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
    /// When it was answered.
    pub answered_unix_ms: Option<i64>,
    /// When it ended.
    pub ended_unix_ms: Option<i64>,
    /// The instance that owns it.
    pub switchboard: String,
    /// What a restarted switchboard needs to take it up, opaque here.
    pub snapshot: Option<String>,
}

/// None: rows are joined by nobody.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
