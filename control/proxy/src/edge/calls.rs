//! Opening legs: an INVITE that passed the gate, and `channel.dial`.
//!
//! RFC 3261 12.1, 13.2.1, RFC 3262 (100rel), 3327 (Path), 4028 (session timer).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use nebula_bus::contract::to_proxy::{ChannelDial, Dial};
use nebula_bus::contract::to_switchboard::Invite;
use nebula_bus::contract::{self, Accepted, ChannelId, Party};
use nebula_bus::{Call, Error};
use nebula_sip::dialog::{Dialog, Forks};
use nebula_sip::message::{ByteStr, Host};
use nebula_sip::transaction::TransactionId;
use nebula_sip::{Flow, Method, Name, NameAddr, Protocol, Request, StatusCode, Uri, reliable};
use nebula_store::extensions::{Extension, Srtp};

use super::core::Owner;
use super::gate::{Callee, Parked};
use super::leg::{Leg, Open, Side, Uac};
use super::outbox::{Message, Outbox};
use super::{Edge, Input};
use crate::channel::{Channel, Sent};

/// Max-Forwards of a request that came without one (RFC 3261 16.6 step 3).
const MAX_FORWARDS: u8 = 70;
/// Business error: the destination cannot be called.
const UNREACHABLE: &str = "unreachable";
/// Display names are cut to this many characters.
const DISPLAY_CHARS_MAX: usize = 128;

impl Edge {
    /// A phone calls, and everything about it is in order: a leg, and the switchboard is asked.
    pub fn open_incoming(&mut self, id: TransactionId, parked: Parked, caller: &Extension, to: Callee, now: Instant) {
        let Parked { request, flow, .. } = parked;
        let local_tag = self.core.tokens.token();
        let dialog = match Dialog::uas(&request, &local_tag, self.core.contact(&flow)) {
            Ok(dialog) => dialog,
            Err(_) => return self.core.refuse(id, &request, StatusCode::BAD_REQUEST, now),
        };
        let Ok(sdp) = sdp_of(&request.body) else {
            return self.core.refuse(id, &request, StatusCode::BAD_REQUEST, now);
        };
        let channel_id = ChannelId(ulid::Ulid::new().to_string());
        let timing = self.core.options.timing();
        let cseq = request.headers.cseq().map_or(0, |cseq| cseq.number);
        let sender = request
            .headers
            .lists(Name::Require, reliable::OPTION_TAG)
            .then(|| reliable::Sender::new(timing.base, cseq, self.core.tokens.below(reliable::RSEQ_FIRST_BOUND)));
        let mut channel = Channel::incoming(channel_id.clone(), sdp.is_some(), sender, timing, now);
        channel.peer_takes_update(request.headers.lists(Name::Allow, "UPDATE"));
        let sip_call_id = dialog.id().call_id.clone();
        let invite = Invite {
            channel_id: channel_id.clone(),
            proxy: self.core.instance.clone(),
            sip_call_id: sip_call_id.to_string(),
            customer_id: caller.customer_id.clone(),
            from: party(caller, &request),
            to: to.user,
            source: flow.remote.to_string(),
            sdp,
            max_forwards: request.headers.max_forwards().ok().flatten().unwrap_or(MAX_FORWARDS).saturating_sub(1),
            from_srtp: caller.srtp.map(setting),
            to_srtp: to.srtp.map(setting),
        };
        tracing::debug!(%channel_id, %sip_call_id, from = %invite.from.user, to = %invite.to, "leg opened");
        let outbox = Outbox::new(channel_id, None);
        let key = self.legs.insert(|key| {
            let mut leg = Leg::new(key, channel, local_tag, sip_call_id, flow, Side::Uas(Box::new(dialog)), outbox);
            leg.open = Some(Open { id, request });
            leg.outbox.queue(Message::Invite(Arc::new(invite)), &self.core);
            leg
        });
        self.core.owners.insert(id, Owner::Server(key));
        // Its snapshot is on the way before the switchboard is asked.
        self.settle(key, now);
        if let Some(leg) = self.legs.get_mut(key) {
            leg.outbox.wake(key, &self.core, now);
        }
    }

