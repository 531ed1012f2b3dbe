//! The gate by itself: what validation refuses and in which order, and digests, stale nonces and impostors.

use std::path::Path;

use nebula_sip::message::Message;
use nebula_sip::{Protocol, digest};

use super::*;

const NOW: u64 = 1_800_000_000;
const REALM: &str = "nebula";

fn request(method: &str, uri: &str, extra: &str, body: &str) -> Request {
    let text = format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:1000@nebula>;tag=1\r\n\
         To: <sip:1000@nebula>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n{extra}\r\n{body}"
    );
    match Message::parse(text.into_bytes().into()) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn status(request: &Request) -> u16 {
    validate(request).map_or_else(|refusal| refusal.status.get(), |()| 200)
}

#[test]
fn requests_are_validated_in_order() {
    let sdp = "Content-Type: Application/SDP\r\n";
    for (method, uri, extra, body, expected) in [
        ("INVITE", "sip:1001@h", sdp, "v=0", 200),
        ("INVITE", "sip:1001@h", "", "", 200),
        ("INVITE", "tel:1001", "", "", 200),
        ("REGISTER", "sip:h", "Require: path\r\n", "", 200),
        ("OPTIONS", "sip:h", "Accept: text/plain\r\n", "", 200),
        ("INVITE", "sip:1001@h", "Require: 100rel, timer\r\nSupported: x\r\n", "", 200),
        ("INVITE", "sip:1001@h", "Accept: text/x, application/*;q=0.5\r\n", "", 200),
        // One thing wrong each.
        ("INVITE", "sips:1001@h", "", "", 416),
        ("OPTIONS", "soap.beep://192.0.2.103:3002", "", "", 416),
        ("INVITE", "sip:1001@h", "Max-Forwards: 0\r\n", "", 483),
        ("INVITE", "sip:1001@h", "Require: Timer, frob\r\n", "", 420),
        ("INVITE", "sip:1001@h", "Proxy-Require: frob\r\n", "", 420),
        ("SUBSCRIBE", "sip:1001@h", "", "", 405),
        ("REFER", "sip:1001@h", "", "", 405),
        ("FROBNICATE", "sip:1001@h", "", "", 501),
        ("invite", "sip:1001@h", "", "", 501),
        ("INVITE", "sip:1001@h", "Content-Type: text/plain\r\n", "x", 415),
        ("INVITE", "sip:1001@h", "", "x", 415),
        ("UPDATE", "sip:1001@h", "Content-Type: application/sdp\r\nContent-Encoding: gzip\r\n", "x", 415),
        ("INVITE", "sip:1001@h", "Accept: text/plain\r\n", "", 406),
        ("INVITE", "sip:1001@h", "Accept:\r\n", "", 406),
        // Several: the first in order is named.
        ("FROB", "x:y", "Max-Forwards: 0\r\nRequire: frob\r\n", "", 416),
        ("FROB", "sip:h", "Max-Forwards: 0\r\nRequire: frob\r\n", "", 483),
        ("FROB", "sip:h", "Require: frob\r\n", "", 420),
        ("INVITE", "sip:h", "Accept: a/b\r\nContent-Type: a/b\r\n", "x", 415),
    ] {
        assert_eq!(status(&request(method, uri, extra, body)), expected, "{method} {uri} {extra}");
    }
}

#[test]
fn refusals_say_what_would_be_right() {
    let refusal = |request: &Request| *validate(request).unwrap_err();
    let response = refusal(&request("INVITE", "sip:h", "Require: timer, a\r\nProxy-Require: b\r\n", ""));
    assert_eq!(response.headers.get(Name::Unsupported), Some("a, b"));
    let response = refusal(&request("MESSAGE", "sip:h", "", ""));
    assert_eq!(response.headers.get(Name::Allow), Some(ALLOW));
    let response = refusal(&request("INVITE", "sip:h", "Content-Type: a/b\r\n", "x"));
    assert_eq!(response.headers.get(Name::Accept), Some("application/sdp"));
}

#[test]
fn a_dialog_ends_here_and_needs_no_further_hop() {
    let mut in_dialog = request("INVITE", "sip:h", "Max-Forwards: 0\r\n", "");
    in_dialog.headers.set_to_tag("t").unwrap();
    assert_eq!(status(&in_dialog), 200);
}

