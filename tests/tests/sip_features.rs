//! What RFC 3261 and its extensions promise, feature by feature, with SIPp on both sides of the whole system. Every call
//! is checked by its record, too.

use nebula_tests::sipp::{Phone, Transport};
use nebula_tests::system::System;
use serde_json::Value;
use std::time::Duration;

const RECORD_DEADLINE: Duration = Duration::from_secs(10);

/// A phone that rings and answers.
const ANSWERS: &str = "< INVITE
    > 180
    > 200 sdp
    < ACK";

/// The end of a call that its other side hangs up.
const HUNG_UP: &str = "< BYE
    > 200";

/// The end of a call that this side hangs up.
const HANGS_UP: &str = "> BYE
    < 200";

/// Lines one after the other.
fn lines(parts: &[&str]) -> String {
    parts.join("\n")
}

/// 1000 plays `caller` towards 1001, which plays `callee`; returns the one record.
fn call(system: &System, caller: &str, callee: &str) -> Value {
    let phone = Phone::scripted(system, "1001", callee).registered();
    let caller = Phone::scripted(system, "1000", caller).to("1001").start();
    caller.succeeds();
    phone.succeeds();
    only_cdr(system)
}

fn only_cdr(system: &System) -> Value {
    let cdrs = system.wait_for_cdrs(1, RECORD_DEADLINE);
    assert_eq!(cdrs.len(), 1, "one call, one record: {cdrs:#?}");
    cdrs.into_iter().next().expect("one")
}

#[track_caller]
fn ended(cdr: &Value, sip_code: i64, cause: &str, by: &str) {
    let told = (cdr["sip_code"].as_i64(), cdr["cause"].as_str(), cdr["ended_by"].as_str());
    assert_eq!(told, (Some(sip_code), Some(cause), Some(by)), "{cdr:#}");
}

/// Requests of 1000 that are no calls.
#[track_caller]
fn asks(system: &System, script: &str) {
    Phone::scripted(system, "1000", script).start().succeeds();
}

fn no_cdr(system: &System) {
    assert_eq!(system.wait_for_cdrs(0, RECORD_DEADLINE), Vec::<Value>::new());
}

#[test]
fn early_media_reaches_the_caller() {
    let system = System::start();
    let caller = lines(&["call sdp", "< 183 body~m=audio", "< 200", "> ACK", HANGS_UP]);
    let callee = lines(&["< INVITE", "> 183 sdp", "pause 100", "> 200 sdp", "< ACK", HUNG_UP]);
    ended(&call(&system, &caller, &callee), 200, "normal", "caller");
}

#[test]
fn a_caller_that_requires_100rel_gets_reliable_responses() {
    let system = System::start();
    let prack = "> PRACK | RAck: 1 2 INVITE";
    // The RSeq of ours is not known to SIPp's script before it comes: it is taken from the response.
    let caller = lines(&[
        "call sdp | Require: 100rel",
        "< 180 header~RSeq:[0-9]+ header~Require:100rel rseq",
        prack,
        "< 200",
        "< 200",
        "> ACK",
        HANGS_UP,
    ]);
    let caller = caller.replace("RAck: 1 2", "RAck: [$rseq] 2");
    let callee = lines(&["< INVITE", "> 180", "pause 200", "> 200 INVITE sdp", "< ACK", HUNG_UP]);
    ended(&call(&system, &caller, &callee), 200, "normal", "caller");
}

#[test]
fn a_callee_that_sends_reliably_gets_prack() {
    let system = System::start();
    let caller = lines(&["call sdp", "< 183 body~m=audio", "< 200", "> ACK", HANGS_UP]);
    let reliable = "> 183 sdp | Require: 100rel | RSeq: 7";
    let callee = lines(&[
        "< INVITE header~Supported:100rel",
        reliable,
        "< PRACK header~RAck:7.*INVITE",
        "> 200",
        "> 200 INVITE",
        "< ACK",
        HUNG_UP,
    ]);
    ended(&call(&system, &caller, &callee), 200, "normal", "caller");
}

#[test]
fn update_changes_a_call() {
    let system = System::start();
    let caller = lines(&[
        "call sdp",
        "< 180?",
        "< 200",
        "> ACK",
        "> UPDATE sdp dir=sendonly",
        "< 200 body~a=recvonly",
        HANGS_UP,
    ]);
    let callee = lines(&[ANSWERS, "< INVITE body~a=sendonly", "> 200 sdp dir=recvonly", "< ACK", HUNG_UP]);
    ended(&call(&system, &caller, &callee), 200, "normal", "caller");
}

