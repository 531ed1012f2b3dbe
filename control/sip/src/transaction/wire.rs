//! The messages that the transaction layer itself makes or changes: Via, ACK of a refusal, CANCEL, answers of its own.
//!
//! Pure functions over messages.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::flow::Flow;
use crate::message::{Message, Method, Name, Request, Response, StatusCode, Via};

/// Max-Forwards of what we originate (8.1.1.6).
const MAX_FORWARDS: &str = "70";

/// Puts our Via on top.
pub(super) fn push_via(request: &mut Request, flow: Flow, sent_by: Option<SocketAddr>, branch: &str) {
    let via = Via::new(flow.protocol.via_name(), sent_by.unwrap_or(flow.local), branch);
    request.headers.insert_first(Name::Via, via.to_string());
}

/// Notes in the top Via where the request came from (18.2.1), and says where its answer goes (18.2.2, RFC 3581).
pub(super) fn stamp(request: &mut Request, flow: Flow) -> Flow {
    let mut reply_flow = flow;
    // A parsed request has a Via that parses; one without is answered to where it came from.
    let _ = request.headers.edit_via_top(|via| {
        via.stamp(flow.remote);
        let (host, port) = via.response_target();
        if let Some(ip) = host.ip()
            && !flow.protocol.is_reliable()
        {
            reply_flow.remote = SocketAddr::new(ip, port);
        }
    });
    reply_flow
}

/// The ACK of a refusal (17.1.1.3), from the INVITE as it was sent.
pub(super) fn ack(invite: &Bytes, refusal: &Response) -> Option<Bytes> {
    let to = refusal.headers.get(Name::To)?;
    Some(same_branch(&reread(invite)?, Method::Ack, to)?.to_bytes())
}

/// The CANCEL of an INVITE (9.1) and its branch, from the INVITE as it was sent.
pub(super) fn cancel(invite: &Bytes, reason: Option<&str>) -> Option<(String, Bytes)> {
    let invite = reread(invite)?;
    let branch = invite.headers.via_top().ok()?.branch()?.to_owned();
    let mut cancel = same_branch(&invite, Method::Cancel, invite.headers.get(Name::To)?)?;
    if let Some(reason) = reason {
        cancel.headers.push(Name::Reason, reason);
    }
    Some((branch, cancel.to_bytes()))
}

/// An answer of the layer's own; `to_tag` unless the request has one or it is 100.
pub(super) fn reply(request: &Request, status: StatusCode, to_tag: Option<&str>) -> Response {
    let mut response = Response::to(request, status);
    let has_tag = response.headers.to().is_ok_and(|to| to.tag().is_some());
    if let Some(tag) = to_tag.filter(|_| !has_tag) {
        // Only an unreadable To could fail, and that is refused before it comes here.
        let _ = response.headers.set_to_tag(tag);
    }
    response
}

/// When to try again.
pub(super) fn set_retry_after(response: &mut Response, delay_s: u32) {
    response.headers.set(Name::RetryAfter, delay_s.to_string());
}

/// The To tag of a response as it was sent.
pub(super) fn to_tag_of(response: &Bytes) -> Option<String> {
    if response.is_empty() {
        return None;
    }
    let message = Message::parse(response.clone()).ok()?;
    Some(message.headers().to().ok()?.tag()?.to_owned())
}

fn reread(request: &Bytes) -> Option<Request> {
    match Message::parse(request.clone()) {
        Ok(Message::Request(request)) => Some(request),
        _ => None,
    }
}

/// A request of the INVITE's own branch: its Request-URI, top Via alone, From, Call-ID, CSeq number and Route.
fn same_branch(invite: &Request, method: Method, to: &str) -> Option<Request> {
    let headers = &invite.headers;
    let cseq = headers.cseq().ok()?;
    let mut request = Request::new(method.clone(), invite.uri.clone())
        .with(Name::Via, headers.via_top().ok()?.to_string())
        .with(Name::MaxForwards, MAX_FORWARDS)
        .with(Name::From, headers.get(Name::From)?)
        .with(Name::To, to)
        .with(Name::CallId, headers.call_id().ok()?)
        .with(Name::CSeq, format!("{} {method}", cseq.number));
    for route in headers.lines(Name::Route) {
        request.headers.push(Name::Route, route.clone());
    }
    Some(request)
}
