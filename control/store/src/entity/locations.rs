//! `locations`. A registered binding (RFC 3261 section 10.3): where a phone is.

use sea_orm::entity::prelude::*;

/// A registered binding (RFC 3261 section 10.3): where a phone is.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "locations")]
pub struct Model {
    /// The extension.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user: String,
    /// The Contact URI.
    #[sea_orm(primary_key, auto_increment = false)]
    pub contact: String,
    /// Call-ID of the REGISTER that set it.
    pub call_id: String,
    /// CSeq of the REGISTER that set it.
    pub cseq: i64,
    /// When it ends.
    pub expires_unix_ms: i64,
    /// `udp` or `tcp`.
    pub transport: String,
    /// Where the REGISTER came from, `ip:port`.
    pub address: String,
    /// Path values (RFC 3327), outermost first, as a JSON list.
    pub path: String,
    /// User-Agent as sent.
    pub user_agent: String,
    /// The contact's preference, 0 to 1000.
    pub q_thousandths: i32,
    /// The proxy instance that took the REGISTER.
    pub proxy: String,
    /// When it was set last.
    pub updated_unix_ms: i64,
}

/// None: rows are joined by nobody.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
