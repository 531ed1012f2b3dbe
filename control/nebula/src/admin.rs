//! Each role's own port: `/healthz`, `/readyz`, `/metrics` (Prometheus) and `POST /rpc` (JSON-RPC 2.0).
//!
//! Health says that the process turns, readiness that the role can do its work. In `nebula up` all roles share one
//! process and so one set of metrics, which every port shows.

use crate::gauges;
use crate::last::Last;
use crate::ready::Readiness;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use nebula_bus::contract::{InstanceId, Role};
use nebula_bus::{Bus, Context, Target};
use nebula_store::Store;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpListener;

/// The largest RPC body: an SDP of 32 KiB fits four times.
const BODY_BYTES_MAX: usize = 128 * 1024;

/// How long a request over HTTP may take.
const RPC_TIMEOUT: Duration = Duration::from_secs(5);

/// What a role's port needs to know.
#[derive(Clone)]
pub struct Port {
    /// Whose port it is.
    pub role: Role,
    /// The instance that answers.
    pub instance: InstanceId,
    /// Whether it can work now.
    pub ready: Readiness,
    /// Where its methods are answered.
    pub bus: Bus,
    /// What else counts.
    pub store: Store,
    /// The process's metrics.
    pub metrics: PrometheusHandle,
}

/// A port that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{key} = {address}: {source}{}", hint(source))]
pub struct Taken {
    /// The key that names it.
    pub key: &'static str,
    /// The whole address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: std::io::Error,
}

fn hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => "; another program has it, choose another",
        std::io::ErrorKind::AddrNotAvailable => "; not an address of this host",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need rights",
        _ => "",
    }
}

/// Takes a TCP port for HTTP. Port 0 takes the one that the last process took for this key, if it is free.
pub async fn bind(key: &'static str, ip: IpAddr, port: u16, last: &mut Last) -> Result<TcpListener, Taken> {
    let again = match last.port(key) {
        Some(again) if port == 0 => TcpListener::bind((ip, again)).await.ok(),
        _ => None,
    };
    let address = SocketAddr::new(ip, port);
    let taken = |source| Taken { key, address, source };
    let listener = match again {
        Some(listener) => listener,
        None => TcpListener::bind(address).await.map_err(taken)?,
    };
    last.take(key, listener.local_addr().map_err(taken)?.port());
    Ok(listener)
}

/// Serves a role's port until the process ends.
pub fn serve(listener: TcpListener, port: Port) {
    let router = axum::Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/rpc", post(rpc))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(port);
    tokio::spawn(async move {
        if let Err(e) = axum::serve(listener, router).await {
            tracing::error!(error = %e, "an admin port failed");
        }
    });
}

async fn ready(State(port): State<Port>) -> impl IntoResponse {
    match port.ready.check().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

async fn metrics(State(port): State<Port>) -> impl IntoResponse {
    gauges::record(&port.bus, &port.store);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], sums_are_counters(&port.metrics.render()))
}

/// The recorder counts in whole numbers, so sums of seconds are gauges to it. To Prometheus they are counters.
fn sums_are_counters(text: &str) -> String {
    text.replace("_seconds_total gauge\n", "_seconds_total counter\n")
}

async fn rpc(State(port): State<Port>, body: Bytes) -> impl IntoResponse {
    let (target, context) = (Target::Instance(port.instance), Context::new(RPC_TIMEOUT));
    ([(header::CONTENT_TYPE, "application/json")], port.bus.call_json(port.role, &target, &body, &context).await)
}
