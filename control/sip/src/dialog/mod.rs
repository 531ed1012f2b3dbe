//! Dialogs (RFC 3261 section 12): what two user agents know of each other while they talk.
//!
//! Owned by the proxy's channels, one per SIP leg; sans-IO and without timers of its own. Beside it live what an owner
//! needs around a dialog: [`Forks`] (the early dialogs of one INVITE of ours), [`Unacknowledged`] (a 2xx of ours until
//! its ACK), [`Renegotiation`] (one re-INVITE or UPDATE at a time), [`session_timer`](crate::session_timer) and
//! [`reliable`](crate::reliable).

mod answer;
mod forks;
mod id;
mod renegotiation;
mod route;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

pub use answer::{Due, SavedUnacknowledged, Unacknowledged};
pub use forks::{FORKS_MAX, Forks, Heard};
pub use id::DialogId;
pub use renegotiation::{Admission, Renegotiation, retry_delay};

use crate::message::limits::LIST_ELEMENTS_MAX;
use crate::message::{ByteStr, RAck};
use crate::message::{HeaderError, Method, Name, NameAddr, Request, Response, StatusCode, Uri};
use crate::snapshot::SnapshotError;

/// Max-Forwards of what we originate (8.1.1.6).
const MAX_FORWARDS: &str = "70";
/// Retry-After of the 500 to a request out of order (12.2.2 asks for the 500, and a peer that lost count may recover).
const RETRY_AFTER_S: u32 = 1;

/// Which side sent the INVITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// We did.
    Uac,
    /// The peer did.
    Uas,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Made by a 101 to 199 response.
    Early,
    /// Made or confirmed by a 2xx.
    Confirmed,
}

/// Why a message makes no dialog.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A header is missing or unreadable.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// There is no Contact: nowhere to send to.
    #[error("no Contact to reach the peer by")]
    NoContact,
    /// The response is 100 or a refusal.
    #[error("{0} makes no dialog")]
    Status(StatusCode),
}

/// Why a request in a dialog is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Its Call-ID and tags name another dialog: 481.
    #[error("not of this dialog")]
    Unknown,
    /// Its CSeq is below one that was seen: 500 (12.2.2).
    #[error("CSeq {got} after {seen}")]
    OutOfOrder {
        /// Its CSeq number.
        got: u32,
        /// The highest so far.
        seen: u32,
    },
    /// A header is missing or unreadable: 400.
    #[error("unreadable header")]
    Unreadable,
}

impl Refusal {
    /// The status to refuse with.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::Unknown => StatusCode::CALL_DOES_NOT_EXIST,
            Refusal::OutOfOrder { .. } => StatusCode::SERVER_INTERNAL_ERROR,
            Refusal::Unreadable => StatusCode::BAD_REQUEST,
        }
    }

    /// The whole answer.
    pub fn response(self, request: &Request) -> Response {
        let response = Response::to(request, self.status());
        match self {
            Refusal::OutOfOrder { .. } => response.with(Name::RetryAfter, RETRY_AFTER_S.to_string()),
            Refusal::Unknown | Refusal::Unreadable => response,
        }
    }
}

/// One dialog, as this side sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialog {
    id: DialogId,
    role: Role,
    state: State,
    /// From of our requests, To of our responses, with our tag.
    local: ByteStr,
    /// To of our requests, with the peer's tag.
    remote: ByteStr,
    /// CSeq number of our latest request; 0 before the first.
    #[serde(deserialize_with = "beyond_cseq")]
    local_cseq: u32,
    /// Highest CSeq number of the peer's requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remote_cseq: Option<u32>,
    /// Where the peer is: its latest Contact.
    target: Uri,
    /// Where we are: our Contact.
    contact: NameAddr,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "few_routes")]
    routes: Vec<NameAddr>,
}

/// CSeq numbers are below this (8.1.1.5).
const CSEQ_BOUND: u32 = 1 << 31;

/// How many requests may have left between a snapshot and the end of its process. The peer would refuse their numbers
/// the second time, and a gap is no error (12.2.2).
const CSEQ_GAP: u32 = 16;

