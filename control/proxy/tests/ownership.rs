//! Who owns a leg: fences, adoption by another switchboard, and legs that nobody owns any more.

mod common;

use std::time::{Duration, Instant};

use common::*;
use nebula_bus::contract::to_proxy as ask;
use nebula_bus::contract::to_switchboard as tell;
use nebula_bus::contract::{Accepted, Cause, CauseKind, ChannelId, InstanceId, Method as _};
use nebula_bus::{Context, Error, Target};
use nebula_proxy::Options;
use nebula_sip::{Method, Request, Response};

/// What a loaded machine may add between two lines; the pauses between attempts are longer.
const SLACK: Duration = Duration::from_millis(40);

fn invited() -> tell::Invited {
    tell::Invited { call_id: "call-1".into(), switchboard: Switchboard::id() }
}

fn normal() -> Cause {
    Cause { sip_code: 200, kind: CauseKind::Normal, text: String::new() }
}

async fn talking(rig: &mut Rig, phone: &mut Phone) -> (Request, Response, ChannelId) {
    let invite = phone.new_request(Method::Invite, "1001", "call-a@test", 1).with_body("application/sdp", OFFER);
    let invite = phone.send_authorized(invite).await;
    let asked = rig.switchboard.expect::<tell::ChannelInvite>(invited()).await;
    let params = ask::Answer { channel_id: asked.channel_id.clone(), sdp: Some(ANSWER.into()) };
    rig.ask::<ask::ChannelAnswer>(params).await.expect("answered");
    let ok = phone.response(200).await;
    let ack = phone.in_dialog(Method::Ack, &invite, &ok, 2);
    phone.send(ack.to_bytes()).await;
    let options = phone.in_dialog(Method::Options, &invite, &ok, 3);
    phone.send(options.to_bytes()).await;
    phone.response(200).await;
    (invite, ok, asked.channel_id)
}

fn adopt(switchboard: &str, fence: u64, channels: &[&ChannelId]) -> ask::Adopt {
    let channels = channels.iter().map(|id| ((*id).clone(), "call-1".into())).collect();
    ask::Adopt { switchboard: InstanceId::from(switchboard), fence, channels }
}

#[tokio::test]
async fn another_switchboard_takes_a_leg_over_with_what_was_not_told() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (invite, ok, channel_id) = talking(&mut rig, &mut phone).await;
    let mut heir = Switchboard::on(&rig.bus, "switchboard-b");
    // The owner takes a report and dies with it.
    let info = phone.in_dialog(Method::Info, &invite, &ok, 4).with_body("application/dtmf-relay", "Signal=5\r\n");
    phone.send(info.to_bytes()).await;
    phone.response(200).await;
    let unanswered = rig.switchboard.swallow::<tell::ChannelDtmf>().await;

    let unknown = ChannelId::from("nobody");
    let adopted = rig.ask::<ask::ChannelAdopt>(adopt("switchboard-b", 7, &[&channel_id, &unknown])).await.unwrap();
    assert_eq!(adopted.channels, [(channel_id.clone(), ask::Phase::Answered), (unknown, ask::Phase::Gone)]);
    assert_eq!(heir.expect::<tell::ChannelDtmf>(Accepted {}).await.digit, '5');
    drop(unanswered);

    // The old owner is refused, whatever it asks; nobody without a fence is.
    let target = Target::Instance(rig.edge.instance().clone());
    let context = |fence| Context::new(PATIENCE).fence(fence);
    let hangup = tell::Ended { channel_id: channel_id.clone(), cause: normal() };
    let refused = rig.bus.call::<ask::ChannelHangup>(&target, hangup.clone(), &context(6)).await;
    assert!(refused.unwrap_err().is("fenced"), "{}", ask::ChannelHangup::NAME);
    let refused = rig.ask::<ask::ChannelAdopt>(adopt("switchboard-test", 6, &[&channel_id])).await;
    assert!(refused.unwrap_err().is("fenced"));

    // A fence outlives the edge.
    let rig = rig.restart().await;
    let target = Target::Instance(rig.edge.instance().clone());
    let refused = rig.bus.call::<ask::ChannelHangup>(&target, hangup.clone(), &context(6)).await;
    assert!(refused.unwrap_err().is("fenced"));
    rig.bus.call::<ask::ChannelHangup>(&target, hangup, &context(7)).await.expect("the owner's word");
    phone.request(Method::Bye).await;
}

#[tokio::test]
async fn what_the_phone_does_while_the_owner_is_away_is_told_when_it_is_back() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (invite, ok, channel_id) = talking(&mut rig, &mut phone).await;
    drop(rig.switchboard);
    let bye = phone.in_dialog(Method::Bye, &invite, &ok, 20);
    phone.send(bye.to_bytes()).await;
    phone.response(200).await;
    rig.switchboard = Switchboard::on(&rig.bus, Switchboard::id().as_str());
    let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    assert_eq!(ended.channel_id, channel_id);
    rig.edge.drain();
    soon("the leg's end", rig.edge.drained()).await;
}