#[test]
fn the_codec_changes_by_a_re_invite() {
    let system = System::start();
    let change = "> INVITE sdp=8,101";
    let answered = "< 200 body~m=audio.[0-9]+.RTP/AVP.8 body!~PCMU";
    let caller = lines(&["call sdp", "< 180?", "< 200", "> ACK", change, "< 100?", answered, "> ACK", HANGS_UP]);
    let callee = lines(&[ANSWERS, "< INVITE body~PCMA body!~PCMU", "> 200 sdp=8,101", "< ACK", HUNG_UP]);
    let cdr = call(&system, &caller, &callee);
    ended(&cdr, 200, "normal", "caller");
    assert!(cdr["legs"].as_array().expect("legs").iter().all(|leg| leg["stats"]["codec"] == "PCMA/8000"), "{cdr:#}");
}

#[test]
fn the_callee_changes_the_call_and_hangs_up() {
    let system = System::start();
    let caller = lines(&[
        "call sdp",
        "< 180?",
        "< 200",
        "> ACK",
        "< INVITE body~a=sendonly",
        "> 200 sdp dir=recvonly",
        "< ACK",
        HUNG_UP,
    ]);
    let callee = lines(&[
        ANSWERS,
        "pause 100",
        "> INVITE sdp dir=sendonly",
        "< 100?",
        "< 200 body~a=recvonly",
        "> ACK",
        HANGS_UP,
    ]);
    ended(&call(&system, &caller, &callee), 200, "normal", "callee");
}

#[test]
fn hold_in_all_its_forms_passes_through() {
    for (words, told) in [("dir=inactive", "a=inactive"), ("c=0.0.0.0", "a=inactive|a=sendonly|0.0.0.0")] {
        let system = System::start();
        let hold = format!("> INVITE sdp {words}");
        let held = "< 200 body~a=inactive|a=recvonly|0.0.0.0";
        let resume = ["> INVITE sdp", "< 100?", "< 200 body~a=sendrecv", "> ACK"].join("\n");
        let caller =
            lines(&["call sdp", "< 180?", "< 200", "> ACK", &hold, "< 100?", held, "> ACK", &resume, HANGS_UP]);
        let expect = format!("< INVITE body~{told}");
        let resumed = ["< INVITE body~a=sendrecv", "> 200 sdp", "< ACK"].join("\n");
        let callee = lines(&[ANSWERS, &expect, "> 200 sdp dir=inactive", "< ACK", &resumed, HUNG_UP]);
        ended(&call(&system, &caller, &callee), 200, "normal", "caller");
    }
}

#[test]
fn keys_pressed_reach_the_other_side_by_info() {
    let system = System::start();
    let caller = lines(&[
        "call sdp",
        "< 180?",
        "< 200",
        "> ACK",
        "> INFO dtmf=5",
        "< 200",
        "< INFO body~Signal=9",
        "> 200",
        HANGS_UP,
    ]);
    let callee = lines(&[
        ANSWERS,
        "< INFO body~Signal=5 header~Content-Type:application/dtmf-relay",
        "> 200",
        "> INFO dtmf=9",
        "< 200",
        HUNG_UP,
    ]);
    ended(&call(&system, &caller, &callee), 200, "normal", "caller");
}

#[test]
fn an_invite_without_sdp_is_offered_ours() {
    let system = System::start();
    let caller = lines(&["call", "< 180?", "< 200 body~m=audio", "> ACK sdp=0,101", "pause 100", HANGS_UP]);
    let callee = lines(&["< INVITE body~m=audio", "> 180", "> 200 sdp=0,101", "< ACK", HUNG_UP]);
    ended(&call(&system, &caller, &callee), 200, "normal", "caller");
}

#[test]
fn session_timers_are_negotiated() {
    let system = System::start();
    let wish = "call sdp | Supported: timer | Session-Expires: 120;refresher=uac | Min-SE: 90";
    let granted = "< 200 header~Session-Expires:120;refresher=uac header~Require:timer";
    let refresh = "> UPDATE | Supported: timer | Session-Expires: 120;refresher=uac";
    let refreshed = "< 200 header~Session-Expires:120;refresher=uac";
    let caller = lines(&[wish, "< 180?", granted, "> ACK", refresh, refreshed, HANGS_UP]);
    let asked = "< INVITE header~Session-Expires:[0-9]+ header~Supported:timer";
    let agreed = "> 200 sdp | Require: timer | Session-Expires: 1800;refresher=uas";
    let callee = lines(&[asked, "> 180", agreed, "< ACK", HUNG_UP]);
    ended(&call(&system, &caller, &callee), 200, "normal", "caller");
}

#[test]
fn too_short_a_session_is_refused_with_422() {
    let system = System::start();
    asks(
        &system,
        "call sdp to=1001 uri=sip:1001@[remote_ip]:[remote_port] | Supported: timer | Session-Expires: 30
        < 422 header~Min-SE:90
        > NACK",
    );
    no_cdr(&system);
}