/// Of a snapshot: a number to count on from, beyond all that may have been used since.
fn beyond_cseq<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let damaged = || D::Error::custom(SnapshotError::Damaged("a CSeq number"));
    let number = u32::deserialize(deserializer)?.saturating_add(CSEQ_GAP);
    Some(number).filter(|number| *number < CSEQ_BOUND).ok_or_else(damaged)
}

/// Of a snapshot: no more routes than a message may have.
fn few_routes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NameAddr>, D::Error> {
    let damaged = || D::Error::custom(SnapshotError::Damaged("a route set"));
    Some(Vec::deserialize(deserializer)?).filter(|routes| routes.len() <= LIST_ELEMENTS_MAX).ok_or_else(damaged)
}

/// Making one.
impl Dialog {
    /// As UAS, from the INVITE and the tag we answer it with (12.1.1). Early until [`Dialog::confirm`].
    pub fn uas(invite: &Request, local_tag: &str, contact: NameAddr) -> Result<Self, Error> {
        let headers = &invite.headers;
        let (from, to) = (headers.from()?, headers.to()?);
        Ok(Self {
            id: DialogId {
                call_id: headers.call_id()?.into(),
                local_tag: local_tag.into(),
                remote_tag: from.tag().unwrap_or("").into(),
            },
            role: Role::Uas,
            state: State::Early,
            local: to.with_tag(local_tag).to_string().into(),
            remote: headers.get(Name::From).unwrap_or("").into(),
            local_cseq: 0,
            remote_cseq: Some(headers.cseq()?.number),
            target: headers.contact()?.ok_or(Error::NoContact)?.uri,
            contact,
            routes: route::of_uas(headers)?,
        })
    }

    /// As UAC, from our INVITE and a 101 to 299 response to it (12.1.2).
    ///
    /// A provisional response may lack Contact (RFC 3261 table 2); the Request-URI stands in until the 2xx.
    pub fn uac(invite: &Request, response: &Response) -> Result<Self, Error> {
        let (status, headers) = (response.status, &response.headers);
        if !(101..300).contains(&status.get()) {
            return Err(Error::Status(status));
        }
        let target = match headers.contact()? {
            Some(contact) => contact.uri,
            None if status.is_provisional() => invite.uri.clone(),
            None => return Err(Error::NoContact),
        };
        Ok(Self {
            id: DialogId::of_response(response)?,
            role: Role::Uac,
            state: if status.is_provisional() { State::Early } else { State::Confirmed },
            local: headers.get(Name::From).unwrap_or("").into(),
            remote: headers.get(Name::To).unwrap_or("").into(),
            local_cseq: invite.headers.cseq()?.number,
            remote_cseq: None,
            target,
            contact: invite.headers.contact()?.ok_or(Error::NoContact)?,
            routes: route::of_uac(headers)?,
        })
    }
}

/// What it is.
impl Dialog {
    /// Its identity.
    pub fn id(&self) -> &DialogId {
        &self.id
    }

    /// Which side sent the INVITE. The UAC owns the Call-ID, see [`retry_delay`].
    pub fn role(&self) -> Role {
        self.role
    }

    /// How far it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Where the peer is.
    pub fn target(&self) -> &Uri {
        &self.target
    }

    /// Where the next request goes (8.1.2): the nearest proxy, loose or strict, or the peer itself.
    pub fn next_hop(&self) -> &Uri {
        self.routes.first().map_or(&self.target, |route| &route.uri)
    }

    /// The proxies between, nearest first.
    pub fn routes(&self) -> &[NameAddr] {
        &self.routes
    }
}

/// What comes in.
impl Dialog {
    /// A request of the peer: checks that it belongs here and its order, and takes a new target over (12.2.2).
    pub fn receive(&mut self, request: &Request) -> Result<(), Refusal> {
        let id = DialogId::of_request(request).map_err(|_| Refusal::Unreadable)?;
        if id.as_ref() != Some(&self.id) {
            return Err(Refusal::Unknown);
        }
        let got = request.headers.cseq().map_err(|_| Refusal::Unreadable)?.number;
        // These two bear the number of the INVITE they belong to.
        if matches!(request.method, Method::Ack | Method::Cancel) {
            return Ok(());
        }
        if let Some(seen) = self.remote_cseq.filter(|seen| got < *seen) {
            return Err(Refusal::OutOfOrder { got, seen });
        }
        self.remote_cseq = Some(got);
        if refreshes_target(&request.method)
            && let Some(contact) = request.headers.contact().map_err(|_| Refusal::Unreadable)?
        {
            self.target = contact.uri;
        }
        Ok(())
    }

