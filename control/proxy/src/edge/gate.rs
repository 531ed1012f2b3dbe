//! Requests outside of dialogs, in the order of the routing diagram: validate (400 and its like), authenticate (401), look
//! up (404), route.
//!
//! A request that waits for the store is parked under its transaction and taken through again when the answer comes;
//! its caller may cancel it meanwhile. RFC 3261 8.2 and 10.3, RFC 3581, 4028 section 9.

use std::sync::Arc;
use std::time::Instant;

use nebula_sip::message::{ByteStr, Malformed};
use nebula_sip::session_timer::{self, Offer};
use nebula_sip::transaction::TransactionId;
use nebula_sip::{Flow, Method, Name, Request, Response, StatusCode};
use nebula_store::extensions::{Extension, Srtp};

use super::accounts::Lookup;
use super::core::{SDP_TYPE, SUPPORTED};
use super::{Edge, Input};
use crate::admission::{self, ALLOW, Verdict};
use crate::metrics::Refused;
use crate::registrar;
use crate::route::{self, Target};

/// A request that waits.
#[derive(Debug)]
pub struct Parked {
    /// It.
    pub request: Box<Request>,
    /// How it came.
    pub flow: Flow,
    /// Who asks, once that is proved: credentials are checked once, for their nonce counts.
    pub caller: Option<Arc<Extension>>,
}

/// Whom a call is for.
#[derive(Debug)]
pub struct Callee {
    /// The user part, or a service's number.
    pub user: String,
    /// Its own setting.
    pub srtp: Option<Srtp>,
}

/// How a step of the gate came out.
enum Step<T> {
    /// Go on with this.
    On(T),
    /// The store was asked: park it.
    Wait,
    /// It has its answer.
    Answered,
}

impl Edge {
    /// A new request: into its dialog, or through the gate.
    pub fn requested(&mut self, id: TransactionId, request: Box<Request>, flow: Flow, now: Instant) {
        let headers = &request.headers;
        tracing::debug!(method = %request.method, sip_call_id = headers.call_id().unwrap_or(""), %flow, "request");
        if headers.to().is_ok_and(|to| to.tag().is_some()) {
            return self.requested_in_dialog(id, request, flow, now);
        }
        if let Err(refusal) = admission::validate(&request) {
            return self.core.reply(id, *refusal, now);
        }
        match request.method {
            Method::Invite => {
                if let Some(why) = self.refusal(now) {
                    self.core.metrics.refused(why);
                    return self.core.refuse(id, &request, StatusCode::SERVICE_UNAVAILABLE, now);
                }
                self.core.setups.begin(id, self.core.came_at);
                self.admit(id, Parked { request, flow, caller: None }, now);
            }
            Method::Register => self.admit(id, Parked { request, flow, caller: None }, now),
            Method::Options => self.capabilities(id, &request, now),
            // All others live in dialogs.
            Method::Bye | Method::Prack | Method::Update | Method::Info => {
                self.core.refuse(id, &request, StatusCode::CALL_DOES_NOT_EXIST, now);
            }
            // `validate` refused the rest.
            _ => self.core.refuse(id, &request, StatusCode::METHOD_NOT_ALLOWED, now),
        }
    }

    /// Why no new call is taken now, before anything is asked of anybody.
    fn refusal(&self, now: Instant) -> Option<Refused> {
        if self.draining {
            Some(Refused::Draining)
        } else if self.legs.len() >= self.core.options.channels_max as usize {
            Some(Refused::Full)
        } else if self.core.setups.is_late(now) {
            Some(Refused::Late)
        } else if self.core.transports.is_short_of_descriptors() {
            Some(Refused::Descriptors)
        } else {
            None
        }
    }

    /// A request that could not be read, but answered.
    pub fn refuse_malformed(&mut self, malformed: &Malformed, flow: Flow, now: Instant) {
        let Some(salvage) = &malformed.salvage else { return };
        let mut response = Response::to_salvage(salvage, malformed.error.status())
            .with_reason(format!("{} ({})", malformed.error.status().reason(), malformed.error))
            .with(Name::Server, self.core.product());
        if response.headers.to().is_ok_and(|to| to.tag().is_none()) {
            let tag = self.core.tokens.token();
            // It was readable a line ago.
            let _ = response.headers.set_to_tag(&tag);
        }
        let flow = response.headers.via_top().map_or(flow, |via| admission::reply_flow(&via, flow));
        self.core.transmit(flow, response.to_bytes(), None, now);
    }

    /// OPTIONS outside of a dialog: what we can do (RFC 3261 11.2).
    fn capabilities(&mut self, id: TransactionId, request: &Request, now: Instant) {
        let response = Response::to(request, StatusCode::OK)
            .with(Name::Allow, ByteStr::from_static(ALLOW))
            .with(Name::Accept, ByteStr::from_static(SDP_TYPE))
            .with(Name::Supported, ByteStr::from_static(SUPPORTED));
        self.core.reply(id, response, now);
    }

    /// Authenticate, look up, route; parks the request where the store must be asked.
    fn admit(&mut self, id: TransactionId, mut parked: Parked, now: Instant) {
        let caller = match parked.caller.take() {
            Some(caller) => caller,
            None => match self.authenticate(id, &parked.request, now) {
                Step::On(caller) => caller,
                Step::Wait => return self.park(id, parked),
                Step::Answered => return,
            },
        };
        if parked.request.method == Method::Register {
            return self.register(id, parked, caller, now);
        }
        match self.look_up(id, &parked.request, now) {
            Step::On(to) => self.open_incoming(id, parked, &caller, to, now),
            Step::Wait => self.park(id, Parked { caller: Some(caller), ..parked }),
            Step::Answered => {}
        }
    }

