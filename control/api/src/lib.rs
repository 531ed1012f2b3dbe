//! The HTTP gateway: calls, records and extensions as JSON under `/v1.0`, and a front page for people.
//!
//! It owns nothing: live calls are asked of the switchboards over the bus, records are read from the store. One axum
//! server; a request costs one RPC per switchboard or one query.

#![forbid(unsafe_code)]

mod calls;
mod error;
mod records;

use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use error::Error;
use nebula_bus::Bus;
use nebula_bus::contract::Role;
use nebula_store::Store;
use tokio::net::TcpListener;

/// What the routes work with.
#[derive(Clone)]
struct Gateway {
    bus: Bus,
    store: Store,
}

/// Serves the gateway on a listener until the process ends.
pub fn serve(listener: TcpListener, bus: Bus, store: Store) {
    let router = router(bus, store);
    tokio::spawn(async move {
        if let Err(e) = axum::serve(listener, router).await {
            tracing::error!(error = %e, "the HTTP gateway failed");
        }
    });
}

fn router(bus: Bus, store: Store) -> Router {
    Router::new()
        .route("/", get(front_page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/v1.0/calls", get(calls::list))
        .route("/v1.0/calls/{call_id}", get(calls::get).delete(calls::hangup))
        .route("/v1.0/cdrs", get(records::cdrs))
        .route("/v1.0/cdrs/{call_id}", get(records::cdr))
        .route("/v1.0/extensions", get(records::extensions))
        .fallback(|uri: Uri| async move { Error::NotFound { what: "resource", id: uri.path().to_owned() } })
        .method_not_allowed_fallback(|| async { Error::Method })
        .with_state(Gateway { bus, store })
}

async fn ready(State(gateway): State<Gateway>) -> impl IntoResponse {
    use axum::http::StatusCode;
    match gateway.bus.instances(Role::Switchboard).is_empty() {
        false => (StatusCode::OK, "ready\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "no switchboard\n"),
    }
}

async fn front_page() -> Html<&'static str> {
    Html(include_str!("front_page.html"))
}