/// RFC 4475 sections 3.1.1, 3.3 and 3.4: what is answered before anybody is asked for a password; 200 is "goes on".
#[test]
fn torture_messages_get_their_answers() {
    let root = std::env::var_os("NEBULA_TESTDATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/testdata"),
        std::path::PathBuf::from,
    );
    for (name, expected) in [
        ("wsinv", 200),
        ("intmeth", 501),
        ("esc01", 200),
        ("escnull", 200),
        ("esc02", 501),
        ("lwsdisp", 200),
        ("longreq", 200),
        ("dblreq", 200),
        ("semiuri", 200),
        ("transports", 200),
        ("mpart01", 405),
        ("badbranch", 200),
        ("unkscm", 416),
        ("novelsc", 416),
        ("unksm2", 200),
        ("bext01", 420),
        ("invut", 415),
        ("regaut01", 200),
        ("zeromf", 483),
        ("cparam01", 200),
        ("cparam02", 200),
        ("regescrt", 200),
        ("sdp01", 406),
        ("inv2543", 200),
    ] {
        let path = root.join("rfc4475").join(format!("{name}.dat"));
        let Ok(bytes) = std::fs::read(&path) else {
            eprintln!("skipped: no {}", path.display());
            return;
        };
        let Ok(Message::Request(request)) = Message::parse(bytes.into()) else { panic!("{name}") };
        assert_eq!(status(&request), expected, "{name}");
    }
}

fn account(user: &str, password: &str) -> Extension {
    Extension {
        user: user.to_owned(),
        customer_id: "c".to_owned(),
        display_name: String::new(),
        ha1_md5: digest::Algorithm::Md5.ha1(user, REALM, password),
        ha1_sha256: digest::Algorithm::Sha256.ha1(user, REALM, password),
        enabled: true,
        srtp: None,
        created_unix_ms: 0,
    }
}

fn admission() -> Admission {
    let algorithms = vec![digest::Algorithm::Sha256, digest::Algorithm::Md5];
    Admission::new(REALM, algorithms, Nonces::new([1; 16], 300))
}

/// The request again with the answer to the `nth` challenge.
fn with_answer(admission: &mut Admission, mut request: Request, nth: usize, user: &str, password: &str) -> Request {
    let mut response = Response::to(&request, StatusCode::UNAUTHORIZED);
    admission.challenge(&mut response, false, NOW);
    let challenges = response.headers.auths(Name::WwwAuthenticate).unwrap();
    assert_eq!(challenges.len(), 2);
    let client = digest::Client { user, password, cnonce: "c", count: 1 };
    let answer = digest::answer(&challenges[nth], client, &request.method, &request.uri.to_string()).unwrap();
    request.headers.push(Name::Authorization, answer.to_header());
    request
}

#[test]
fn either_challenge_admits_and_no_answer_twice() {
    for nth in 0..2 {
        let mut admission = admission();
        let account = account("1000", "secret");
        let invite = with_answer(&mut admission, request("INVITE", "sip:1001@h", "", ""), nth, "1000", "secret");
        assert_eq!(claimed_user(&invite, REALM).unwrap(), "1000");
        assert_eq!(admission.check(&invite, Some(&account), NOW), Verdict::Admitted);
        assert_eq!(admission.check(&invite, Some(&account), NOW), Verdict::Stale);
    }
}

#[test]
fn an_algorithm_that_was_not_offered_proves_nothing() {
    let account = account("1000", "secret");
    let mut both = admission();
    let invite = with_answer(&mut both, request("INVITE", "sip:1001@h", "", ""), 1, "1000", "secret");
    let mut strict = Admission::new(REALM, vec![digest::Algorithm::Sha256], Nonces::new([1; 16], 300));
    assert_eq!(strict.check(&invite, Some(&account), NOW), Verdict::Wrong);
    assert_eq!(both.check(&invite, Some(&account), NOW), Verdict::Admitted);
}