    /// A response to our INVITE or UPDATE in this dialog: a 2xx refreshes the target (12.2.1.2), and the one that
    /// confirms an early dialog settles its route set (13.2.2.4).
    pub fn receive_response(&mut self, response: &Response) -> Result<(), Error> {
        let headers = &response.headers;
        if !response.status.is_success() || !refreshes_target(&headers.cseq()?.method) {
            return Ok(());
        }
        if let Some(contact) = headers.contact()? {
            self.target = contact.uri;
        }
        if self.state == State::Early && headers.cseq()?.method == Method::Invite {
            self.routes = route::of_uac(headers)?;
            self.state = State::Confirmed;
        }
        Ok(())
    }

    /// As UAS: we sent the 2xx to the INVITE.
    pub fn confirm(&mut self) {
        self.state = State::Confirmed;
    }
}

/// What goes out. The layer adds Via; the owner adds Supported, Allow, User-Agent and a body.
impl Dialog {
    /// The next request (12.2.1.1): BYE, re-INVITE, UPDATE, INFO, REFER, ... Not for ACK, CANCEL and PRACK.
    pub fn request(&mut self, method: Method) -> Request {
        self.local_cseq += 1;
        let has_contact = refreshes_target(&method);
        let request = self.numbered(method, self.local_cseq);
        if has_contact { request.with(Name::Contact, self.contact.to_string()) } else { request }
    }

    /// The ACK of a 2xx to our INVITE or re-INVITE (13.2.2.4), without a body. Send it with
    /// [`Layer::send_ack`](crate::transaction::Layer::send_ack), and the same bytes again when the 2xx comes again.
    pub fn ack(&self, success: &Response) -> Result<Request, Error> {
        Ok(self.numbered(Method::Ack, success.headers.cseq()?.number))
    }

    /// The PRACK of a reliable provisional response (RFC 3262 section 4). None if it has no RSeq.
    pub fn prack(&mut self, response: &Response) -> Result<Option<Request>, Error> {
        let Some(rseq) = response.headers.rseq()? else { return Ok(None) };
        let rack = RAck { rseq, cseq: response.headers.cseq()? };
        Ok(Some(self.request(Method::Prack).with(Name::RAck, rack.to_string())))
    }

    /// A response to a request of the peer: To with our tag, and with a 101 to 299 what makes a dialog for the peer too,
    /// our Contact and the request's Record-Route (12.1.1).
    pub fn response(&self, request: &Request, status: StatusCode) -> Response {
        let mut response = Response::to(request, status);
        response.headers.set(Name::To, self.local.clone());
        if refreshes_target(&request.method) && (101..300).contains(&status.get()) {
            for route in request.headers.lines(Name::RecordRoute) {
                response.headers.push(Name::RecordRoute, route.clone());
            }
            response.headers.push(Name::Contact, self.contact.to_string());
        }
        response
    }

    fn numbered(&self, method: Method, cseq: u32) -> Request {
        let (request_uri, routes) = route::aim(&self.target, &self.routes);
        let mut request = Request::new(method.clone(), request_uri);
        for route in routes {
            request.headers.push(Name::Route, route.to_string());
        }
        request
            .with(Name::MaxForwards, MAX_FORWARDS)
            .with(Name::From, self.local.clone())
            .with(Name::To, self.remote.clone())
            .with(Name::CallId, self.id.call_id.clone())
            .with(Name::CSeq, format!("{cseq} {method}"))
    }
}

/// Target refresh requests (section 6, RFC 3311, RFC 3515, RFC 6665): they bear a Contact that counts.
fn refreshes_target(method: &Method) -> bool {
    matches!(method, Method::Invite | Method::Update | Method::Refer | Method::Subscribe | Method::Notify)
}
