//! `extensions`. A phone's account: what it registers and calls as.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// Whether an extension's media is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum, Serialize, Deserialize)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::None)")]
#[serde(rename_all = "snake_case")]
pub enum Srtp {
    /// Neither offered nor accepted.
    #[sea_orm(string_value = "off")]
    Off,
    /// Offered, as something that may be declined, and accepted.
    #[sea_orm(string_value = "optional")]
    Optional,
    /// Nothing else is offered or accepted.
    #[sea_orm(string_value = "required")]
    Required,
}

/// A phone's account: what it registers and calls as.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "extensions")]
pub struct Model {
    /// The user part of its address; unique over all customers.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user: String,
    /// Whose it is.
    pub customer_id: String,
    /// Shown to those it calls.
    pub display_name: String,
    /// MD5 of `user:realm:password`, hexadecimal (RFC 7616 section 3.4.2).
    pub ha1_md5: String,
    /// SHA-256 of the same.
    pub ha1_sha256: String,
    /// Whether it may register and call.
    pub enabled: bool,
    /// Whether its media is protected; none for as the configuration says.
    pub srtp: Option<Srtp>,
    /// When it was made.
    pub created_unix_ms: i64,
}

/// None: rows are joined by nobody.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
