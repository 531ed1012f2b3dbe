//! What a REGISTER plans (RFC 3261 section 10.3), and what comes of it in a store in memory.

use nebula_sip::Protocol;
use nebula_sip::message::Message;

use super::*;

const NOW_MS: i64 = 1_800_000_000_000;

fn flow() -> Flow {
    Flow {
        protocol: Protocol::Udp,
        local: "192.0.2.1:5060".parse().unwrap(),
        remote: "198.51.100.7:40000".parse().unwrap(),
        connection: 0,
    }
}

fn request(cseq: u32, extra: &str) -> Request {
    let text = format!(
        "REGISTER sip:nebula SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:1000@nebula>;tag=1\r\n\
         To: <sip:1000@nebula>\r\nCall-ID: call-1\r\nCSeq: {cseq} REGISTER\r\n{extra}\r\n"
    );
    match Message::parse(text.into_bytes().into()) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn planned(current: &[Binding], extra: &str) -> Result<Option<Changes>, Rejection> {
    let options = Options { bindings_max: 2, ..Options::default() };
    let instance = InstanceId::from("proxy-1");
    let context = Context { options: &options, instance: &instance, flow: flow(), now_unix_ms: NOW_MS };
    plan(current, &request(1, extra), context)
}

fn changed(current: &[Binding], extra: &str) -> Changes {
    planned(current, extra).unwrap().unwrap()
}

/// Contacts and lifetimes of what is set.
fn set(changes: &Changes) -> Vec<(&str, i64)> {
    changes.set.iter().map(|set| (set.contact.as_str(), (set.expires_unix_ms - NOW_MS) / 1000)).collect()
}

fn known(contact: &str) -> Binding {
    changed(&[], &format!("Contact: <{contact}>\r\n")).set.remove(0)
}

#[test]
fn a_binding_keeps_what_a_call_needs() {
    let extra = "Contact: \"x\" <sip:1000@10.0.0.5:5062;ob>;q=0.25;expires=120\r\nPath: <sip:p1;lr>, <sip:p2;lr>\r\n\
                 User-Agent: phone/1\r\n";
    let changes = changed(&[], extra);
    assert_eq!((changes.call_id.as_str(), changes.cseq, changes.remove_all), ("call-1", 1, false));
    assert_eq!(
        changes.set,
        [Binding {
            contact: "sip:1000@10.0.0.5:5062;ob".to_owned(),
            call_id: "call-1".to_owned(),
            cseq: 1,
            expires_unix_ms: NOW_MS + 120_000,
            transport: "udp".to_owned(),
            address: "198.51.100.7:40000".to_owned(),
            path: vec!["<sip:p1;lr>".to_owned(), "<sip:p2;lr>".to_owned()],
            user_agent: "phone/1".to_owned(),
            q_thousandths: 250,
            proxy: "proxy-1".to_owned(),
        }]
    );
}

#[test]
fn lifetimes_follow_contact_then_header_then_default() {
    for (extra, expected) in [
        ("Contact: <sip:a@b>\r\n", 3600),
        ("Contact: <sip:a@b>\r\nExpires: 600\r\n", 600),
        ("Contact: <sip:a@b>;expires=90\r\nExpires: 600\r\n", 90),
        ("Contact: <sip:a@b>;expires=99999\r\n", 7200),
        ("Contact: <sip:a@b>;expires=99999999999999\r\n", 7200),
        ("Contact: <sip:a@b>;expires=soon\r\nExpires: 600\r\n", 600),
        ("Contact: <sip:a@b>\r\nExpires: soon\r\n", 3600),
        ("Contact: <sip:a@b>;expires=60\r\n", 60),
    ] {
        assert_eq!(set(&changed(&[], extra)), [("sip:a@b", expected)], "{extra}");
    }
}

#[test]
fn what_may_not_be_is_rejected() {
    for (extra, expected) in [
        ("Contact: <sip:a@b>;expires=59\r\n", Rejection::TooBrief { min_s: 60 }),
        // One bad contact spoils all.
        ("Contact: <sip:a@b>, <sip:c@d>;expires=1\r\n", Rejection::TooBrief { min_s: 60 }),
        ("Contact: *\r\n", Rejection::StarNeedsExpiresZero),
        ("Contact: *\r\nExpires: 60\r\n", Rejection::StarNeedsExpiresZero),
        ("Contact: <name:John_Smith>\r\n", Rejection::ContactScheme),
        ("Contact: <sip:a@b>, <sip:c@d>, <sip:e@f>\r\n", Rejection::TooMany { max: 2 }),
    ] {
        assert_eq!(planned(&[], extra), Err(expected), "{extra}");
    }
    let current = [known("sip:a@b"), known("sip:c@d")];
    assert_eq!(planned(&current, "Contact: <sip:e@f>\r\n"), Err(Rejection::TooMany { max: 2 }));
    // Room is made by the same request.
    let changes = changed(&current, "Contact: <sip:e@f>, <sip:a@b>;expires=0\r\n");
    assert_eq!(set(&changes), [("sip:e@f", 3600)]);
    assert_eq!(changes.remove, ["sip:a@b"]);
}

#[test]
fn fetching_and_clearing() {
    assert_eq!(planned(&[known("sip:a@b")], ""), Ok(None));
    let changes = changed(&[known("sip:a@b")], "Contact: *\r\nExpires: 0\r\n");
    assert!(changes.remove_all && changes.set.is_empty());
    // Removing what is not there is no error.
    let changes = changed(&[], "Contact: <sip:a@b>\r\nExpires: 0\r\n");
    assert!(changes.remove.is_empty() && changes.set.is_empty());
}

#[test]
fn equivalent_contacts_are_one_binding() {
    let current = [known("sip:%61@B.example;transport=UDP")];
    let changes = changed(&current, "Contact: <sip:a@b.example;transport=udp>\r\n");
    assert_eq!(changes.remove, ["sip:%61@B.example;transport=UDP"]);
    assert_eq!(set(&changes), [("sip:a@b.example;transport=udp", 3600)]);
    let changes = changed(&current, "Contact: <sip:a@b.example;transport=udp>;expires=0\r\n");
    assert_eq!((changes.remove.len(), changes.set.len()), (1, 0));
    // The same spelling is a refresh.
    let changes = changed(&current, "Contact: <sip:%61@B.example;transport=UDP>\r\n");
    assert_eq!((changes.remove.len(), changes.set.len()), (0, 1));
    // Twice in one request: the later counts.
    let changes = changed(&[], "Contact: <sip:a@b>;expires=100, <sip:%61@b>;expires=200\r\n");
    assert_eq!(set(&changes), [("sip:%61@b", 200)]);
}

#[test]
fn preferences_are_read() {
    for (text, expected) in [
        ("1", Some(1000)),
        ("0", Some(0)),
        ("0.5", Some(500)),
        ("1.000", Some(1000)),
        ("0.001", Some(1)),
        ("1.001", None),
        ("2", None),
        ("0.1234", None),
        ("x", None),
        ("", None),
        ("0.-1", None),
    ] {
        assert_eq!(q_thousandths(text), expected, "{text}");
    }
}

struct Registrar {
    store: Store,
    account: Extension,
}

impl Registrar {
    async fn new() -> Self {
        let account = Extension {
            user: "1000".to_owned(),
            customer_id: "c".to_owned(),
            display_name: String::new(),
            ha1_md5: String::new(),
            ha1_sha256: String::new(),
            enabled: true,
            srtp: None,
            created_unix_ms: 0,
        };
        Self { store: Store::memory().await.unwrap(), account }
    }

    async fn ask(&self, cseq: u32, extra: &str) -> (u16, Vec<String>) {
        let instance = InstanceId::from("proxy-1");
        let request = request(cseq, extra);
        let response = register(&self.store, &Options::default(), &instance, &self.account, &request, flow()).await;
        if response.status == StatusCode::OK {
            assert!(response.headers.date().unwrap().is_some());
        }
        let mut contacts: Vec<String> = response.headers.get_all(Name::Contact).map(str::to_owned).collect();
        contacts.sort();
        (response.status.get(), contacts)
    }
}

#[tokio::test]
async fn bindings_come_stay_and_go() {
    let registrar = Registrar::new().await;
    let a = "<sip:a@b>;expires=3600".to_owned();
    let c = "<sip:c@d>;expires=100;q=0.500".to_owned();
    assert_eq!(registrar.ask(1, "Contact: <sip:a@b>\r\n").await, (200, vec![a.clone()]));
    assert_eq!(registrar.ask(2, "Contact: <sip:c@d>;expires=100;q=0.5\r\n").await, (200, vec![a.clone(), c.clone()]));
    // What is left is told in whole seconds, rounded up; a fetch a moment later may find one less.
    let (status, fetched) = registrar.ask(3, "").await;
    assert_eq!((status, fetched.len()), (200, 2));
    assert_eq!(registrar.ask(4, "Contact: <sip:a@b>;expires=0\r\n").await.1.len(), 1);
    assert_eq!(registrar.ask(5, "Contact: *\r\nExpires: 0\r\n").await, (200, vec![]));
}

#[tokio::test]
async fn order_is_kept_within_a_call_id_and_nothing_is_done_by_halves() {
    let registrar = Registrar::new().await;
    assert_eq!(registrar.ask(5, "Contact: <sip:a@b>\r\n").await.0, 200);
    for cseq in [5, 4] {
        assert_eq!(registrar.ask(cseq, "Contact: <sip:a@b>;expires=0, <sip:c@d>\r\n").await, (400, vec![]));
    }
    assert_eq!(registrar.ask(6, "Contact: <sip:c@d>, <sip:a@b>;expires=7\r\n").await.0, 423);
    let (_, contacts) = registrar.ask(7, "").await;
    assert!(contacts.len() == 1 && contacts[0].starts_with("<sip:a@b>"), "{contacts:?}");
}

#[tokio::test]
async fn a_rejection_says_what_would_be_right() {
    let registrar = Registrar::new().await;
    let instance = InstanceId::from("proxy-1");
    let request = request(1, "Contact: <sip:a@b>;expires=1\r\n");
    let response =
        register(&registrar.store, &Options::default(), &instance, &registrar.account, &request, flow()).await;
    assert_eq!((response.status.get(), response.headers.min_expires().unwrap()), (423, Some(60)));
}
