//! Customers and their extensions: the accounts that phones register and call as. Read by the proxy on every request it
//! authenticates, written by operators. Passwords are never kept, only the two HA1 of RFC 7616 section 3.4.2.

use md5::Md5;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveEnum, ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter, QueryOrder,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::audit;
use crate::cache::Key;
use crate::entity::{customers, extensions};
use crate::error::Result;
use crate::store::{SOMETIME, SOON, Store, now_unix_ms};
use crate::writer::{Patience, Transaction};

pub use crate::entity::customers::Model as Customer;
pub use crate::entity::extensions::Model as Extension;
pub use crate::entity::extensions::Srtp;

/// What digest authentication compares with, hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ha1 {
    /// For `algorithm=MD5`.
    pub md5: String,
    /// For `algorithm=SHA-256`.
    pub sha256: String,
}

impl Ha1 {
    /// Of a password in a realm.
    pub fn new(user: &str, realm: &str, password: &str) -> Self {
        let secret = format!("{user}:{realm}:{password}");
        Self { md5: hex::encode(Md5::digest(&secret)), sha256: hex::encode(Sha256::digest(&secret)) }
    }
}

/// An extension to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewExtension {
    /// The user part of its address.
    pub user: String,
    /// Shown to those it calls.
    pub display_name: String,
    /// Its secret.
    pub ha1: Ha1,
    /// Whether its media is protected; none for as the configuration says.
    pub srtp: Option<Srtp>,
}

/// One extension, enabled or not.
pub async fn find(store: &Store, user: &str) -> Result<Option<Extension>> {
    let read = store.one(SOON, extensions::Entity::find_by_id(user));
    store.look_up(Key::Extension(user.to_owned()), read).await
}

/// All of them, by user.
pub async fn list(store: &Store) -> Result<Vec<Extension>> {
    store.all(SOMETIME, extensions::Entity::find().order_by_asc(extensions::Column::User)).await
}

/// Makes a customer; `Duplicate` if there is one with this id.
pub async fn add_customer(store: &Store, customer: Customer, who: &str) -> Result<()> {
    let input = (customer, who.to_owned());
    store.write(Patience::None, input, |tx, (customer, who)| Box::pin(insert_customer(tx, customer, who))).await
}

/// Makes extensions, all or none; `Duplicate` if one of the users is taken.
pub async fn insert(store: &Store, customer_id: &str, new: Vec<NewExtension>, who: &str) -> Result<()> {
    let input = (customer_id.to_owned(), new, who.to_owned());
    store.write(Patience::None, input, |tx, (customer, new, who)| Box::pin(insert_all(tx, customer, new, who))).await
}

/// Makes a customer with extensions, all or nothing, if there is no extension at all: the first start. Says whether it
/// did.
pub async fn seed(store: &Store, customer: Customer, new: Vec<NewExtension>, who: &str) -> Result<bool> {
    let input = (customer, new, who.to_owned());
    store
        .write(Patience::None, input, |tx, (customer, new, who)| {
            Box::pin(async move {
                if extensions::Entity::find().count(tx.db()).await? > 0 {
                    return Ok(false);
                }
                insert_customer(tx, customer, who).await?;
                insert_all(tx, &customer.id, new, who).await?;
                Ok(true)
            })
        })
        .await
}

/// Sets a new secret; says whether there is such an extension.
pub async fn set_password(store: &Store, user: &str, ha1: Ha1, who: &str) -> Result<bool> {
    let input = (user.to_owned(), ha1, who.to_owned());
    store
        .write_cached(Key::Extension(user.to_owned()), Patience::None, input, |tx, (user, ha1, who)| {
            Box::pin(async move {
                let updated = extensions::Entity::update_many()
                    .col_expr(extensions::Column::Ha1Md5, Expr::value(&*ha1.md5))
                    .col_expr(extensions::Column::Ha1Sha256, Expr::value(&*ha1.sha256))
                    .filter(extensions::Column::User.eq(&**user))
                    .exec(tx.db())
                    .await?;
                if updated.rows_affected == 0 {
                    return Ok(false);
                }
                audit::note(tx, who, "extension.password", user, json!({})).await?;
                Ok(true)
            })
        })
        .await
}