#[tokio::test]
async fn an_end_that_cannot_be_told_says_each_time_how_long_ago_it_was() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (invite, ok, _) = talking(&mut rig, &mut phone).await;
    let sent_at = Instant::now();
    let bye = phone.in_dialog(Method::Bye, &invite, &ok, 20);
    phone.send(bye.to_bytes()).await;
    phone.response(200).await;
    let answered_at = Instant::now();
    let mut ages = Vec::new();
    for round in 0..5 {
        // A restart of the edge is no excuse.
        if round == 3 {
            rig = rig.restart().await;
        }
        let (told, call) = rig.switchboard.swallow::<tell::ChannelHangup>().await;
        let ended_at = Instant::now() - Duration::from_millis(told.age_ms) - call.under_way();
        call.reply(Err(Error::transient("away", "")));
        assert!(ended_at + SLACK >= sent_at && ended_at <= answered_at + SLACK, "told {told:?} in round {round}");
        ages.push(told.age_ms);
    }
    assert!(ages.is_sorted() && ages[4] >= ages[0] + 200, "{ages:?}");
}

#[tokio::test]
async fn a_leg_that_nobody_takes_over_is_ended() {
    let mut rig = Rig::with(Options { orphan_timeout_s: 1, ..Options::default() }).await;
    let mut phone = rig.phone("1000").await;
    talking(&mut rig, &mut phone).await;
    let began = Instant::now();
    drop(rig.switchboard);
    let bye = phone.request(Method::Bye).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "people talk for a while");
    phone.send(phone.answer(&bye, 200).to_bytes()).await;
    rig.edge.drain();
    soon("the leg's end", rig.edge.drained()).await;
}

#[tokio::test]
async fn a_call_that_its_switchboard_took_and_lost_is_refused() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let invite = phone.new_request(Method::Invite, "1001", "lost", 1).with_body("application/sdp", OFFER);
    phone.send_authorized(invite).await;
    rig.switchboard.expect::<tell::ChannelInvite>(invited()).await;
    // It is there, or one of its name, but says nothing more.
    let (asked, call) = rig.switchboard.swallow_late::<tell::CallGet>().await;
    assert_eq!(asked.call_id.as_str(), "call-1");
    call.reply(Err(Error::business("unknown_call", "no such call")));
    phone.response(503).await;
}

#[tokio::test]
async fn a_switchboard_that_does_not_answer_costs_a_caller_less_than_a_second() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let invite = phone.new_request(Method::Invite, "1001", "silent", 1).with_body("application/sdp", OFFER);
    let began = Instant::now();
    phone.send_authorized(invite).await;
    let unanswered = rig.switchboard.swallow::<tell::ChannelInvite>().await;
    // Others are refused at once as soon as that one waits for too long.
    let mut other = rig.phone("1001").await;
    let refusal = soon("a refusal at the door", async {
        for n in 0.. {
            let options = other.new_request(Method::Invite, "1000", &format!("late-{n}"), 1);
            other.send(options.to_bytes()).await;
            loop {
                match other.receive().await {
                    nebula_sip::Message::Response(response) if response.status.is_provisional() => {}
                    nebula_sip::Message::Response(response) if response.status.get() == 401 => {
                        let ack = other.ack_of_refusal(&options, &response);
                        other.send(ack.to_bytes()).await;
                        break;
                    }
                    nebula_sip::Message::Response(response) => return response,
                    nebula_sip::Message::Request(_) => panic!("a request"),
                }
            }
        }
        unreachable!("for ever")
    });
    let refusal = refusal.await;
    assert_eq!((refusal.status.get(), refusal.headers.retry_after().unwrap()), (503, Some(5)));
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(phone.response(503).await.headers.retry_after().unwrap(), Some(5));
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    drop(unanswered);
}

#[tokio::test]
async fn of_two_edges_one_drains_and_the_other_does_not() {
    let rig = Rig::new().await;
    let keep = nebula_bus::snapshots::Memory::default();
    let options = Options { port: 0, ..rig.options.clone() };
    let member = enter(&keep, "other").await;
    let other = nebula_proxy::start(options, rig.bus.clone(), rig.store.clone(), member).await.expect("an edge");
    let draining = |id: &InstanceId| {
        let all = rig.bus.instances(nebula_bus::contract::Role::Proxy);
        all.into_iter().find(|there| there.instance == *id).map(|there| there.draining)
    };
    assert_eq!((draining(rig.edge.instance()), draining(other.instance())), (Some(false), Some(false)));
    other.drain();
    soon("the drain", other.drained()).await;
    assert_eq!((draining(rig.edge.instance()), draining(other.instance())), (Some(false), Some(true)));
    let mut phone = Phone::udp("1000", other.local_addr()).await;
    let invite = phone.new_request(Method::Invite, "1001", "drained", 1).with_body("application/sdp", OFFER);
    phone.send(invite.to_bytes()).await;
    phone.response(503).await;
    let mut phone = rig.phone("1000").await;
    let invite = phone.new_request(Method::Invite, "1001", "welcome", 1).with_body("application/sdp", OFFER);
    phone.send(invite.to_bytes()).await;
    phone.response(401).await;
    other.stop().await;
    assert_eq!(draining(rig.edge.instance()), Some(false));
}
