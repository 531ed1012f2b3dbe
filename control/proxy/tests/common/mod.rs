//! An edge with a store in memory, a switchboard whose part the test plays on the real bus, and phones that speak SIP over
//! real sockets.

#![allow(dead_code, reason = "each test file uses its part")]

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use md5::{Digest, Md5};
use nebula_bus::contract::{InstanceId, Method as BusMethod, Role};
use nebula_bus::snapshots::{Keep, Memory};
use nebula_bus::{Bus, Context, Inbox, Membership, Snapshots, Target};
use nebula_proxy::{Handle, Options};
use nebula_sip::message::stream::{Frame, Framer};
use nebula_sip::{Message, Method, Name, Request, Response};
use nebula_store::Store;
use nebula_store::extensions::{self, Customer, Ha1, NewExtension};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

pub const PASSWORD: &str = "wonderland";
pub const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";
pub const ANSWER: &str = "v=0\r\no=- 2 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n";
/// No step of a test takes longer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Waits, but not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// The edge and what it stands on.
pub struct Rig {
    pub edge: Handle,
    pub bus: Bus,
    pub store: Store,
    pub switchboard: Switchboard,
    pub keep: Memory,
    pub snapshots: Snapshots,
    pub options: Options,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(Options::default()).await
    }

    /// Extensions 1000 to 1002; 1002 is disabled.
    pub async fn with(options: Options) -> Self {
        let store = Store::memory().await.expect("a store");
        let customer = Customer { id: "c1".into(), name: "Test".into(), created_unix_ms: 0 };
        extensions::add_customer(&store, customer, "test").await.expect("a customer");
        let extension = |user: &str| NewExtension {
            user: user.to_owned(),
            display_name: format!("Phone {user}"),
            ha1: Ha1::new(user, &options.realm, PASSWORD),
            srtp: None,
        };
        let new = ["1000", "1001", "1002"].map(extension).to_vec();
        extensions::insert(&store, "c1", new, "test").await.expect("extensions");
        extensions::set_enabled(&store, "1002", false, "test").await.expect("disabled");
        let bus = Bus::local();
        let switchboard = Switchboard { inbox: bus.serve(Role::Switchboard, "switchboard-test".into()) };
        let options = Options { listen: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], port: 0, ..options };
        let keep = Memory::default();
        let member = enter(&keep, "test").await;
        let snapshots = member.snapshots.clone();
        let edge = nebula_proxy::start(options.clone(), bus.clone(), store.clone(), member).await.expect("an edge");
        let options = Options { port: edge.local_addr().port(), ..options };
        Self { edge, bus, store, switchboard, keep, snapshots, options }
    }

    /// The edge dies in the middle of whatever it does, once what it gave to be kept is kept.
    pub async fn crash(self) -> Crashed {
        let Self { edge, bus, store, switchboard, keep, snapshots, options } = self;
        snapshots.flush().await;
        edge.abort().await;
        Crashed { bus, store, switchboard, keep, options }
    }

    /// The same, and its supervisor starts it again on the same port.
    pub async fn restart(self) -> Self {
        self.crash().await.start().await
    }

    /// What is kept of legs.
    pub async fn kept(&self) -> Vec<(String, Bytes)> {
        self.snapshots.flush().await;
        let (_, kept) = self.keep.enter(self.edge.instance()).await.expect("a keep");
        kept.into_iter().filter(|(key, _)| key.starts_with("leg/")).collect()
    }

    /// Asks the edge, as the switchboard does.
    pub async fn ask<M: BusMethod>(&self, params: M::Params) -> Result<M::Reply, nebula_bus::Error> {
        let target = Target::Instance(self.edge.instance().clone());
        self.bus.call::<M>(&target, params, &Context::new(PATIENCE)).await
    }

    pub async fn phone(&self, user: &str) -> Phone {
        Phone::udp(user, self.edge.local_addr()).await
    }
}

/// What is left when the edge has died.
pub struct Crashed {
    pub bus: Bus,
    pub store: Store,
    pub switchboard: Switchboard,
    pub keep: Memory,
    pub options: Options,
}

