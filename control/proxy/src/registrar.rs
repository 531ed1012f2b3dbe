//! The registrar: REGISTER after RFC 3261 section 10.3, Path after RFC 3327.
//!
//! [`plan`] decides, purely, what a REGISTER changes; the store applies it whole or not at all and refuses what is out of
//! order. The source address is kept as the way to the phone, so that one behind NAT is reached through the hole it made.
//! Authentication, and that the account is the one in To, was settled by [`admission`](crate::admission).

use nebula_bus::contract::InstanceId;
use nebula_sip::message::{Contacts, HeaderError, Name, NameAddr, date};
use nebula_sip::{Flow, Request, Response, StatusCode, Uri};
use nebula_store::extensions::Extension;
use nebula_store::locations::{self, Applied, Binding, Changes};
use nebula_store::{Store, steady_unix_ms};
use thiserror::Error;

use crate::options::Options;

/// What is kept of a User-Agent, bytes.
const USER_AGENT_BYTES_MAX: usize = 256;
/// The preference of a contact that names none (RFC 3261 section 20.10).
const Q_THOUSANDTHS_DEFAULT: u16 = 1000;

/// Why a REGISTER changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    /// A header that cannot be read.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// `*` needs `Expires: 0` (section 10.2.2).
    #[error("'*' without Expires: 0")]
    StarNeedsExpiresZero,
    /// A contact that we could never call.
    #[error("Contact is no sip URI")]
    ContactScheme,
    /// Shorter than we allow: 423.
    #[error("registration shorter than {min_s} s")]
    TooBrief {
        /// What is allowed, seconds.
        min_s: u32,
    },
    /// More contacts than an extension may have: 403.
    #[error("more than {max} contacts")]
    TooMany {
        /// How many it may have.
        max: usize,
    },
    /// A later REGISTER of the same Call-ID was there before (section 10.3 step 7).
    /// Its text names no header: peers that search a message for "CSeq" would find it in the reason phrase.
    #[error("out of order")]
    OutOfOrder,
    /// The store did not answer: 503.
    #[error("location store unavailable")]
    Store,
}

/// What the plan needs to know beside the request.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The limits.
    pub options: &'a Options,
    /// This proxy.
    pub instance: &'a InstanceId,
    /// How the request came.
    pub flow: Flow,
    /// Now, by the steady clock.
    pub now_unix_ms: i64,
}

/// Answers an authenticated REGISTER of an account. The response lacks only its To tag.
pub async fn register(
    store: &Store,
    options: &Options,
    instance: &InstanceId,
    account: &Extension,
    request: &Request,
    flow: Flow,
) -> Response {
    let context = Context { options, instance, flow, now_unix_ms: steady_unix_ms() };
    match change(store, &account.user, request, context).await {
        Ok(bindings) => accepted(request, &bindings, context.now_unix_ms),
        Err(rejection) => rejected(request, &rejection, options),
    }
}

async fn change(store: &Store, user: &str, request: &Request, context: Context<'_>) -> Result<Vec<Binding>, Rejection> {
    let failed = |error: nebula_store::Error| {
        tracing::warn!(user, %error, "location store");
        Rejection::Store
    };
    let current = locations::live(store, user, context.now_unix_ms).await.map_err(failed)?;
    let Some(changes) = plan(&current, request, context)? else { return Ok(current) };
    match locations::apply(store, user, changes, context.now_unix_ms).await.map_err(failed)? {
        Applied::Done(bindings) => Ok(bindings),
        Applied::Stale => Err(Rejection::OutOfOrder),
    }
}

/// What a REGISTER changes, given the bindings of its address of record; none if it only asks for them.
pub fn plan(current: &[Binding], request: &Request, context: Context<'_>) -> Result<Option<Changes>, Rejection> {
    let headers = &request.headers;
    let expires = headers.expires()?;
    let mut changes =
        Changes { call_id: headers.call_id()?.to_owned(), cseq: headers.cseq()?.number, ..Changes::default() };
    let contacts = match headers.contacts()? {
        Contacts::Star if expires == Some(0) => {
            changes.remove_all = true;
            return Ok(Some(changes));
        }
        Contacts::Star => return Err(Rejection::StarNeedsExpiresZero),
        Contacts::List(contacts) if contacts.is_empty() => return Ok(None),
        Contacts::List(contacts) => contacts,
    };
    for contact in &contacts {
        if contact.uri.as_sip().is_none() {
            return Err(Rejection::ContactScheme);
        }
        let lifetime_s = lifetime_s(contact, expires, context.options)?;
        // The same contact twice in one request: the later counts.
        changes.set.retain(|set| !is_same(&set.contact, &contact.uri));
        let known = current.iter().filter(|binding| is_same(&binding.contact, &contact.uri));
        let text = contact.uri.to_string();
        if lifetime_s == 0 {
            changes.remove.extend(known.map(|binding| binding.contact.clone()));
        } else {
            // One that is equivalent but spelled otherwise gives way to the new spelling.
            changes.remove.extend(known.filter(|binding| binding.contact != text).map(|b| b.contact.clone()));
            changes.set.push(binding(contact, text, lifetime_s, request, context)?);
        }
    }
    let max = context.options.bindings_max as usize;
    if changes.set.len() + current.iter().filter(|binding| !is_touched(binding, &changes)).count() > max {
        return Err(Rejection::TooMany { max });
    }
    Ok(Some(changes))
}