/// Lets an extension register and call, or not; says whether there is such an extension.
pub async fn set_enabled(store: &Store, user: &str, enabled: bool, who: &str) -> Result<bool> {
    let input = (user.to_owned(), enabled, who.to_owned());
    store
        .write_cached(Key::Extension(user.to_owned()), Patience::None, input, |tx, (user, enabled, who)| {
            Box::pin(async move {
                let updated = extensions::Entity::update_many()
                    .col_expr(extensions::Column::Enabled, Expr::value(*enabled))
                    .filter(extensions::Column::User.eq(&**user))
                    .exec(tx.db())
                    .await?;
                if updated.rows_affected == 0 {
                    return Ok(false);
                }
                audit::note(tx, who, "extension.enabled", user, json!({ "enabled": enabled })).await?;
                Ok(true)
            })
        })
        .await
}

/// Sets whether its media is protected, none for as the configuration says; says whether there is such an extension.
pub async fn set_srtp(store: &Store, user: &str, srtp: Option<Srtp>, who: &str) -> Result<bool> {
    let input = (user.to_owned(), srtp, who.to_owned());
    store
        .write_cached(Key::Extension(user.to_owned()), Patience::None, input, |tx, (user, srtp, who)| {
            Box::pin(async move {
                let updated = extensions::Entity::update_many()
                    .col_expr(extensions::Column::Srtp, Expr::value(srtp.as_ref().map(Srtp::to_value)))
                    .filter(extensions::Column::User.eq(&**user))
                    .exec(tx.db())
                    .await?;
                if updated.rows_affected == 0 {
                    return Ok(false);
                }
                audit::note(tx, who, "extension.srtp", user, json!({ "srtp": srtp })).await?;
                Ok(true)
            })
        })
        .await
}

async fn insert_customer(tx: &Transaction, customer: &Customer, who: &str) -> Result<()> {
    let row = customer.clone().into_active_model().reset_all();
    customers::Entity::insert(row).exec_without_returning(tx.db()).await?;
    audit::note(tx, who, "customer.created", &customer.id, json!({ "name": customer.name })).await
}

async fn insert_all(tx: &Transaction, customer_id: &str, new: &[NewExtension], who: &str) -> Result<()> {
    let created_unix_ms = now_unix_ms();
    let row = |new: &NewExtension| Extension {
        user: new.user.clone(),
        customer_id: customer_id.to_owned(),
        display_name: new.display_name.clone(),
        ha1_md5: new.ha1.md5.clone(),
        ha1_sha256: new.ha1.sha256.clone(),
        enabled: true,
        srtp: new.srtp,
        created_unix_ms,
    };
    // SQLite takes at most 32766 values in a statement; these have 8 a row.
    for some in new.chunks(1000) {
        let rows = some.iter().map(|new| row(new).into_active_model().reset_all());
        extensions::Entity::insert_many(rows).exec_without_returning(tx.db()).await?;
    }
    let users: Vec<&str> = new.iter().map(|new| new.user.as_str()).collect();
    audit::note(tx, who, "extensions.created", customer_id, json!({ "users": users })).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ha1_is_that_of_rfc_7616() {
        // RFC 7616 section 3.9.1 gives user, realm and password; the hashes are those of `md5sum` and `sha256sum`.
        let ha1 = Ha1::new("Mufasa", "http-auth@example.org", "Circle of Life");
        assert_eq!(ha1.md5, "3d78807defe7de2157e2b0b6573a855f");
        assert_eq!(ha1.sha256, "7987c64c30e25f1b74be53f966b49b90f2808aa92faf9a00262392d7b4794232");
    }
}
