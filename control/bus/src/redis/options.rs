//! Where Redis is and how to speak to it: the URL an operator writes.
//!
//! | URL | what it means |
//! |---|---|
//! | `redis://[user:password@]host[:6379][/db]` | one server |
//! | `redis-sentinel://[user:password@]host[:26379][,host...][/master[/db]]` | the master that these sentinels name |
//! | `redis+cluster://[user:password@]host[:6379][,host...]` | a cluster, found through any of these nodes |
//!
//! `rediss` instead of `redis` means TLS, to servers and sentinels alike. `-` and `+` are the same.

use std::fmt;
use std::time::Duration;

/// How long an instance is believed to live after its last sign of life, unless told otherwise. A starved process must
/// not look dead (a false death costs its calls a take-over), a dead one's calls should not wait long.
pub const LEASE: Duration = Duration::from_secs(5);

/// Where Redis is, and how this process uses it.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    pub(super) kind: Kind,
    pub(super) nodes: Vec<Node>,
    pub(super) tls: bool,
    pub(super) ca_pem: Option<Vec<u8>>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) sentinel_password: Option<String>,
    pub(super) db: u16,
    pub(super) prefix: String,
    pub(super) lease: Duration,
}

/// What stands at the nodes of the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Sentinel { master: String },
    Cluster,
}

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What is wrong with a URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not one of ours.
    #[error(
        "the scheme {0:?} is none of redis, rediss, redis-sentinel, rediss-sentinel, redis+cluster and rediss+cluster"
    )]
    Scheme(String),
    /// No `://`, or nothing behind it.
    #[error("it names no host; it should look like redis://host:6379/0")]
    Host,
    /// Not a number from 1 to 65535.
    #[error("{0:?} is no port")]
    Port(String),
    /// Not a number, or a database of a cluster, which has none.
    #[error("{0:?} is no database: a number, and only 0 in a cluster")]
    Database(String),
    /// A `%` without two hexadecimal digits behind it.
    #[error("user or password have a % that is no percent-encoding; a % itself is written %25")]
    Encoding,
    /// One server and several hosts.
    #[error("several hosts need redis-sentinel:// or redis+cluster://")]
    Hosts,
}

impl Options {
    /// Reads a URL.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Host)?;
        let (base, what) = scheme.split_once(['-', '+']).unwrap_or((scheme, ""));
        let tls = match base {
            "redis" => false,
            "rediss" => true,
            _ => return Err(UrlError::Scheme(scheme.into())),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or(("", login));
        let (kind, db, port) = match what {
            "" => (Kind::Single, path, 6379),
            "sentinel" => {
                let (master, db) = path.split_once('/').unwrap_or((path, ""));
                let master = if master.is_empty() { "mymaster" } else { master };
                (Kind::Sentinel { master: master.to_owned() }, db, 26379)
            }
            "cluster" => (Kind::Cluster, path, 6379),
            _ => return Err(UrlError::Scheme(scheme.into())),
        };
        let nodes = hosts.split(',').map(|host| node(host, port)).collect::<Result<Vec<_>, _>>()?;
        if kind == Kind::Single && nodes.len() > 1 {
            return Err(UrlError::Hosts);
        }
        let number = if db.is_empty() { Ok(0) } else { db.parse() };
        let db = match number {
            Ok(number) if number == 0 || kind != Kind::Cluster => number,
            _ => return Err(UrlError::Database(db.to_owned())),
        };
        Ok(Self {
            kind,
            nodes,
            tls,
            ca_pem: None,
            user: decoded(user)?,
            password: decoded(password)?,
            sentinel_password: None,
            db,
            prefix: "nebula".to_owned(),
            lease: LEASE,
        })
    }

    /// The password, where it shall not stand in the URL.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The sentinels' own password, if they have one.
    pub fn sentinel_password(mut self, password: impl Into<String>) -> Self {
        self.sentinel_password = Some(password.into());
        self
    }

    /// The certificates (PEM) to trust instead of those of the host.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// What all keys begin with; systems that share a Redis have one each.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long an instance is believed to live after its last sign of life. All processes must be told the same.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls
    }
}

