//! The connection to the Redis that holds a place: made again whenever it fails, and known to be up or down at every
//! moment, so that nobody waits for a Redis that is away.
//!
//! Commands of all tasks share one connection, which pipelines them. Whoever blocks (a stream's reader) opens one of its
//! own with [`Link::open`], without a response timeout: a blocking read on a shared connection would hold up all others.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisError, ServerErrorKind, Value};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::options::{Node, Options};
use super::resolve::Resolver;
use crate::Error;
use crate::error::code;

/// An answer to a command takes so long at most; then the connection counts as dead. Redis answers in microseconds; the
/// rest is for a fork of its own, and for a starved host. A caller who waits has to answer a phone within a second.
const RESPONSE_MAX: Duration = Duration::from_millis(750);
/// Making a connection, with its log-in, takes so long at most.
const CONNECT_MAX: Duration = Duration::from_millis(1000);
/// An idle connection is asked so often whether it lives.
const PING_EVERY: Duration = Duration::from_millis(250);
/// The pause between two attempts to connect, from and to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The server said no, or could not be spoken to.
    #[error("{node}: {error}")]
    Redis {
        /// Who.
        node: String,
        /// What it, or the network, said.
        error: RedisError,
    },
    /// It did not answer in time.
    #[error("{0}: no answer in time")]
    Silent(String),
    /// None of the sentinels knows a master of this name that is reachable.
    #[error("no sentinel knows a master {master:?} that serves: {last}")]
    NoMaster {
        /// The name from the URL.
        master: String,
        /// The last thing that went wrong.
        last: String,
    },
    /// None of the cluster's nodes could say who serves a slot.
    #[error("no node of the cluster says who serves slot {slot}: {last}")]
    NoNode {
        /// The slot.
        slot: u16,
        /// The last thing that went wrong.
        last: String,
    },
}

impl LinkError {
    /// Whether it may go by itself, as a server that is not up yet. What a server refuses (a wrong password) does not.
    pub fn may_pass(&self) -> bool {
        let loads = ErrorKind::Server(ServerErrorKind::BusyLoading);
        match self {
            LinkError::Redis { error, .. } => error.is_io_error() || error.is_timeout() || error.kind() == loads,
            LinkError::Silent(_) | LinkError::NoMaster { .. } | LinkError::NoNode { .. } => true,
        }
    }
}

/// A connection that works, as far as is known.
pub(super) struct Live {
    pub connection: MultiplexedConnection,
    /// Whose it is.
    pub node: Node,
    /// Rises with each connection.
    pub generation: u64,
    /// Since when there is one.
    pub since: Instant,
}

#[derive(Clone)]
enum Health {
    Up(Arc<Live>),
    Down(Arc<str>),
}

/// See the module.
pub(super) struct Link {
    options: Arc<Options>,
    health: watch::Receiver<Health>,
    /// Generations that somebody saw fail.
    lost: mpsc::Sender<u64>,
    keeper: AbortHandle,
}

impl Link {
    /// Connects, and stays connected from then on. Fails if the first attempt does.
    pub async fn connect(options: Arc<Options>, slot: u16) -> Result<Self, LinkError> {
        let mut resolver = Resolver::new(options.clone(), slot);
        let live = Arc::new(establish(&options, &mut resolver, 1).await?);
        let (health_sender, health) = watch::channel(Health::Up(live));
        let (lost, lost_receiver) = mpsc::channel(64);
        let keeper = tokio::spawn(keep(options.clone(), resolver, health_sender, lost_receiver)).abort_handle();
        Ok(Self { options, health, lost, keeper })
    }

    /// The connection, or the error that says at once that there is none.
    pub fn live(&self) -> Result<Arc<Live>, Error> {
        match &*self.health.borrow() {
            Health::Up(live) => Ok(live.clone()),
            Health::Down(why) => Err(Error::transient(code::UNAVAILABLE, format!("Redis is away: {why}"))),
        }
    }