#[test]
fn a_phone_that_wants_longer_sessions_gets_them() {
    let system = System::start_with(&[("NEBULA__SIP__SESSION_EXPIRES_S", "100")]);
    let caller = lines(&["call sdp", "< 180?", "< 200", "> ACK", HANGS_UP]);
    let refusal = "> 422 | Min-SE: 300";
    let again = "< INVITE header~Session-Expires:300 header~Min-SE:300";
    let callee =
        lines(&["< INVITE header~Session-Expires:100", refusal, "< ACK", again, "> 200 sdp", "< ACK", HUNG_UP]);
    ended(&call(&system, &caller, &callee), 200, "normal", "caller");
}

#[test]
fn all_phones_of_an_extension_ring_and_one_answers() {
    let system = System::start();
    let callee = lines(&["< INVITE", "> 180", "pause 300", "> 200 sdp", "< ACK", HUNG_UP]);
    let answers = Phone::scripted(&system, "1001", &callee).registered();
    let loses = lines(&["< INVITE", "> 180", "< CANCEL header~Reason:SIP", "> 200", "> 487 INVITE", "< ACK"]);
    let rings = Phone::scripted(&system, "1001", &loses).registered();
    let caller = lines(&["call sdp", "< 180", "< 200", "> ACK", HANGS_UP]);
    Phone::scripted(&system, "1000", &caller).to("1001").start().succeeds();
    answers.succeeds();
    rings.succeeds();
    let cdr = only_cdr(&system);
    ended(&cdr, 200, "normal", "caller");
    assert_eq!(cdr["legs"].as_array().map(Vec::len), Some(3), "{cdr:#}");
}

#[test]
fn wrong_credentials_are_challenged_again() {
    let system = System::start();
    let script = "> REGISTER | Contact: <sip:x@[local_ip]:[local_port]>
        < 401 auth
        > REGISTER auth | Contact: <sip:x@[local_ip]:[local_port]>
        < 401 header~WWW-Authenticate:Digest";
    Phone::scripted(&system, "1000", script).password("wrong").start().succeeds();
    Phone::scripted(&system, "4711", script).start().succeeds();
    let script = "call sdp\n< 401\n> NACK";
    Phone::scripted(&system, "1000", script).to("1001").password("wrong").start().succeeds();
    no_cdr(&system);
}

#[test]
fn what_cannot_be_routed_is_refused_in_the_right_order() {
    let system = System::start();
    asks(&system, "call sdp uri=sip:4711@[remote_ip]:[remote_port] to=4711\n< 404\n> NACK");
    // Validation comes before authentication.
    asks(&system, "> INVITE sdp | Require: foo, 100rel, bar\n< 100?\n< 420 header~Unsupported:foo,.bar\n> NACK");
    asks(&system, "> INVITE sdp hops=0\n< 100?\n< 483\n> NACK");
    asks(&system, "> OPTIONS hops=0\n< 483");
    asks(&system, "> INVITE sdp uri=sips:1001@[remote_ip]\n< 100?\n< 416\n> NACK");
    asks(&system, "> SUBSCRIBE | Event: presence\n< 405 header~Allow:INVITE");
    asks(&system, "> DANCE\n< 501 header~Allow:INVITE");
    asks(&system, "> OPTIONS | Max-Forwards: many\n< 400");
    no_cdr(&system);
}

#[test]
fn options_tells_what_we_can() {
    let system = System::start();
    asks(
        &system,
        "> OPTIONS\n< 200 header~Allow:INVITE,.ACK,.CANCEL,.BYE header~Accept:application/sdp header~Supported:timer",
    );
}

#[test]
fn the_registrar_keeps_bindings() {
    let system = System::start();
    // Every request is challenged; the second of each pair has the credentials.
    let register =
        |headers: &str, then: &str| format!("> REGISTER {headers}\n< 401 auth\n> REGISTER auth {headers}\n{then}\n");
    let a = "| Contact: <sip:1000@[local_ip]:7001>;expires=100";
    let b = "| Contact: <sip:1000@[local_ip]:7002>;q=0.5 | Expires: 200";
    asks(&system, &register(a, "< 200 header~Contact:7001.*expires=100 header~Date:GMT"));
    asks(&system, &register(b, "< 200 body!~x"));
    asks(&system, &register("", "< 200 header~Contact:700"));
    asks(&system, &register("| Contact: <sip:1000@[local_ip]:7003> | Expires: 5", "< 423 header~Min-Expires:60"));
    asks(&system, &register("| Contact: * | Expires: 100", "< 400"));
    // What cannot be read is refused before anybody is asked who they are.
    asks(&system, "> REGISTER | Contact: *, <sip:1000@[local_ip]:7003> | Expires: 0\n< 400");
    // One goes, the other stays; then all go.
    asks(&system, &register("| Contact: <sip:1000@[local_ip]:7001>;expires=0", "< 200 header~Contact:7002"));
    asks(&system, &register("| Contact: * | Expires: 0", "< 200"));
    let phone = Phone::scripted(&system, "1000", "call sdp\n< 480\n> NACK").to("1000").start();
    phone.succeeds();
    ended(&only_cdr(&system), 480, "unreachable", "system");
}