fn is_touched(binding: &Binding, changes: &Changes) -> bool {
    changes.remove.contains(&binding.contact) || changes.set.iter().any(|set| set.contact == binding.contact)
}

/// Contacts are compared as URIs (section 10.3 step 7, 19.1.4).
fn is_same(stored: &str, uri: &Uri) -> bool {
    stored.parse::<Uri>().is_ok_and(|stored| stored.is_equivalent(uri))
}

/// The contact's own wish, else the request's, else ours; 0 takes the binding away.
fn lifetime_s(contact: &NameAddr, expires: Option<u32>, options: &Options) -> Result<u32, Rejection> {
    // A malformed wish counts as none (section 10.3 step 6).
    let wish = contact.params.get("expires").and_then(digits).or(expires);
    match wish.unwrap_or(options.register_expires_default_s) {
        0 => Ok(0),
        wish if wish < options.register_expires_min_s => {
            Err(Rejection::TooBrief { min_s: options.register_expires_min_s })
        }
        wish => Ok(wish.min(options.register_expires_max_s)),
    }
}

/// A number of seconds; one that is too large is the largest.
fn digits(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u32::MAX))
}

fn binding(
    contact: &NameAddr,
    text: String,
    lifetime_s: u32,
    request: &Request,
    context: Context<'_>,
) -> Result<Binding, Rejection> {
    let headers = &request.headers;
    let user_agent = headers.get(Name::UserAgent).unwrap_or_default();
    Ok(Binding {
        contact: text,
        call_id: headers.call_id()?.to_owned(),
        cseq: headers.cseq()?.number,
        expires_unix_ms: context.now_unix_ms + i64::from(lifetime_s) * 1000,
        transport: context.flow.protocol.uri_name().to_owned(),
        address: context.flow.remote.to_string(),
        path: headers.paths()?.iter().map(ToString::to_string).collect(),
        user_agent: user_agent[..user_agent.floor_char_boundary(USER_AGENT_BYTES_MAX)].to_owned(),
        q_thousandths: contact.params.get("q").and_then(q_thousandths).unwrap_or(Q_THOUSANDTHS_DEFAULT),
        proxy: context.instance.as_str().to_owned(),
    })
}

/// `qvalue` of RFC 3261 section 25.1: 0 to 1 with at most three decimals.
fn q_thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let decimals: u16 = format!("{decimals:0<3}").parse().ok()?;
    let whole: u16 = whole.parse().ok().filter(|whole| *whole <= 1)?;
    Some(whole * 1000 + decimals).filter(|q| *q <= 1000)
}

/// 200 with all bindings and what is left of them (section 10.3 step 8).
fn accepted(request: &Request, bindings: &[Binding], now_unix_ms: i64) -> Response {
    let mut response = Response::to(request, StatusCode::OK);
    for binding in bindings {
        let left_ms = (binding.expires_unix_ms - now_unix_ms).max(0);
        let mut contact = format!("<{}>;expires={}", binding.contact, (left_ms + 999) / 1000);
        if binding.q_thousandths != Q_THOUSANDTHS_DEFAULT {
            contact.push_str(&format!(";q=0.{:03}", binding.q_thousandths));
        }
        response.headers.push(Name::Contact, contact);
    }
    // RFC 3327 section 5.3: the phone learns which proxies stand between.
    for path in request.headers.get_all(Name::Path) {
        response.headers.push(Name::Path, path);
    }
    response.headers.push(Name::Date, date::format(u64::try_from(nebula_store::now_unix_ms() / 1000).unwrap_or(0)));
    response
}

fn rejected(request: &Request, rejection: &Rejection, options: &Options) -> Response {
    match rejection {
        Rejection::TooBrief { min_s } => {
            Response::to(request, StatusCode::INTERVAL_TOO_BRIEF).with(Name::MinExpires, min_s.to_string())
        }
        Rejection::TooMany { .. } => {
            Response::to(request, StatusCode::FORBIDDEN).with_reason(format!("Forbidden ({rejection})"))
        }
        Rejection::Store => Response::to(request, StatusCode::SERVICE_UNAVAILABLE)
            .with(Name::RetryAfter, options.retry_after_s.to_string()),
        Rejection::Header(_) | Rejection::StarNeedsExpiresZero | Rejection::ContactScheme | Rejection::OutOfOrder => {
            Response::to(request, StatusCode::BAD_REQUEST).with_reason(format!("Bad Request ({rejection})"))
        }
    }
}

#[cfg(test)]
#[path = "registrar_tests.rs"]
mod tests;
