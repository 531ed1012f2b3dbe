//! `outbox`. An event that is to be published, in the order of `sequence`.

use sea_orm::entity::prelude::*;

/// An event that is to be published, in the order of `sequence`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outbox")]
pub struct Model {
    /// Rises by time.
    #[sea_orm(primary_key)]
    pub sequence: i64,
    /// `call.started` and so on.
    pub kind: String,
    /// What it is about; events of a subject are published in order.
    pub subject: String,
    /// When it happened.
    pub at_unix_ms: i64,
    /// The particulars, a JSON object.
    pub data: String,
    /// When it was published.
    pub published_unix_ms: Option<i64>,
}

/// None: rows are joined by nobody.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