#[test]
fn an_old_nonce_is_stale_only_with_the_right_password() {
    let mut admission = admission();
    let right = with_answer(&mut admission, request("INVITE", "sip:1001@h", "", ""), 0, "1000", "secret");
    let wrong = with_answer(&mut admission, request("INVITE", "sip:1001@h", "", ""), 0, "1000", "guess");
    let account = account("1000", "secret");
    assert_eq!(admission.check(&right, Some(&account), NOW + 300), Verdict::Stale);
    assert_eq!(admission.check(&wrong, Some(&account), NOW + 300), Verdict::Wrong);
    // After a restart nobody's nonce is ours.
    let mut restarted = Admission::new(REALM, vec![digest::Algorithm::Sha256], Nonces::new([2; 16], 300));
    assert_eq!(restarted.check(&right, Some(&account), NOW), Verdict::Stale);
}

#[test]
fn what_is_not_proved_is_wrong() {
    let mut admission = admission();
    let known = account("1000", "secret");
    let disabled = Extension { enabled: false, ..known.clone() };
    let other = account("1002", "secret");
    let plain = request("INVITE", "sip:1001@h", "", "");
    let right = with_answer(&mut admission, plain.clone(), 0, "1000", "secret");
    let mut moved = right.clone();
    moved.uri = "sip:1009@h".parse().unwrap();
    let mut other_method = right.clone();
    other_method.method = Method::Register;
    let guessed = with_answer(&mut admission, plain.clone(), 1, "1000", "guess");
    for (what, request, account) in [
        ("no credentials", &plain, Some(&known)),
        ("no account", &right, None),
        ("disabled", &right, Some(&disabled)),
        ("another's account", &right, Some(&other)),
        ("another target", &moved, Some(&known)),
        ("another method", &other_method, Some(&known)),
        ("another password", &guessed, Some(&known)),
    ] {
        assert_eq!(admission.check(request, account, NOW), Verdict::Wrong, "{what}");
    }
    assert_eq!(admission.check(&right, Some(&known), NOW), Verdict::Admitted);
}

#[test]
fn nobody_speaks_for_another() {
    let mut admission = admission();
    let account = account("1002", "secret");
    for method in ["INVITE", "REGISTER"] {
        let request = with_answer(&mut admission, request(method, "sip:1001@h", "", ""), 0, "1002", "secret");
        assert_eq!(admission.check(&request, Some(&account), NOW), Verdict::Forbidden, "{method}");
    }
}

#[test]
fn foreign_schemes_and_realms_are_passed_over() {
    let mut admission = admission();
    let extra = "Authorization: NoOneKnowsThisScheme opaque-data=here\r\nAuthorization: Digest username=\"x\", \
                 realm=\"other\", nonce=\"n\", uri=\"sip:h\", response=\"0\"\r\n";
    let foreign = request("INVITE", "sip:1001@h", extra, "");
    assert_eq!(claimed_user(&foreign, REALM), Err(Unauthenticated));
    let both = with_answer(&mut admission, foreign, 1, "1000", "secret");
    assert_eq!(admission.check(&both, Some(&account("1000", "secret")), NOW), Verdict::Admitted);
}

#[test]
fn datagrams_are_answered_where_the_via_says_and_streams_where_they_are() {
    let flow = |protocol| Flow {
        protocol,
        local: "192.0.2.1:5060".parse().unwrap(),
        remote: "192.0.2.9:40000".parse().unwrap(),
        connection: 0,
    };
    let via = Via::parse("SIP/2.0/UDP h:5070;received=192.0.2.9").unwrap();
    assert_eq!(reply_flow(&via, flow(Protocol::Udp)).remote, "192.0.2.9:5070".parse().unwrap());
    assert_eq!(reply_flow(&via, flow(Protocol::Tcp)), flow(Protocol::Tcp));
}

#[test]
fn a_digest_is_for_a_request_of_the_same_user_or_for_the_server() {
    let request: Uri = "sip:1001@[::1]:5060".parse().unwrap();
    for (digest_uri, is_right) in [
        ("sip:1001@[::1]:5060", true),
        ("sip:1001@elsewhere", true),
        ("sip:1002@[::1]:5060", false),
        ("sip:[::1]:5060", true),
        ("sip:::1:5060", true),
        ("sip:1002@::1:5060", false),
        ("", false),
    ] {
        assert_eq!(is_for(digest_uri, &request), is_right, "{digest_uri}");
    }
}
