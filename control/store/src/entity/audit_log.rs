//! `audit_log`. Who changed what.

use sea_orm::entity::prelude::*;

/// Who changed what.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit_log")]
pub struct Model {
    /// Rises by time.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// Who did it.
    pub who: String,
    /// What was done, `extension.password` and so on.
    pub what: String,
    /// To what.
    pub subject: String,
    /// When.
    pub at_unix_ms: i64,
    /// The particulars, a JSON object.
    pub detail: String,
}

/// None: rows are joined by nobody.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