    /// `channel.dial`: finds the way to the phone, asking DNS if the URI names a host.
    pub fn dial(&mut self, dial: Dial, call: Call<ChannelDial>, now: Instant) {
        if let Some(leg) = self.legs.by_channel(&dial.channel_id).and_then(|key| self.legs.get_mut(key)) {
            // Delivered twice: it was taken on.
            let admitted = leg.admit(call.context().fence);
            return call.reply(admitted.map(|()| Accepted {}));
        }
        if self.taken_up.contains(&dial.channel_id) {
            // The last process dialled it, and its end was reported.
            return call.reply(Ok(Accepted {}));
        }
        if self.legs.len() >= self.core.options.channels_max as usize {
            return call.reply(Err(Error::transient("busy", "too many channels")));
        }
        let Ok(uri) = dial.destination.uri.parse::<Uri>() else {
            return call.reply(Err(Error::business(UNREACHABLE, format!("no URI: {}", dial.destination.uri))));
        };
        let Some(protocol) = Protocol::from_name(&dial.destination.transport) else {
            let why = format!("no transport {:?}", dial.destination.transport);
            return call.reply(Err(Error::business(UNREACHABLE, why)));
        };
        if let Ok(source) = dial.destination.address.parse() {
            let is_connected = protocol.is_reliable() && self.core.transports.is_connected(source);
            let address = if dial.destination.path.is_empty() && !is_connected { aim(&uri, source) } else { source };
            return self.resolved(dial, protocol, Some(address), call, now);
        }
        let Some((host, port)) = uri.host().map(|host| (host.clone(), uri.port().unwrap_or(5060))) else {
            return call.reply(Err(Error::business(UNREACHABLE, format!("no host in {uri}"))));
        };
        if let Some(ip) = host.ip() {
            return self.resolved(dial, protocol, Some(SocketAddr::new(ip, port)), call, now);
        }
        let inputs = self.core.inputs.clone();
        tokio::spawn(async move {
            let found = tokio::net::lookup_host((host.as_str(), port)).await;
            let address = found.ok().and_then(|mut addresses| addresses.next());
            // The actor may be gone, at shutdown; the request is then answered by being dropped.
            let _ = inputs.send(Input::Resolved { dial: Box::new(dial), protocol, address, call });
        });
    }

    /// The phone's address is known: sends the INVITE.
    pub fn resolved(
        &mut self,
        dial: Dial,
        protocol: Protocol,
        address: Option<SocketAddr>,
        call: Call<ChannelDial>,
        now: Instant,
    ) {
        let flow = address
            .ok_or_else(|| "host not found".to_owned())
            .and_then(|address| self.core.transports.open(protocol, address).map_err(|error| error.to_string()));
        let flow = match flow {
            Ok(flow) => flow,
            Err(why) => return call.reply(Err(Error::business(UNREACHABLE, why))),
        };
        let fence = call.context().fence.unwrap_or(0);
        call.reply(self.open_outgoing(dial, flow, fence, now).map(|()| Accepted {}));
    }

    fn open_outgoing(&mut self, dial: Dial, flow: Flow, fence: u64, now: Instant) -> Result<(), Error> {
        let local_tag = self.core.tokens.token();
        let invite = self.invite(&dial, &flow, &local_tag)?;
        let sip_call_id: ByteStr = invite.headers.call_id().unwrap_or_default().into();
        let channel = Channel::outgoing(dial.channel_id.clone(), dial.sdp.clone(), self.core.options.timing(), now);
        let sent = self.core.layer.request(now, invite.clone(), flow);
        let id = sent.map_err(|error| Error::transient("busy", error.to_string()))?;
        tracing::debug!(call_id = %dial.call_id, channel_id = %dial.channel_id, %sip_call_id, to = %dial.to.user, %flow,
            "leg dialled");
        let outbox = Outbox::new(dial.channel_id, Some((dial.switchboard, dial.call_id)));
        let forks = Forks::new(invite.clone());
        let uac = Uac {
            invite: Some(id),
            request: Some(invite),
            forks: Some(forks),
            fork: None,
            dialog: None,
            raised: false,
        };
        let key = self.legs.insert(|key| Leg {
            fence,
            ..Leg::new(key, channel, local_tag, sip_call_id, flow, Side::Uac(Box::new(uac)), outbox)
        });
        if let Some(leg) = self.legs.get_mut(key) {
            leg.note_sent(Sent::Invite, id, &mut self.core);
        }
        self.settle(key, now);
        Ok(())
    }