/// Never shows a password.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where it is, for logs: without user and password.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss" } else { "redis" })?;
        f.write_str(match self.kind {
            Kind::Single => "://",
            Kind::Sentinel { .. } => "-sentinel://",
            Kind::Cluster => "+cluster://",
        })?;
        for (place, node) in self.nodes.iter().enumerate() {
            write!(f, "{}{node}", if place > 0 { "," } else { "" })?;
        }
        match &self.kind {
            Kind::Sentinel { master } => write!(f, "/{master}/{}", self.db),
            Kind::Single => write!(f, "/{}", self.db),
            Kind::Cluster => Ok(()),
        }
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn node(text: &str, default_port: u16) -> Result<Node, UrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']').ok_or(UrlError::Host)?;
            (host, rest.strip_prefix(':'))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(UrlError::Host);
    }
    let port = match port {
        None => default_port,
        Some(port) => match port.parse() {
            Ok(number) if number > 0 => number,
            _ => return Err(UrlError::Port(port.to_owned())),
        },
    };
    Ok(Node { host: host.to_owned(), port })
}

/// Undoes percent-encoding; nothing is none.
fn decoded(text: &str) -> Result<Option<String>, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or(UrlError::Encoding)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| UrlError::Encoding)?);
        rest = &rest[2..];
    }
    let text = String::from_utf8(bytes).map_err(|_| UrlError::Encoding)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(options: &Options) -> Vec<String> {
        options.nodes.iter().map(Node::to_string).collect()
    }

    #[test]
    fn every_kind_of_url_is_read() {
        let one = Options::parse("redis://:p%40ss@10.0.0.1/3").unwrap();
        assert_eq!((nodes(&one), one.db, one.tls), (vec!["10.0.0.1:6379".into()], 3, false));
        assert_eq!((one.user.as_deref(), one.password.as_deref()), (None, Some("p@ss")));
        let tls = Options::parse("rediss://nebula:secret@redis.example:6380").unwrap();
        assert_eq!((tls.user.as_deref(), tls.tls, tls.db), (Some("nebula"), true, 0));
        let six = Options::parse("redis://[2001:db8::1]:7000").unwrap();
        assert_eq!(nodes(&six), ["[2001:db8::1]:7000"]);
        let sentinel = Options::parse("redis-sentinel://a,b:5000/calls/2").unwrap();
        assert_eq!((&sentinel.kind, sentinel.db), (&Kind::Sentinel { master: "calls".into() }, 2));
        assert_eq!(nodes(&sentinel), ["a:26379", "b:5000"]);
        assert_eq!(Options::parse("redis+sentinel://a").unwrap().kind, Kind::Sentinel { master: "mymaster".into() });
        let cluster = Options::parse("rediss+cluster://a:7000,b:7001,c:7002").unwrap();
        assert_eq!((&cluster.kind, cluster.tls, cluster.nodes.len()), (&Kind::Cluster, true, 3));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(Options::parse("http://a"), Err(UrlError::Scheme("http".into())));
        assert_eq!(Options::parse("redis+ring://a"), Err(UrlError::Scheme("redis+ring".into())));
        assert_eq!(Options::parse("localhost:6379"), Err(UrlError::Host));
        assert_eq!(Options::parse("redis://"), Err(UrlError::Host));
        assert_eq!(Options::parse("redis://a:0"), Err(UrlError::Port("0".into())));
        assert_eq!(Options::parse("redis://a/x"), Err(UrlError::Database("x".into())));
        assert_eq!(Options::parse("redis+cluster://a/1"), Err(UrlError::Database("1".into())));
        assert_eq!(Options::parse("redis://:%4@a"), Err(UrlError::Encoding));
        assert_eq!(Options::parse("redis://a,b"), Err(UrlError::Hosts));
    }

    #[test]
    fn a_password_is_never_shown() {
        let options = Options::parse("rediss+cluster://me:secret@a,b:7").unwrap().password("hidden");
        assert_eq!(format!("{options} {options:?}"), "rediss+cluster://a:6379,b:7 rediss+cluster://a:6379,b:7");
    }
}
