//! Which server holds a place: the one of the URL, the master that sentinels name, or the node that serves a slot.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Value};

use super::link::{LinkError, connect, connect_as};
use super::options::{Kind, Node, Options};

/// A sentinel or a node that is asked the way answers in so long, or the next one is asked.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// Finds the server of one slot, again and again.
pub(super) struct Resolver {
    options: Arc<Options>,
    slot: u16,
    /// Of a cluster: all nodes seen so far, the latest answer's first.
    known: Vec<Node>,
}

impl Resolver {
    pub fn new(options: Arc<Options>, slot: u16) -> Self {
        let known = options.nodes.clone();
        Self { options, slot, known }
    }

    /// The server as of now.
    pub async fn resolve(&mut self) -> Result<Node, LinkError> {
        match &self.options.kind {
            Kind::Single => Ok(self.options.nodes[0].clone()),
            Kind::Sentinel { master } => self.master(master).await,
            Kind::Cluster => self.node().await,
        }
    }

    /// The first sentinel that names a master which says itself that it is one; a failover takes a while to be known.
    async fn master(&self, master: &str) -> Result<Node, LinkError> {
        let mut last = String::new();
        for sentinel in &self.options.nodes {
            match self.master_by(sentinel, master).await {
                Ok(node) => return Ok(node),
                Err(error) => last = error,
            }
        }
        Err(LinkError::NoMaster { master: master.to_owned(), last })
    }

    async fn master_by(&self, sentinel: &Node, master: &str) -> Result<Node, String> {
        let password = self.options.sentinel_password.as_deref();
        let mut connection = connect_as(&self.options, sentinel, None, password, 0, Some(ANSWER_MAX))
            .await
            .map_err(|error| error.to_string())?;
        let mut which = redis::cmd("SENTINEL");
        which.arg("get-master-addr-by-name").arg(master);
        let named: Option<(String, u16)> = ask(&mut connection, &which, sentinel).await?;
        let (host, port) = named.ok_or_else(|| format!("{sentinel} knows no {master:?}"))?;
        let node = Node { host, port };
        let mut connection =
            connect(&self.options, &node, Some(ANSWER_MAX)).await.map_err(|error| error.to_string())?;
        let role: Vec<Value> = ask(&mut connection, &redis::cmd("ROLE"), &node).await?;
        match role.into_iter().next().map(String::from_redis_value) {
            Some(Ok(role)) if role == "master" => Ok(node),
            _ => Err(format!("{node} is no master (any more)")),
        }
    }

    /// Whoever serves the slot, by the first node that answers.
    async fn node(&mut self) -> Result<Node, LinkError> {
        let mut last = String::new();
        for node in self.known.clone() {
            match self.slots_by(&node).await {
                Ok(Some(owner)) => return Ok(owner),
                Ok(None) => last = format!("{node} knows no server for it"),
                Err(error) => last = error,
            }
        }
        Err(LinkError::NoNode { slot: self.slot, last })
    }

    async fn slots_by(&mut self, node: &Node) -> Result<Option<Node>, String> {
        let mut connection = connect(&self.options, node, Some(ANSWER_MAX)).await.map_err(|error| error.to_string())?;
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        // [[first, last, [host, port, id, ...], replica...], ...]; an empty host means the one that was asked.
        let ranges: Vec<Vec<Value>> = ask(&mut connection, &command, node).await?;
        let mut owner = None;
        let mut seen = Vec::new();
        for range in ranges {
            let mut range = range.into_iter();
            let mut bound = || range.next().and_then(|bound| u16::from_redis_value(bound).ok());
            let (Some(first), Some(last)) = (bound(), bound()) else { continue };
            let servers: Vec<Node> = range.filter_map(|server| server_of(server, node)).collect();
            if (first..=last).contains(&self.slot) {
                owner = servers.first().cloned();
            }
            seen.extend(servers);
        }
        let others = self.known.iter().filter(|known| !seen.contains(known)).cloned().collect::<Vec<_>>();
        self.known = seen.into_iter().chain(others).take(NODES_MAX).collect();
        Ok(owner)
    }
}

/// Nodes of a cluster that are remembered, and asked the way; the oldest are forgotten.
const NODES_MAX: usize = 64;

fn server_of(server: Value, asked: &Node) -> Option<Node> {
    let mut parts = Vec::<Value>::from_redis_value(server).ok()?.into_iter();
    let host = Option::<String>::from_redis_value(parts.next()?).ok()?.unwrap_or_default();
    let port = u16::from_redis_value(parts.next()?).ok()?;
    let host = if host.is_empty() { asked.host.clone() } else { host };
    Some(Node { host, port })
}

async fn ask<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
    whom: &Node,
) -> Result<T, String> {
    command.query_async(connection).await.map_err(|error| format!("{whom}: {error}"))
}
