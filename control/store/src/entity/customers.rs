//! `customers`. Who owns extensions and is billed for calls.

use sea_orm::entity::prelude::*;

/// Who owns extensions and is billed for calls.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "customers")]
pub struct Model {
    /// Its id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// When it was made.
    pub created_unix_ms: i64,
}

/// None: rows are joined by nobody.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
