//! Live calls: asked of every switchboard there is, all at once. One that does not answer has just died, and its calls are
//! about to be another's: the answer then names it in a header rather than failing.

use crate::Gateway;
use crate::error::Error;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use futures_util::future::join_all;
use nebula_bus::contract::to_switchboard::{CallGet, CallHangup, CallList, CallView, GetCall, ListCalls};
use nebula_bus::contract::{CallId, InstanceId, Role};
use nebula_bus::{Context, Target};
use std::time::Duration;

/// How long the switchboards may take. Those that live answer in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The code with which a switchboard says that a call is not one of its own.
const UNKNOWN_CALL: &str = "unknown_call";

/// Names the switchboards whose calls are missing from a list.
const INCOMPLETE: &str = "nebula-incomplete";

/// `GET /v1.0/calls?limit=N`, newest first.
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    query: Result<Query<ListCalls>, QueryRejection>,
) -> Result<(HeaderMap, Json<Vec<CallView>>), Error> {
    let Query(params) = query?;
    let limit = if params.limit == 0 { 1000 } else { params.limit as usize };
    let context = Context::new(TIMEOUT);
    let ask = |switchboard: InstanceId| {
        let asked = gateway.bus.call::<CallList>(&target(&switchboard), params.clone(), &context.child());
        async move { (switchboard, asked.await) }
    };
    let (mut calls, mut missing, mut error) = (Vec::new(), Vec::new(), None);
    let answers = join_all(switchboards(&gateway).into_iter().map(ask)).await;
    let asked = answers.len();
    for (switchboard, answer) in answers {
        match answer {
            Ok(some) => calls.extend(some),
            Err(e) => {
                missing.push(switchboard.0);
                error = Some(e);
            }
        }
    }
    match error {
        Some(error) if missing.len() == asked => return Err(error.into()),
        _ => {}
    }
    calls.sort_by_key(|call| std::cmp::Reverse(call.started_unix_ms));
    calls.truncate(limit);
    let mut headers = HeaderMap::new();
    if let (false, Ok(names)) = (missing.is_empty(), HeaderValue::from_str(&missing.join(", "))) {
        headers.insert(INCOMPLETE, names);
    }
    Ok((headers, Json(calls)))
}

/// `GET /v1.0/calls/ID`
pub(crate) async fn get(State(gateway): State<Gateway>, Path(id): Path<String>) -> Result<Json<CallView>, Error> {
    Ok(Json(owner(&gateway, &id).await?.1))
}

/// `DELETE /v1.0/calls/ID`: ends the call.
pub(crate) async fn hangup(State(gateway): State<Gateway>, Path(id): Path<String>) -> Result<StatusCode, Error> {
    let (switchboard, call) = owner(&gateway, &id).await?;
    let params = GetCall { call_id: call.call_id };
    gateway.bus.call::<CallHangup>(&target(&switchboard), params, &Context::new(TIMEOUT)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The switchboard that has the call. Whether there is none is only known if all have answered.
async fn owner(gateway: &Gateway, id: &str) -> Result<(InstanceId, CallView), Error> {
    let context = Context::new(TIMEOUT);
    let ask = |switchboard: InstanceId| {
        let params = GetCall { call_id: CallId::from(id) };
        let asked = gateway.bus.call::<CallGet>(&target(&switchboard), params, &context.child());
        async move { asked.await.map(|call| (switchboard, call)) }
    };
    let answers = join_all(switchboards(gateway).into_iter().map(ask)).await;
    let mut error = Error::NotFound { what: "live call", id: id.to_owned() };
    for answer in answers {
        match answer {
            Ok(found) => return Ok(found),
            Err(e) if e.is(UNKNOWN_CALL) => {}
            Err(e) => error = e.into(),
        }
    }
    Err(error)
}

fn target(switchboard: &InstanceId) -> Target {
    Target::Instance(switchboard.clone())
}

fn switchboards(gateway: &Gateway) -> Vec<InstanceId> {
    gateway.bus.instances(Role::Switchboard).into_iter().map(|announcement| announcement.instance).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nebula_bus::contract::Party;
    use nebula_bus::{Bus, dispatch};
    use nebula_store::Store;

    /// A switchboard with one call, or one that takes requests and never answers.
    fn switchboard(bus: &Bus, name: &str, answers: bool) {
        let mut inbox = bus.serve(Role::Switchboard, name.into());
        let call = CallView {
            call_id: CallId(format!("call-of-{name}")),
            state: "talking".to_owned(),
            from: Party { user: "1000".to_owned(), display: None },
            to: "1001".to_owned(),
            started_unix_ms: 1,
            answered_unix_ms: None,
            channels: Vec::new(),
            streams: Vec::new(),
        };
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Some(request) = inbox.recv().await {
                if !answers {
                    kept.push(request);
                    continue;
                }
                let all = vec![call.clone()];
                dispatch!(request; {
                    CallList => |_list, asked| asked.reply(Ok(all)),
                    CallGet => |get, asked| asked.reply(match get.call_id == call.call_id {
                        true => Ok(call.clone()),
                        false => Err(nebula_bus::Error::business(UNKNOWN_CALL, "not one of mine")),
                    }),
                });
            }
        });
    }

    #[tokio::test]
    async fn a_dead_switchboard_is_named_and_hides_no_call_of_the_others() {
        let (bus, store) = (Bus::local(), Store::memory().await.unwrap());
        let gateway = Gateway { bus: bus.clone(), store };
        // Only now: the database has threads of its own, which time would not wait for.
        tokio::time::pause();
        let listed = async || list(State(gateway.clone()), Ok(Query(ListCalls { limit: 0 }))).await.unwrap();
        switchboard(&bus, "switchboard-a", true);
        switchboard(&bus, "switchboard-b", true);
        let (headers, Json(calls)) = listed().await;
        assert_eq!((calls.len(), headers.get(INCOMPLETE)), (2, None));

        switchboard(&bus, "switchboard-c", false);
        let (headers, Json(calls)) = listed().await;
        assert_eq!((calls.len(), headers[INCOMPLETE].to_str().unwrap()), (2, "switchboard-c"));
        let found = owner(&gateway, "call-of-switchboard-b").await.unwrap();
        assert_eq!(found.0.as_str(), "switchboard-b");
        assert!(matches!(owner(&gateway, "call-of-switchboard-c").await, Err(Error::Bus(_))), "it may be there");
    }
}
