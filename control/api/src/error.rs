//! Errors as HTTP shows them: a status by the error's category, and its code and message as JSON.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use nebula_bus::Category;

/// When to ask a database again that is away.
const STORE_RETRY_AFTER_S: u32 = 2;

/// What a route fails with.
#[derive(Debug)]
pub(crate) enum Error {
    /// The bus or a role refused.
    Bus(nebula_bus::Error),
    /// The store failed.
    Store(nebula_store::Error),
    /// The query string says nothing that the route knows.
    Query(QueryRejection),
    /// The resource cannot do that.
    Method,
    /// There is no such thing.
    NotFound {
        /// What was asked for.
        what: &'static str,
        /// Its id.
        id: String,
    },
}

impl From<nebula_bus::Error> for Error {
    fn from(error: nebula_bus::Error) -> Self {
        Error::Bus(error)
    }
}

impl From<QueryRejection> for Error {
    fn from(error: QueryRejection) -> Self {
        Error::Query(error)
    }
}

impl From<nebula_store::Error> for Error {
    fn from(error: nebula_store::Error) -> Self {
        Error::Store(error)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, code, message, retry_after_s) = match self {
            Error::NotFound { what, id } => {
                (StatusCode::NOT_FOUND, "not_found".into(), format!("no {what} {id}"), None)
            }
            Error::Query(e) => (e.status(), "bad_query".into(), e.body_text(), None),
            Error::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed".into(),
                "the Allow header names the methods of this resource".to_owned(),
                None,
            ),
            Error::Store(e) if is_away(&e) => {
                (StatusCode::SERVICE_UNAVAILABLE, "store".into(), e.to_string(), Some(STORE_RETRY_AFTER_S))
            }
            Error::Store(e) => (StatusCode::INTERNAL_SERVER_ERROR, "store".into(), e.to_string(), None),
            Error::Bus(e) => {
                let status = match e.category {
                    Category::Transient => StatusCode::SERVICE_UNAVAILABLE,
                    Category::Permanent => StatusCode::INTERNAL_SERVER_ERROR,
                    Category::Business => StatusCode::CONFLICT,
                };
                (status, e.code.to_string(), e.message, e.retry_after_s)
            }
        };
        let body = Json(serde_json::json!({ "error": { "code": code, "message": message } }));
        match retry_after_s {
            Some(seconds) => (status, [(header::RETRY_AFTER, seconds.to_string())], body).into_response(),
            None => (status, body).into_response(),
        }
    }
}

/// Whether the store may answer when it is asked again.
fn is_away(error: &nebula_store::Error) -> bool {
    use nebula_store::Error::{Away, Busy, Contended, TimedOut, Unreachable};
    matches!(error, Unreachable { .. } | Away | TimedOut | Contended | Busy(_))
}
