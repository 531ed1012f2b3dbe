//! A user agent's transaction layer in virtual time, and messages to feed it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nebula_sip::transaction::{Layer, Options, Output, TransactionId};
use nebula_sip::{Flow, Message, Method, Name, Protocol, Request, Response, StatusCode};

pub const US: &str = "192.0.2.1:5060";
pub const PEER: &str = "192.0.2.9:5060";

pub fn udp() -> Flow {
    Flow { protocol: Protocol::Udp, local: addr(US), remote: addr(PEER), connection: 0 }
}

pub fn tcp() -> Flow {
    Flow { protocol: Protocol::Tcp, local: addr(US), remote: addr(PEER), connection: 7 }
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A layer and its clock.
pub struct End {
    pub layer: Layer,
    pub start: Instant,
    pub now: Instant,
}

impl End {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let now = Instant::now();
        Self { layer: Layer::new(options, [42; 16]), start: now, now }
    }

    pub fn ms(&self) -> u128 {
        (self.now - self.start).as_millis()
    }

    pub fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.layer.poll_output()).collect()
    }

    pub fn receive(&mut self, message: impl Into<Message>, flow: Flow) -> Vec<Output> {
        self.layer.receive(self.now, message.into(), flow);
        self.drain()
    }

    /// Jumps from timer to timer; what came out, with its instant in ms.
    pub fn run_until_ms(&mut self, ms: u64) -> Vec<(u128, Output)> {
        let end = self.start + Duration::from_millis(ms);
        let mut seen = Vec::new();
        while let Some(at) = self.layer.next_timeout().filter(|at| *at <= end) {
            assert!(at >= self.now, "time runs forwards");
            self.now = at;
            self.layer.handle_timeout(at);
            let now_ms = self.ms();
            seen.extend(self.drain().into_iter().map(|output| (now_ms, output)));
        }
        self.now = end;
        seen
    }

    pub fn send(&mut self, request: Request, flow: Flow) -> (TransactionId, Bytes) {
        let id = self.layer.request(self.now, request, flow).expect("sent");
        match self.drain().as_slice() {
            [Output::Transmit { bytes, id: Some(by), .. }] if *by == id => (id, bytes.clone()),
            other => panic!("not sent: {other:?}"),
        }
    }

    pub fn respond(&mut self, id: TransactionId, response: &Response) -> Vec<Output> {
        self.layer.respond(self.now, id, response).expect("sent");
        self.drain()
    }
}

pub fn parse(text: &str) -> Message {
    let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
    Message::parse(Bytes::from(text)).expect("a message")
}

pub fn request_of(bytes: &Bytes) -> Request {
    match Message::parse(bytes.clone()) {
        Ok(Message::Request(request)) => request,
        other => panic!("no request: {other:?}"),
    }
}

pub fn response_of(bytes: &Bytes) -> Response {
    match Message::parse(bytes.clone()) {
        Ok(Message::Response(response)) => response,
        other => panic!("no response: {other:?}"),
    }
}

/// A request of ours, without a Via.
pub fn outgoing(method: Method) -> Request {
    Request::new(method.clone(), "sip:1001@192.0.2.9".parse().expect("a URI"))
        .with(Name::Route, "<sip:192.0.2.9;lr>")
        .with(Name::MaxForwards, "70")
        .with(Name::From, "<sip:1000@192.0.2.1>;tag=ours")
        .with(Name::To, "<sip:1001@192.0.2.9>")
        .with(Name::CallId, "call-1")
        .with(Name::CSeq, format!("7 {method}"))
        .with(Name::Contact, "<sip:1000@192.0.2.1:5060>")
}

/// A request of the peer.
pub fn incoming(method: &str, branch: &str, cseq: u32) -> Request {
    incoming_via(method, &format!("SIP/2.0/UDP 192.0.2.9:5060;branch={branch}"), cseq)
}

pub fn incoming_via(method: &str, via: &str, cseq: u32) -> Request {
    let message = parse(&format!(
        "{method} sip:1000@192.0.2.1 SIP/2.0\n\
         Via: {via}\n\
         Max-Forwards: 70\n\
         From: <sip:1001@192.0.2.9>;tag=theirs\n\
         To: <sip:1000@192.0.2.1>\n\
         Call-ID: call-2\n\
         CSeq: {cseq} {method}\n\
         Contact: <sip:1001@192.0.2.9:5060>\n\
         Content-Length: 0\n\n"
    ));
    match message {
        Message::Request(request) => request,
        Message::Response(_) => unreachable!(),
    }
}

/// The peer's answer to bytes we sent.
pub fn answer(sent: &Bytes, status: u16, tag: &str) -> Response {
    let mut response = Response::to(&request_of(sent), StatusCode::new(status).expect("a status"));
    if !tag.is_empty() {
        response.headers.set_to_tag(tag).expect("a To");
    }
    response.with(Name::Contact, "<sip:1001@192.0.2.9:5060>")
}

/// Our answer to a request of the peer.
pub fn reply(request: &Request, status: u16) -> Response {
    let mut response = Response::to(request, StatusCode::new(status).expect("a status"));
    response.headers.set_to_tag("ours").expect("a To");
    response
}

/// What was sent, in short: `INVITE`, `200`.
pub fn sent(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Transmit { bytes, .. } => Some(first_word(bytes)),
            _ => None,
        })
        .collect()
}

pub fn first_word(bytes: &Bytes) -> String {
    match Message::parse(bytes.clone()).expect("what we send can be read") {
        Message::Request(request) => request.method.to_string(),
        Message::Response(response) => response.status.to_string(),
    }
}

pub fn bytes_of(outputs: &[Output]) -> Vec<Bytes> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Transmit { bytes, .. } => Some(bytes.clone()),
            _ => None,
        })
        .collect()
}

/// All outputs in short: `>INVITE` is sent, `<200` came, the rest by name.
pub fn brief(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .map(|output| match output {
            Output::Transmit { bytes, .. } => format!(">{}", first_word(bytes)),
            Output::Request { request, .. } => format!("<{}", request.method),
            Output::Ack { .. } => "<ACK".to_owned(),
            Output::Cancel { .. } => "<CANCEL".to_owned(),
            Output::Response { response, .. } => format!("<{}", response.status),
            Output::Timeout { .. } => "timeout".to_owned(),
            Output::TransportFailed { .. } => "failed".to_owned(),
            Output::Terminated { .. } => "terminated".to_owned(),
        })
        .collect()
}

pub fn timed(outputs: &[(u128, Output)]) -> Vec<(u128, String)> {
    outputs.iter().map(|(at, output)| (*at, brief(std::slice::from_ref(output)).remove(0))).collect()
}

/// The id of the request that was handed to the user.
pub fn id_of(outputs: &[Output]) -> TransactionId {
    outputs
        .iter()
        .find_map(|output| match output {
            Output::Request { id, .. } => Some(*id),
            _ => None,
        })
        .expect("a request for the user")
}
