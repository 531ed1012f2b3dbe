//! What the store keeps: call records and extensions.

use crate::Gateway;
use crate::error::Error;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use nebula_store::{cdrs, extensions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The most records of one answer.
const RECORDS_MAX: u64 = 10_000;

/// The records of an answer that doesn't say how many.
const RECORDS_DEFAULT: u64 = 100;

/// `?limit=N`
#[derive(Deserialize)]
pub(crate) struct Limit {
    limit: Option<u64>,
}

/// `GET /v1.0/cdrs?limit=N`, newest first.
pub(crate) async fn cdrs(
    State(gateway): State<Gateway>,
    query: Result<Query<Limit>, QueryRejection>,
) -> Result<Json<Vec<Value>>, Error> {
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(RECORDS_DEFAULT).min(RECORDS_MAX);
    Ok(Json(cdrs::list(&gateway.store, limit).await?.iter().map(cdrs::Cdr::to_json).collect()))
}

/// `GET /v1.0/cdrs/ID`
pub(crate) async fn cdr(State(gateway): State<Gateway>, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    match cdrs::get(&gateway.store, &id).await? {
        Some(cdr) => Ok(Json(cdr.to_json())),
        None => Err(Error::NotFound { what: "call record", id }),
    }
}

/// An extension as the API shows it: without its secret.
#[derive(Serialize)]
pub(crate) struct ExtensionView {
    user: String,
    customer_id: String,
    display_name: String,
    enabled: bool,
    /// Null where the configuration decides.
    srtp: Option<extensions::Srtp>,
}

/// `GET /v1.0/extensions`
pub(crate) async fn extensions(State(gateway): State<Gateway>) -> Result<Json<Vec<ExtensionView>>, Error> {
    let all = extensions::list(&gateway.store).await?;
    let view = |e: extensions::Extension| ExtensionView {
        user: e.user,
        customer_id: e.customer_id,
        display_name: e.display_name,
        enabled: e.enabled,
        srtp: e.srtp,
    };
    Ok(Json(all.into_iter().map(view).collect()))
}