    fn invite(&mut self, dial: &Dial, flow: &Flow, local_tag: &str) -> Result<Request, Error> {
        let bad = |why: String| Error::business(UNREACHABLE, why);
        let uri: Uri = dial.destination.uri.parse().map_err(|_| bad("no URI".to_owned()))?;
        let ours = self.core.advertised(flow);
        let address = |party: &Party| {
            let uri = Uri::sip(
                Some(&party.user).filter(|user| !user.is_empty()).map(String::as_str),
                Host::from(ours.ip()),
                None,
            );
            NameAddr::new(uri).with_display(party.display.as_deref().unwrap_or(""))
        };
        let mut invite = Request::new(Method::Invite, uri);
        for path in &dial.destination.path {
            invite.headers.push(Name::Route, path.as_str());
        }
        let mut invite = invite
            .with(Name::MaxForwards, dial.max_forwards.to_string())
            .with(Name::From, address(&dial.from).with_tag(local_tag).to_string())
            .with(Name::To, address(&dial.to).to_string())
            // So that a record, which knows the leg, names the Call-ID too. The switchboard's ids cannot be guessed.
            .with(Name::CallId, dial.channel_id.as_str())
            .with(Name::CSeq, "1 INVITE")
            .with(Name::Contact, self.core.contact(flow).to_string())
            .with(Name::UserAgent, self.core.product());
        super::leg::put_session(&mut invite, dial.sdp.is_some(), None, &self.core);
        Ok(super::leg::with_sdp(invite, dial.sdp.clone()))
    }
}

/// Where a phone is called that registered from `source` and has no connection open. One that names the address it came
/// from stands before no NAT, and may well listen on another port than it sends from; any other is reached through the
/// hole its REGISTER made.
fn aim(uri: &Uri, source: SocketAddr) -> SocketAddr {
    let named = uri.host().and_then(Host::ip);
    if named == Some(source.ip()) { SocketAddr::new(source.ip(), uri.port().unwrap_or(5060)) } else { source }
}

/// The caller as others see it: the account, with the name its phone shows or else the account's.
fn party(account: &Extension, request: &Request) -> Party {
    let shown = request.headers.from().ok().and_then(|from| from.display_name().map(|name| name.into_owned()));
    let shown = shown.map(|name| name.trim().chars().take(DISPLAY_CHARS_MAX).collect::<String>());
    let display = shown.filter(|name| !name.is_empty()).unwrap_or_else(|| account.display_name.clone());
    Party { user: account.user.clone(), display: Some(display).filter(|name| !name.is_empty()) }
}

/// An extension's setting, as it is told.
fn setting(srtp: Srtp) -> contract::Srtp {
    match srtp {
        Srtp::Off => contract::Srtp::Off,
        Srtp::Optional => contract::Srtp::Optional,
        Srtp::Required => contract::Srtp::Required,
    }
}

/// A body as SDP text; none if it is empty.
pub fn sdp_of(body: &bytes::Bytes) -> Result<Option<String>, std::str::Utf8Error> {
    if body.is_empty() { Ok(None) } else { std::str::from_utf8(body).map(|sdp| Some(sdp.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phone_before_a_nat_is_called_at_its_contact_and_one_behind_it_at_its_source() {
        for (uri, source, expected) in [
            ("sip:a@192.0.2.1:5070", "192.0.2.1:40000", "192.0.2.1:5070"),
            ("sip:a@192.0.2.1", "192.0.2.1:40000", "192.0.2.1:5060"),
            ("sip:a@10.0.0.9:5060", "192.0.2.1:40000", "192.0.2.1:40000"),
            ("sip:a@phone.local:5060", "192.0.2.1:40000", "192.0.2.1:40000"),
            ("sip:a@[2001:db8::1]:5070", "[2001:db8::1]:40000", "[2001:db8::1]:5070"),
        ] {
            let uri: Uri = uri.parse().expect("a URI");
            assert_eq!(aim(&uri, source.parse().expect("an address")).to_string(), expected, "{uri}");
        }
    }
}