impl Crashed {
    /// The next process of the same name.
    pub async fn start(self) -> Rig {
        let Self { bus, store, switchboard, keep, options } = self;
        // The kernel may hold the port for a moment.
        let bound = soon("the port", async {
            loop {
                match nebula_proxy::bind(options.clone()).await {
                    Ok(bound) => return bound,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        let bound = bound.await;
        let member = enter(&keep, "test").await;
        let snapshots = member.snapshots.clone();
        let edge = bound.serve(bus.clone(), store.clone(), member).expect("an edge");
        Rig { edge, bus, store, switchboard, keep, snapshots, options }
    }
}

/// Takes the name of a proxy.
pub async fn enter(keep: &Memory, node: &str) -> Membership {
    Membership::enter(Arc::new(keep.clone()), Role::Proxy, node).await.expect("a keep")
}

/// The other end of the bus.
pub struct Switchboard {
    inbox: Inbox,
}

impl Switchboard {
    pub fn id() -> InstanceId {
        "switchboard-test".into()
    }

    /// The next request, which must be of this method; it is answered with `reply`.
    pub async fn expect<M: BusMethod>(&mut self, reply: M::Reply) -> M::Params {
        let request = soon(M::NAME, self.inbox.recv()).await.expect("an open bus");
        assert_eq!(request.method(), M::NAME, "{}", String::from_utf8_lossy(request.params()));
        let (params, call) = request.open::<M>().expect("parameters of the contract");
        call.reply(Ok(reply));
        params
    }

    /// Another one on the same bus, or this one anew.
    pub fn on(bus: &Bus, name: &str) -> Self {
        Self { inbox: bus.serve(Role::Switchboard, name.into()) }
    }

    /// The next request, which must be of this method and may take as long as the edge waits for a sign of its owner.
    pub async fn swallow_late<M: BusMethod>(&mut self) -> (M::Params, nebula_bus::Call<M>) {
        let request =
            tokio::time::timeout(3 * PATIENCE, self.inbox.recv()).await.expect("in time").expect("an open bus");
        assert_eq!(request.method(), M::NAME, "{}", String::from_utf8_lossy(request.params()));
        request.open::<M>().expect("parameters of the contract")
    }

    /// The next request, which must be of this method; it is taken and never answered.
    pub async fn swallow<M: BusMethod>(&mut self) -> (M::Params, nebula_bus::Call<M>) {
        let request = soon(M::NAME, self.inbox.recv()).await.expect("an open bus");
        request.open::<M>().expect("parameters of the contract")
    }

    /// Answers what comes once more as it was answered before, and expects nothing new.
    pub fn rest(mut self) {
        tokio::spawn(async move {
            if let Some(request) = self.inbox.recv().await {
                panic!("{} is news", request.method());
            }
        });
    }

    /// The next request, which must be of this method; it is answered with an error.
    pub async fn refuse<M: BusMethod>(&mut self, error: nebula_bus::Error) -> M::Params {
        let request = soon(M::NAME, self.inbox.recv()).await.expect("an open bus");
        let (params, call) = request.open::<M>().expect("parameters of the contract");
        call.reply(Err(error));
        params
    }
}

enum Wire {
    Udp(UdpSocket),
    Tcp(Box<(TcpStream, Framer)>),
}

/// A phone.
pub struct Phone {
    pub user: String,
    pub address: SocketAddr,
    edge: SocketAddr,
    wire: Wire,
    branches: u32,
}

impl Phone {
    pub async fn udp(user: &str, edge: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let address = socket.local_addr().expect("an address");
        Self { user: user.to_owned(), address, edge, wire: Wire::Udp(socket), branches: 0 }
    }

    pub async fn tcp(user: &str, edge: SocketAddr) -> Self {
        let stream = TcpStream::connect(edge).await.expect("a connection");
        let address = stream.local_addr().expect("an address");
        let wire = Wire::Tcp(Box::new((stream, Framer::default())));
        Self { user: user.to_owned(), address, edge, wire, branches: 0 }
    }

    pub fn transport(&self) -> &'static str {
        match self.wire {
            Wire::Udp(_) => "UDP",
            Wire::Tcp(_) => "TCP",
        }
    }

    pub async fn send(&mut self, bytes: Bytes) {
        match &mut self.wire {
            Wire::Udp(socket) => drop(socket.send_to(&bytes, self.edge).await.expect("sent")),
            Wire::Tcp(tcp) => tcp.0.write_all(&bytes).await.expect("sent"),
        }
    }

    pub async fn text(&mut self, text: &str) {
        self.send(Bytes::copy_from_slice(text.as_bytes())).await;
    }

    pub async fn receive(&mut self) -> Message {
        soon("a SIP message", async {
            match &mut self.wire {
                Wire::Udp(socket) => {
                    let mut buffer = vec![0; 65_535];
                    let len = socket.recv(&mut buffer).await.expect("received");
                    Message::parse(Bytes::copy_from_slice(&buffer[..len])).expect("a SIP message")
                }
                Wire::Tcp(tcp) => loop {
                    let (stream, framer) = &mut **tcp;
                    if let Some(Frame::Message(message)) = framer.next_frame() {
                        return message.expect("a SIP message");
                    }
                    assert_ne!(stream.read_buf(framer.buffer()).await.expect("read"), 0, "connection closed");
                },
            }
        })
        .await
    }

    /// The next datagram, whatever it is.
    pub async fn datagram(&mut self) -> String {
        let Wire::Udp(socket) = &mut self.wire else { panic!("UDP only") };
        let mut buffer = vec![0; 65_535];
        let len = soon("a datagram", socket.recv(&mut buffer)).await.expect("received");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    /// The next response with this status; provisional ones before it are passed over.
    pub async fn response(&mut self, status: u16) -> Response {
        loop {
            match self.receive().await {
                Message::Response(response) if response.status.get() == status => return response,
                Message::Response(response) if response.status.is_provisional() => {}
                other => panic!("{status} expected, got {}", String::from_utf8_lossy(&other.to_bytes())),
            }
        }
    }

    /// The next request, which must be of this method.
    pub async fn request(&mut self, method: Method) -> Request {
        match self.receive().await {
            Message::Request(request) if request.method == method => request,
            other => panic!("{method} expected, got {}", String::from_utf8_lossy(&other.to_bytes())),
        }
    }

    /// No message comes for a moment.
    pub async fn silence(&mut self) {
        let Wire::Udp(socket) = &mut self.wire else { panic!("UDP only") };
        let mut buffer = vec![0; 65_535];
        if let Ok(Ok(len)) = tokio::time::timeout(Duration::from_millis(300), socket.recv(&mut buffer)).await {
            panic!("silence expected, got {}", String::from_utf8_lossy(&buffer[..len]));
        }
    }

    pub fn branch(&mut self) -> String {
        self.branches += 1;
        format!("z9hG4bK-{}-{}-{}", self.user, self.address.port(), self.branches)
    }

    /// A request outside of any dialog.
    pub fn new_request(&mut self, method: Method, to: &str, call_id: &str, cseq: u32) -> Request {
        let branch = self.branch();
        let uri = format!("sip:{to}@{}", self.edge).parse().expect("a URI");
        let mut request = Request::new(method.clone(), uri)
            .with(Name::Via, format!("SIP/2.0/{} {};rport;branch={branch}", self.transport(), self.address))
            .with(Name::MaxForwards, "70")
            .with(Name::From, format!("\"The {0}\" <sip:{0}@nebula>;tag=t{0}", self.user))
            .with(Name::To, format!("<sip:{to}@nebula>"))
            .with(Name::CallId, call_id)
            .with(Name::CSeq, format!("{cseq} {method}"));
        if method != Method::Cancel {
            request = request.with(Name::Contact, self.contact());
        }
        request
    }

    pub fn contact(&self) -> String {
        format!("<sip:{}@{};transport={}>", self.user, self.address, self.transport().to_lowercase())
    }

    /// With the answer to the challenge in `unauthorized` (RFC 7616, MD5, qop=auth).
    pub fn authorize(&self, request: Request, unauthorized: &Response, password: &str) -> Request {
        let challenges = unauthorized.headers.auths(Name::WwwAuthenticate).expect("a challenge");
        let challenge = challenges
            .iter()
            .find(|challenge| challenge.params.get_unquoted("algorithm").is_none_or(|name| name == "MD5"))
            .expect("an MD5 challenge");
        let value = |name: &str| challenge.params.get_unquoted(name).unwrap_or_default().into_owned();
        let (realm, nonce, uri) = (value("realm"), value("nonce"), request.uri.to_string());
        let hash = |text: String| hex::encode(Md5::digest(text));
        let ha1 = hash(format!("{}:{realm}:{password}", self.user));
        let ha2 = hash(format!("{}:{uri}", request.method));
        let response = hash(format!("{ha1}:{nonce}:00000001:c0ffee:auth:{ha2}"));
        request.with(
            Name::Authorization,
            format!(
                "Digest username=\"{}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", algorithm=MD5, \
                 qop=auth, nc=00000001, cnonce=\"c0ffee\", response=\"{response}\"",
                self.user
            ),
        )
    }

    /// Sends the request, answers the challenge, and returns the authorized request that is under way.
    pub async fn send_authorized(&mut self, request: Request) -> Request {
        self.send(request.to_bytes()).await;
        let unauthorized = self.response(401).await;
        if request.method == Method::Invite {
            let ack = self.ack_of_refusal(&request, &unauthorized);
            self.send(ack.to_bytes()).await;
        }
        let mut again = self.authorize(request, &unauthorized, PASSWORD);
        let cseq = again.headers.cseq().expect("a CSeq").number + 1;
        again.headers.set(Name::CSeq, format!("{cseq} {}", again.method));
        let branch = self.branch();
        again.headers.edit_via_top(|via| via.params.set("branch", Some(&branch))).expect("a Via");
        self.send(again.to_bytes()).await;
        again
    }

    /// The ACK of a final failure: the transaction's own.
    pub fn ack_of_refusal(&self, invite: &Request, refusal: &Response) -> Request {
        let cseq = invite.headers.cseq().expect("a CSeq").number;
        Request::new(Method::Ack, invite.uri.clone())
            .with(Name::Via, invite.headers.get(Name::Via).expect("a Via"))
            .with(Name::MaxForwards, "70")
            .with(Name::From, invite.headers.get(Name::From).expect("From"))
            .with(Name::To, refusal.headers.get(Name::To).expect("To"))
            .with(Name::CallId, invite.headers.get(Name::CallId).expect("Call-ID"))
            .with(Name::CSeq, format!("{cseq} ACK"))
    }

    /// CANCEL of an INVITE.
    pub fn cancel(&self, invite: &Request) -> Request {
        let cseq = invite.headers.cseq().expect("a CSeq").number;
        Request::new(Method::Cancel, invite.uri.clone())
            .with(Name::Via, invite.headers.get(Name::Via).expect("a Via"))
            .with(Name::MaxForwards, "70")
            .with(Name::From, invite.headers.get(Name::From).expect("From"))
            .with(Name::To, invite.headers.get(Name::To).expect("To"))
            .with(Name::CallId, invite.headers.get(Name::CallId).expect("Call-ID"))
            .with(Name::CSeq, format!("{cseq} CANCEL"))
    }

    /// A request in the dialog that our `invite` and its `response` made.
    pub fn in_dialog(&mut self, method: Method, invite: &Request, response: &Response, cseq: u32) -> Request {
        let from = invite.headers.get(Name::From).expect("From").to_owned();
        let to = response.headers.get(Name::To).expect("To").to_owned();
        self.dialog_request(method, response.headers.contact(), &from, &to, invite, cseq)
    }

    /// A request in the dialog that the edge's `invite` and our `response` made.
    pub fn in_their_dialog(&mut self, method: Method, invite: &Request, response: &Response, cseq: u32) -> Request {
        let from = response.headers.get(Name::To).expect("To").to_owned();
        let to = invite.headers.get(Name::From).expect("From").to_owned();
        self.dialog_request(method, invite.headers.contact(), &from, &to, invite, cseq)
    }

    fn dialog_request(
        &mut self,
        method: Method,
        contact: Result<Option<nebula_sip::NameAddr>, nebula_sip::message::HeaderError>,
        from: &str,
        to: &str,
        invite: &Request,
        cseq: u32,
    ) -> Request {
        let branch = self.branch();
        let target = contact.expect("readable").expect("a Contact").uri;
        Request::new(method.clone(), target)
            .with(Name::Via, format!("SIP/2.0/{} {};rport;branch={branch}", self.transport(), self.address))
            .with(Name::MaxForwards, "70")
            .with(Name::From, from)
            .with(Name::To, to)
            .with(Name::CallId, invite.headers.get(Name::CallId).expect("Call-ID"))
            .with(Name::CSeq, format!("{cseq} {method}"))
            .with(Name::Contact, self.contact())
    }

    /// Our response to a request of the edge.
    pub fn answer(&self, request: &Request, status: u16) -> Response {
        let status = nebula_sip::StatusCode::new(status).expect("a status");
        let mut response = Response::to(request, status);
        if status.get() > 100 && response.headers.to().expect("To").tag().is_none() {
            response.headers.set_to_tag(&format!("t{}", self.user)).expect("To");
        }
        if request.method == Method::Invite && status.get() > 100 {
            response.headers.push(Name::Contact, self.contact());
        }
        response
    }
}
