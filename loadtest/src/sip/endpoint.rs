//! A phone's UDP socket: what comes is sorted by Call-ID to the task of its call; requests are retransmitted until they
//! are answered.

use super::message::{call_id, cseq};
use super::{Failure, T1, T2, TRANSACTION_TIMEOUT};
use rsip::{Method, Request, Response, SipMessage};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, timeout_at};

/// Messages that wait for a call's task. More are dropped: the sender retransmits.
const INBOX_MAX: usize = 32;

/// New calls that wait to be taken.
const NEW_CALLS_MAX: usize = 4096;

/// The kernel's queue for a socket that carries thousands of calls.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// With where it came from.
type Message = (SipMessage, SocketAddr);

type Inboxes = Arc<Mutex<HashMap<String, Sender<Message>>>>;

/// A socket with its calls.
pub struct Endpoint {
    socket: Arc<UdpSocket>,
    /// Where it is bound.
    pub local: SocketAddr,
    server: SocketAddr,
    inboxes: Inboxes,
}

impl Endpoint {
    /// Binds one, and returns with it the requests that begin a call, each with where it came from.
    pub async fn bind(
        local: SocketAddr,
        server: SocketAddr,
    ) -> std::io::Result<(Arc<Self>, Receiver<(Request, SocketAddr)>)> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(local), socket2::Type::DGRAM, None)?;
        // The kernel may grant less; the cost is retransmissions.
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).ok();
        socket.set_nonblocking(true)?;
        socket.bind(&local.into())?;
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let (new_calls, receiver) = mpsc::channel(NEW_CALLS_MAX);
        let local = socket.local_addr()?;
        let endpoint = Arc::new(Self { socket, local, server, inboxes: Inboxes::default() });
        tokio::spawn(sort(endpoint.socket.clone(), endpoint.inboxes.clone(), new_calls));
        Ok((endpoint, receiver))
    }

    /// Takes all messages with this Call-ID from now on.
    pub fn call(self: &Arc<Self>, call_id: &str) -> Call {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        lock(&self.inboxes).insert(call_id.to_owned(), sender);
        let peer = self.server;
        Call { endpoint: self.clone(), call_id: call_id.to_owned(), inbox, peer }
    }
}

async fn sort(socket: Arc<UdpSocket>, inboxes: Inboxes, new_calls: Sender<(Request, SocketAddr)>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // ICMP errors of earlier sends come up here; the retransmissions deal with them.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Ok(message) = SipMessage::try_from(&buffer[..length]) else {
            eprintln!("nebula-load: cannot read a message of {length} bytes");
            continue;
        };
        let Some(call_id) = call_id(&message) else { continue };
        let inbox = lock(&inboxes).get(&call_id).cloned();
        match (inbox, message) {
            (Some(inbox), message) => drop(inbox.try_send((message, from))),
            (None, SipMessage::Request(request)) => drop(new_calls.try_send((request, from))),
            (None, SipMessage::Response(_)) => {}
        }
    }
}

fn lock(inboxes: &Inboxes) -> MutexGuard<'_, HashMap<String, Sender<Message>>> {
    inboxes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call's (or a registration's) share of an endpoint.
pub struct Call {
    endpoint: Arc<Endpoint>,
    call_id: String,
    inbox: Receiver<Message>,
    peer: SocketAddr,
}

impl Drop for Call {
    fn drop(&mut self) {
        lock(&self.endpoint.inboxes).remove(&self.call_id);
    }
}

impl Call {
    /// From now on `send` sends there: a system may have several addresses.
    pub fn direct(&mut self, peer: SocketAddr) {
        self.peer = peer;
    }

    /// Sends once, to the system under test.
    pub async fn send(&self, message: SipMessage) -> Result<(), Failure> {
        self.send_to(message, self.peer).await
    }

    /// Sends once, to where a request came from.
    pub async fn send_to(&self, message: SipMessage, to: SocketAddr) -> Result<(), Failure> {
        let bytes = message.to_string().into_bytes();
        self.endpoint.socket.send_to(&bytes, to).await?;
        Ok(())
    }

    /// The next message, until the deadline.
    pub async fn next(&mut self, deadline: Instant) -> Option<SipMessage> {
        timeout_at(deadline, self.receive()).await.ok().flatten().map(|(message, _)| message)
    }

    /// The next message and where it came from.
    pub async fn receive(&mut self) -> Option<Message> {
        self.inbox.recv().await
    }

    /// Sends a request until a response comes, and returns the final one. Requests of the far end that come meanwhile
    /// are left to its retransmissions.
    pub async fn transact(&mut self, request: Request) -> Result<Response, Failure> {
        let wanted = cseq(&request);
        let invite = request.method == Method::Invite;
        let message = SipMessage::from(request);
        let (mut wait, mut answered) = (T1, false);
        let end = Instant::now() + TRANSACTION_TIMEOUT;
        self.send(message.clone()).await?;
        let mut again = Instant::now() + wait;
        // A ringing phone may ring on: only silence times out.
        while answered && invite || Instant::now() < end {
            let until = if answered && invite { Instant::now() + Duration::from_secs(300) } else { again.min(end) };
            match self.next(until).await {
                Some(SipMessage::Response(response)) if cseq(&response) == wanted => {
                    if response.status_code.code() >= 200 {
                        return Ok(response);
                    }
                    answered = true;
                }
                // A request, or a response to an earlier request, sent once more.
                Some(_) => {}
                None if answered && invite => return Err(Failure::Timeout),
                None => {
                    self.send(message.clone()).await?;
                    wait = if invite { wait * 2 } else { (wait * 2).min(T2) };
                    again = Instant::now() + wait;
                }
            }
        }
        Err(Failure::Timeout)
    }
}
