//! The called phone: rings, answers, talks until BYE.

use super::endpoint::{Call, Endpoint};
use super::message::{contact, cseq, media_address, response, sdp};
use super::{Failure, T1, T2, TRANSACTION_TIMEOUT};
use crate::id::random_id;
use crate::media::{Heard, Media};
use crate::srtp::{Exchange, Step, Suite};
use rsip::headers::UntypedHeader;
use rsip::prelude::HeadersExt;
use rsip::{Method, Request, SipMessage};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The longest call that is waited for.
const CALL_MAX: Duration = Duration::from_secs(3600);

/// A call that was answered and ended.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Our origin in RTP.
    pub origin: u32,
    /// What we heard.
    pub heard: Heard,
}

/// Takes one call: rings for a while, then answers, under `suite` if there is one.
pub async fn take(
    endpoint: &Arc<Endpoint>,
    media: &Media,
    invite: Request,
    suite: Option<Suite>,
    origin: u32,
    ring: Duration,
) -> Result<Taken, Failure> {
    let call_id = invite.call_id_header().map_err(|_| Failure::Malformed("no Call-ID"))?.value().to_owned();
    let mut call = endpoint.call(&call_id);
    let (tag, contact) = (random_id(), contact("callee", endpoint.local));
    let reply = |request: &Request, code: u16, body: &str| {
        SipMessage::from(response(request, code, &tag, Some(contact.clone()), body))
    };
    let caller = media_address(&invite.body)?;
    let mut keys = Exchange::new(suite);
    let agreed = keys.hear(&invite.body, Step::Offer).and_then(|_| keys.secure());
    let secure = match agreed {
        Ok(secure) => secure,
        Err(e) => {
            call.send(reply(&invite, 488, "")).await?;
            return Err(e);
        }
    };
    let mut session = media.open(origin)?;
    if !ring.is_zero() {
        call.send(reply(&invite, 180, "")).await?;
        let until = Instant::now() + ring;
        while let Some(message) = call.next(until).await {
            if let SipMessage::Request(request) = message
                && request.method == Method::Cancel
            {
                call.send(reply(&request, 200, "")).await?;
                call.send(reply(&invite, 487, "")).await?;
                return Err(Failure::EndedEarly);
            }
        }
    }
    let description = sdp(session.local, &keys.terms());
    let answer = reply(&invite, 200, &description);
    acknowledged(&mut call, &answer, cseq(&invite).map(|(number, _)| number)).await?;
    session.start(caller, secure)?;

    let until = Instant::now() + CALL_MAX;
    loop {
        match call.next(until).await {
            Some(SipMessage::Request(request)) => match request.method {
                Method::Bye => {
                    let heard = session.stop().await;
                    call.send(reply(&request, 200, "")).await?;
                    return Ok(Taken { origin, heard });
                }
                Method::Ack => {}
                // A refresh of the session keeps everything as it is.
                Method::Invite => call.send(reply(&request, 200, &description)).await?,
                _ => call.send(reply(&request, 200, "")).await?,
            },
            Some(SipMessage::Response(_)) => {}
            None => return Err(Failure::Timeout),
        }
    }
}

/// Sends the 200 until its ACK comes (RFC 3261 section 13.3.1.4).
async fn acknowledged(call: &mut Call, answer: &SipMessage, number: Option<u32>) -> Result<(), Failure> {
    let (mut wait, end) = (T1, Instant::now() + TRANSACTION_TIMEOUT);
    while Instant::now() < end {
        call.send(answer.clone()).await?;
        let again = Instant::now() + wait;
        while let Some(message) = call.next(again).await {
            if let SipMessage::Request(request) = message
                && request.method == Method::Ack
                && cseq(&request).map(|(n, _)| n) == number
            {
                return Ok(());
            }
        }
        wait = (wait * 2).min(T2);
    }
    Err(Failure::Timeout)
}
