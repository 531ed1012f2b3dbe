//! The calling phone: INVITE with the challenge answered, talk, BYE.

use super::Failure;
use super::endpoint::{Call, Endpoint};
use super::message::{Account, Side, authorization, contact_uri, media_address, response, sdp, to};
use crate::id::random_id;
use crate::media::{Heard, Media};
use crate::srtp::{Exchange, Step, Suite};
use rsip::{Method, Request, SipMessage};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After the last packet was sent, how long it may still be under way before BYE.
const LINGER: Duration = Duration::from_millis(150);

/// A call that came about.
#[derive(Debug, Clone)]
pub struct Placed {
    /// From the first INVITE to its 200, the challenge included.
    pub setup: Duration,
    /// Our origin in RTP.
    pub origin: u32,
    /// What we heard.
    pub heard: Heard,
}

/// Places one call and talks for a while, under `suite` if there is one.
pub async fn place(
    endpoint: &Arc<Endpoint>,
    media: &Media,
    account: &Account,
    suite: Option<Suite>,
    number: &str,
    origin: u32,
    talk: Duration,
) -> Result<Placed, Failure> {
    let mut session = media.open(origin)?;
    let call_id = random_id();
    let mut call = endpoint.call(&call_id);
    let target = format!("sip:{number}@{}", account.server);
    let mut side = Side {
        local: endpoint.local,
        target: target.clone(),
        from: format!("<{}>;tag={}", account.address(), random_id()),
        to: format!("<{target}>"),
        call_id,
        user: account.user.clone(),
        cseq: 0,
    };
    let mut keys = Exchange::new(suite);
    let offer = sdp(session.local, &keys.terms());
    let start = Instant::now();
    let mut credentials = Vec::new();
    let answer = loop {
        let branch = random_id();
        let request = side.request(Method::Invite, &branch, credentials.clone(), &offer)?;
        let answer = call.transact(request).await?;
        let code = answer.status_code.code();
        if (200..300).contains(&code) {
            break answer;
        }
        // The ACK of a refusal belongs to its transaction: same branch, the refusal's To (RFC 3261 section 17.1.1.3).
        let mut refused = Side { to: to(&answer)?, ..side.clone() };
        call.send(refused.request(Method::Ack, &branch, Vec::new(), "")?.into()).await?;
        if code != 401 || !credentials.is_empty() {
            return Err(Failure::Refused(code));
        }
        credentials = vec![authorization(account, &answer, &Method::Invite, &target, &random_id())?];
    };
    let setup = start.elapsed();
    side.to = to(&answer)?;
    side.target = contact_uri(&answer)?;
    let acknowledge = side.request(Method::Ack, &random_id(), Vec::new(), "")?;
    call.send(acknowledge.clone().into()).await?;
    let agreed = keys.hear(&answer.body, Step::Answer).and_then(|_| keys.secure());
    let secure = match agreed {
        Ok(secure) => secure,
        Err(e) => {
            let bye = side.request(Method::Bye, &random_id(), Vec::new(), "")?;
            call.transact(bye).await?;
            return Err(e);
        }
    };
    session.start(media_address(&answer.body)?, secure)?;

    let talked = listen(&mut call, Instant::now() + talk, &acknowledge).await;
    session.hush();
    if talked.is_err() {
        session.stop().await;
        return Err(Failure::EndedEarly);
    }
    // An early end in these last moments shows as a 481 to our BYE.
    listen(&mut call, Instant::now() + LINGER, &acknowledge).await.ok();
    let bye = side.request(Method::Bye, &random_id(), Vec::new(), "")?;
    let ended = call.transact(bye).await;
    let heard = session.stop().await;
    match ended?.status_code.code() {
        200 => Ok(Placed { setup, origin, heard }),
        code => Err(Failure::Refused(code)),
    }
}

/// Serves the dialog until the deadline: a repeated 200 gets its ACK again, a BYE ends the call.
async fn listen(call: &mut Call, until: Instant, acknowledge: &Request) -> Result<(), Failure> {
    while let Some(message) = call.next(until).await {
        match message {
            SipMessage::Response(r) if r.status_code.code() == 200 => call.send(acknowledge.clone().into()).await?,
            SipMessage::Response(_) => {}
            SipMessage::Request(request) => {
                call.send(response(&request, 200, "", None, "").into()).await?;
                if request.method == Method::Bye {
                    return Err(Failure::EndedEarly);
                }
            }
        }
    }
    Ok(())
}