    /// Who it is; 401 or 403 otherwise.
    fn authenticate(&mut self, id: TransactionId, request: &Request, now: Instant) -> Step<Arc<Extension>> {
        let Ok(user) = admission::claimed_user(request, &self.core.options.realm) else {
            return self.challenge(id, request, false, now);
        };
        let account = match self.accounts.find(&user, id, &self.core, now) {
            Lookup::Known(account) => account,
            Lookup::Pending => return Step::Wait,
            Lookup::Overload => return self.refused(id, request, StatusCode::SERVICE_UNAVAILABLE, now),
        };
        let unix_s = self.core.clock.unix_s(now);
        match (self.core.admission.check(request, account.as_deref(), unix_s), account) {
            (Verdict::Admitted, Some(account)) => Step::On(account),
            (Verdict::Stale, _) => self.challenge(id, request, true, now),
            (Verdict::Forbidden, _) => self.refused(id, request, StatusCode::FORBIDDEN, now),
            (Verdict::Wrong | Verdict::Admitted, _) => self.challenge(id, request, false, now),
        }
    }

    /// Whom it is for; 404 if that is nobody.
    fn look_up(&mut self, id: TransactionId, request: &Request, now: Instant) -> Step<Callee> {
        let to = match route::target(request.uri.user().as_deref(), &self.core.options.service_numbers) {
            Target::Service(number) => Callee { user: number, srtp: None },
            Target::Nowhere => return self.refused(id, request, StatusCode::NOT_FOUND, now),
            Target::Extension(user) => match self.accounts.find(&user, id, &self.core, now) {
                Lookup::Known(Some(callee)) if callee.enabled => Callee { user, srtp: callee.srtp },
                Lookup::Known(_) => return self.refused(id, request, StatusCode::NOT_FOUND, now),
                Lookup::Pending => return Step::Wait,
                Lookup::Overload => return self.refused(id, request, StatusCode::SERVICE_UNAVAILABLE, now),
            },
        };
        if let Err(session_timer::Error::TooSmall { min_se_s }) =
            session_timer::answer(self.core.options.session(), &Offer::of(&request.headers))
        {
            let response = Response::to(request, StatusCode::SESSION_INTERVAL_TOO_SMALL);
            self.core.reply(id, response.with(Name::MinSe, min_se_s.to_string()), now);
            return Step::Answered;
        }
        Step::On(to)
    }

    fn park(&mut self, id: TransactionId, parked: Parked) {
        self.parked.insert(id, parked);
    }

    /// An extension was looked up: those who waited go on.
    pub fn account_found(&mut self, user: String, found: Result<Option<Arc<Extension>>, String>, now: Instant) {
        match found {
            Ok(account) => {
                for id in self.accounts.found(&user, account, now) {
                    if let Some(parked) = self.parked.remove(&id) {
                        self.admit(id, parked, now);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "extension look-up failed");
                for id in self.accounts.take_waiting(&user) {
                    if let Some(parked) = self.parked.remove(&id) {
                        self.core.refuse(id, &parked.request, StatusCode::SERVICE_UNAVAILABLE, now);
                    }
                }
            }
        }
    }

    /// The caller gave up while its INVITE waited for a look-up.
    pub fn cancel_parked(&mut self, id: TransactionId, now: Instant) {
        if let Some(parked) = self.parked.remove(&id) {
            self.core.refuse(id, &parked.request, StatusCode::REQUEST_TERMINATED, now);
        }
    }

    /// A REGISTER was carried out, or refused by the registrar.
    pub fn registered(&mut self, id: TransactionId, response: Response, now: Instant) {
        self.registering -= 1;
        if response.status.is_success() {
            self.core.metrics.registrations.increment(1);
        }
        self.core.reply(id, response, now);
    }

    fn challenge<T>(&mut self, id: TransactionId, request: &Request, is_stale: bool, now: Instant) -> Step<T> {
        let mut response = Response::to(request, StatusCode::UNAUTHORIZED);
        let unix_s = self.core.clock.unix_s(now);
        self.core.admission.challenge(&mut response, is_stale, unix_s);
        self.core.reply(id, response, now);
        Step::Answered
    }

    fn refused<T>(&mut self, id: TransactionId, request: &Request, status: StatusCode, now: Instant) -> Step<T> {
        self.core.refuse(id, request, status, now);
        Step::Answered
    }

    /// REGISTER: the registrar asks the store in a task of its own.
    fn register(&mut self, id: TransactionId, parked: Parked, account: Arc<Extension>, now: Instant) {
        if self.registering >= self.core.options.lookups_max {
            self.core.metrics.lookups_refused.increment(1);
            return self.core.refuse(id, &parked.request, StatusCode::SERVICE_UNAVAILABLE, now);
        }
        self.registering += 1;
        let (store, inputs) = (self.core.store.clone(), self.core.inputs.clone());
        let (options, instance) = (self.core.options.clone(), self.core.instance.clone());
        tokio::spawn(async move {
            let Parked { request, flow, .. } = parked;
            let response = registrar::register(&store, &options, &instance, &account, &request, flow).await;
            // The actor may be gone, at shutdown; then nobody needs to know.
            let _ = inputs.send(Input::Registered { id, response: Box::new(response) });
        });
    }
}
