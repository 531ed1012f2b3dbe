//! Live calls: asked of every switchboard there is.

use crate::Gateway;
use crate::error::Error;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use nebula_bus::contract::to_switchboard::{CallGet, CallHangup, CallList, CallView, GetCall, ListCalls};
use nebula_bus::contract::{CallId, InstanceId, Role};
use nebula_bus::{Context, Target};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The code with which a switchboard says that a call is not one of its own.
const UNKNOWN_CALL: &str = "unknown_call";

/// `GET /v1.0/calls?limit=N`, newest first.
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    query: Result<Query<ListCalls>, QueryRejection>,
) -> Result<Json<Vec<CallView>>, Error> {
    let Query(params) = query?;
    let context = Context::new(TIMEOUT);
    let limit = if params.limit == 0 { 1000 } else { params.limit as usize };
    let mut calls = Vec::new();
    for target in switchboards(&gateway) {
        calls.extend(gateway.bus.call::<CallList>(&target, params.clone(), &context.child()).await?);
    }
    calls.sort_by_key(|call| std::cmp::Reverse(call.started_unix_ms));
    calls.truncate(limit);
    Ok(Json(calls))
}

/// `GET /v1.0/calls/ID`
pub(crate) async fn get(State(gateway): State<Gateway>, Path(id): Path<String>) -> Result<Json<CallView>, Error> {
    Ok(Json(owner(&gateway, &id).await?.1))
}

/// `DELETE /v1.0/calls/ID`: ends the call.
pub(crate) async fn hangup(State(gateway): State<Gateway>, Path(id): Path<String>) -> Result<StatusCode, Error> {
    let (target, call) = owner(&gateway, &id).await?;
    gateway.bus.call::<CallHangup>(&target, GetCall { call_id: call.call_id }, &Context::new(TIMEOUT)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The switchboard that has the call.
async fn owner(gateway: &Gateway, id: &str) -> Result<(Target, CallView), Error> {
    let context = Context::new(TIMEOUT);
    for target in switchboards(gateway) {
        let call_id = CallId::from(id);
        match gateway.bus.call::<CallGet>(&target, GetCall { call_id }, &context.child()).await {
            Ok(call) => return Ok((target, call)),
            Err(e) if e.is(UNKNOWN_CALL) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Error::NotFound { what: "live call", id: id.to_owned() })
}

fn switchboards(gateway: &Gateway) -> Vec<Target> {
    let instance = |a: nebula_bus::Announcement| -> InstanceId { a.instance };
    gateway.bus.instances(Role::Switchboard).into_iter().map(instance).map(Target::Instance).collect()
}