#[test]
fn a_register_out_of_order_changes_nothing() {
    let system = System::start();
    // All of it is one registration: one Call-ID.
    let pair = |cseq: u32, then: &str| {
        let contact = "| Contact: <sip:1000@[local_ip]:7001>";
        let script = format!(
            "> REGISTER cseq={cseq} {contact}\n< 401 auth\n> REGISTER cseq={} auth {contact}\n< {then}",
            cseq + 1
        );
        Phone::scripted(&system, "1000", &script).options(&["-cid_str", "ordered-%u@test"]).start().succeeds();
    };
    let kept = "200 header~Contact:7001";
    pair(10, kept);
    pair(5, "400");
    pair(20, kept);
}

#[test]
fn a_call_from_tcp_to_udp_and_back() {
    for (from, to) in [(Transport::Tcp, Transport::Udp), (Transport::Udp, Transport::Tcp)] {
        let system = System::start();
        let callee = lines(&[ANSWERS, HUNG_UP]);
        let phone = Phone::scripted(&system, "1001", &callee).over(to).registered();
        let caller = lines(&["call sdp", "< 180?", "< 200", "> ACK", "pause 100", HANGS_UP]);
        Phone::scripted(&system, "1000", &caller).to("1001").over(from).start().succeeds();
        phone.succeeds();
        ended(&only_cdr(&system), 200, "normal", "caller");
    }
}

#[test]
fn a_call_over_ipv6() {
    let system = System::start_with(&[("NEBULA__NETWORK__BIND_IP", "::1")]);
    let caller = lines(&["call sdp", "< 180?", "< 200 body~IN.IP6.::1", "> ACK", "pause 100", HANGS_UP]);
    let callee = lines(&["< INVITE body~IN.IP6.::1", "> 180", "> 200 sdp", "< ACK", HUNG_UP]);
    ended(&call(&system, &caller, &callee), 200, "normal", "caller");
}

#[test]
fn a_leg_without_rtp_ends_the_call_for_both() {
    let system = System::start_with(&[("NEBULA__MEDIA__RTP_TIMEOUT_S", "1")]);
    let caller = lines(&["call sdp", "< 180?", "< 200", "> ACK", "< BYE header~Reason:SIP", "> 200"]);
    let callee = lines(&[ANSWERS, HUNG_UP]);
    let cdr = call(&system, &caller, &callee);
    assert_eq!((cdr["cause"].as_str(), cdr["ended_by"].as_str()), (Some("rtp_timeout"), Some("system")), "{cdr:#}");
}

/// Short timers, so that 64 T1 is half a second.
const IMPATIENT: &[(&str, &str)] =
    &[("NEBULA__SIP__T1_MS", "10"), ("NEBULA__SIP__T2_MS", "40"), ("NEBULA__SIP__T4_MS", "50")];

#[test]
fn a_caller_that_never_acknowledges_is_hung_up() {
    let system = System::start_with(IMPATIENT);
    let caller = lines(&["call sdp", "< 180?", "< 200", "< BYE", "> 200"]);
    let callee = lines(&[ANSWERS, HUNG_UP]);
    let cdr = call(&system, &caller, &callee);
    assert_eq!((cdr["cause"].as_str(), cdr["ended_by"].as_str()), (Some("network"), Some("system")), "{cdr:#}");
}

#[test]
fn a_callee_that_never_answers_bye_holds_nothing_up() {
    let system = System::start_with(IMPATIENT);
    let caller = lines(&["call sdp", "< 180?", "< 200", "> ACK", HANGS_UP]);
    let callee = lines(&[ANSWERS, "< BYE"]);
    ended(&call(&system, &caller, &callee), 200, "normal", "caller");
}

#[test]
fn a_callee_that_is_dead_is_no_answer() {
    let system = System::start_with(IMPATIENT);
    // A registered port at which nobody listens any more.
    nebula_tests::sipp::Sipp::register(&system, "1001", nebula_tests::free_port(), Transport::Udp);
    Phone::scripted(&system, "1000", "call sdp\n< 408\n> NACK").to("1001").start().succeeds();
    let cdr = only_cdr(&system);
    assert_eq!(cdr["sip_code"], 408, "{cdr:#}");
}