    /// The connection, as soon as there is one.
    pub async fn up(&self) -> Arc<Live> {
        let mut health = self.health.clone();
        loop {
            if let Health::Up(live) = &*health.borrow_and_update() {
                return live.clone();
            }
            if health.changed().await.is_err() {
                // The keeper has ended with the link itself: nobody is left to wait.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when this connection is not the one any more.
    pub async fn gone(&self, generation: u64) {
        let mut health = self.health.clone();
        let other = |health: &Health| !matches!(health, Health::Up(live) if live.generation == generation);
        let _ = health.wait_for(other).await;
    }

    /// Somebody saw it fail: it is given up at once.
    pub fn lost(&self, generation: u64) {
        // When it is full, enough have said so.
        let _ = self.lost.try_send(generation);
    }

    /// A connection of its own, to the same server, that may block for ever.
    pub async fn open(&self, live: &Live) -> Result<MultiplexedConnection, LinkError> {
        connect(&self.options, &live.node, None).await
    }

    /// Carries out a command; an error of the connection gives the connection up.
    pub async fn ask(&self, command: &Cmd) -> Result<Value, Error> {
        let live = self.live()?;
        let mut connection = live.connection.clone();
        let answer = connection.send_packed_command(command).await.and_then(Value::extract_error);
        answer.map_err(|error| self.failed(live.generation, &error))
    }

    /// What an error of a command means for its caller; gives the connection up if it is to blame.
    pub fn failed(&self, generation: u64, error: &RedisError) -> Error {
        if blames_the_connection(error) {
            self.lost(generation);
        }
        Error::transient(code::UNAVAILABLE, format!("Redis: {error}"))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Whether to look for another connection: it broke, it stalls, or the server is not the one (any more) that serves us.
pub(super) fn blames_the_connection(error: &RedisError) -> bool {
    const CODES: [&str; 6] = ["READONLY", "MOVED", "ASK", "CLUSTERDOWN", "LOADING", "MASTERDOWN"];
    error.is_io_error() || error.is_unrecoverable_error() || error.code().is_some_and(|code| CODES.contains(&code))
}

/// Makes a connection to a server; `response_max`: how long an answer may take, none for a reader that blocks.
pub(super) async fn connect(
    options: &Options,
    node: &Node,
    response_max: Option<Duration>,
) -> Result<MultiplexedConnection, LinkError> {
    connect_as(options, node, options.user.as_deref(), options.password.as_deref(), options.db, response_max).await
}

/// As [`connect`], with another log-in: sentinels have their own.
pub(super) async fn connect_as(
    options: &Options,
    node: &Node,
    user: Option<&str>,
    password: Option<&str>,
    db: u16,
    response_max: Option<Duration>,
) -> Result<MultiplexedConnection, LinkError> {
    let failed = |error| LinkError::Redis { node: node.to_string(), error };
    let (host, port) = (node.host.clone(), node.port);
    let addr = if options.tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let info = addr.into_connection_info().map_err(failed)?;
    let mut login = info.redis_settings().clone().set_db(db.into()).set_skip_set_lib_name();
    if let Some(password) = password {
        login = login.set_password(password);
        if let Some(user) = user {
            login = login.set_username(user);
        }
    }
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    let info = info.set_redis_settings(login).set_tcp_settings(tcp);
    let client = if options.tls {
        // Whoever was first has set the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let certificates = redis::TlsCertificates { client_tls: None, root_cert: options.ca_pem.clone() };
        redis::Client::build_with_tls(info, certificates).map_err(failed)?
    } else {
        redis::Client::open(info).map_err(failed)?
    };
    let config = redis::AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(response_max);
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    match timeout(CONNECT_MAX, connecting).await {
        Ok(connection) => connection.map_err(failed),
        Err(_) => Err(LinkError::Silent(node.to_string())),
    }
}

/// Finds the server, connects and makes sure that it answers.
async fn establish(options: &Options, resolver: &mut Resolver, generation: u64) -> Result<Live, LinkError> {
    let node = resolver.resolve().await?;
    let mut connection = connect(options, &node, Some(RESPONSE_MAX)).await?;
    let ping = connection.send_packed_command(&redis::cmd("PING")).await.and_then(Value::extract_error);
    ping.map_err(|error| LinkError::Redis { node: node.to_string(), error })?;
    Ok(Live { connection, node, generation, since: Instant::now() })
}

/// Watches over the connection for as long as the link lives.
async fn keep(
    options: Arc<Options>,
    mut resolver: Resolver,
    health: watch::Sender<Health>,
    mut lost: mpsc::Receiver<u64>,
) {
    loop {
        let Health::Up(live) = health.borrow().clone() else { return };
        let why = watch_over(&live, &mut lost).await;
        let generation = live.generation + 1;
        drop(live);
        tracing::warn!(redis = %options, why, "Redis is away");
        health.send_replace(Health::Down(why.into()));
        let since = Instant::now();
        let mut pause = PAUSE.0;
        let live = loop {
            match establish(&options, &mut resolver, generation).await {
                Ok(live) => break live,
                Err(error) => drop(health.send_replace(Health::Down(error.to_string().into()))),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        };
        tracing::info!(redis = %options, node = %live.node, away_ms = since.elapsed().as_millis(), "Redis is back");
        health.send_replace(Health::Up(Arc::new(live)));
    }
}

/// Returns with the reason when the connection is of no more use.
async fn watch_over(live: &Live, lost: &mut mpsc::Receiver<u64>) -> String {
    let mut connection = live.connection.clone();
    loop {
        tokio::select! {
            said = lost.recv() => match said {
                Some(generation) if generation == live.generation => return "a command failed".to_owned(),
                Some(_) => continue,
                None => return "nobody uses it".to_owned(),
            },
            () = sleep(PING_EVERY) => {}
        }
        let ping = connection.send_packed_command(&redis::cmd("PING")).await.and_then(Value::extract_error);
        if let Err(error) = ping {
            return error.to_string();
        }
    }
}
