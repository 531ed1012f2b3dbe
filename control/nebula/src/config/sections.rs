//! The sections and their keys, each with its unit, its default and what it is for. Ranges are in `config.rs`.

use nebula_bus::contract::Role;
use serde::Deserialize;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$key_doc:meta])* $key:ident: $ty:ty = $default:expr),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$key_doc])* pub $key: $ty),+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default),+ }
            }
        }
    };
}

section! {
    /// All of it. Without a file this is the embedded default.
    Config {
        /// Addresses and the ports of the roles.
        network: Network = Network::default(),
        /// The store.
        database: Database = Database::default(),
        /// What a fleet speaks over, and keeps its calls in.
        redis: Redis = Redis::default(),
        /// The SIP edge.
        sip: nebula_proxy::Options = nebula_proxy::Options::default(),
        /// Call control.
        calls: nebula_switchboard::Options = nebula_switchboard::Options::default(),
        /// RTP.
        media: nebula_media::Options = nebula_media::Options::default(),
        /// The HTTP gateway.
        api: Api = Api::default(),
        /// What is logged and how.
        logging: Logging = Logging::default(),
        /// Cores and pools of the dataplane.
        tuning: Tuning = Tuning::default(),
    }
}

section! {
    /// `[network]`
    Network {
        /// This host's name among all hosts of a fleet, the same after a restart: a role is known as ROLE-NODE. None means
        /// the host's name.
        node: Option<String> = None,
        /// Where SIP and RTP listen: sets `sip.listen` and `media.local_ip` at once.
        bind_ip: Option<IpAddr> = None,
        /// What Contact and SDP say instead of the local address, for a host behind a one-to-one NAT: sets
        /// `sip.advertised_address` and `media.advertised_ip` at once.
        advertised_ip: Option<IpAddr> = None,
        /// Where HTTP, health, metrics and RPC listen. They have no authentication yet: keep them from the public.
        admin_ip: IpAddr = IpAddr::from([127, 0, 0, 1]),
        /// Health, metrics and RPC of the proxy; 0 takes any free port.
        proxy_port: u16 = 8121,
        /// The same of the switchboard.
        switchboard_port: u16 = 8122,
        /// The same of the media agent.
        media_port: u16 = 8123,
        /// The same of a gateway that is a process of its own.
        api_port: u16 = 8124,
    }
}

impl Network {
    /// The port of a role's own, and its key.
    pub fn admin_port(&mut self, role: Role) -> (&'static str, &mut u16) {
        match role {
            Role::Proxy => ("network.proxy_port", &mut self.proxy_port),
            Role::Switchboard => ("network.switchboard_port", &mut self.switchboard_port),
            Role::Media => ("network.media_port", &mut self.media_port),
            Role::Api => ("network.api_port", &mut self.api_port),
        }
    }
}

section! {
    /// `[database]`
    Database {
        /// `sqlite://PATH` or `postgres://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE[?sslmode=verify-full&sslrootcert=FILE]`;
        /// none means `nebula.db` in the state folder.
        url: Option<Secret> = None,
        /// Connections of one process to Postgres for reading; one more writes.
        pool_size: u32 = 8,
        /// Where records wait while the database is away; none means `spool` in the state folder.
        spool_folder: Option<PathBuf> = None,
    }
}

section! {
    /// `[redis]`
    Redis {
        /// `redis://HOST[:PORT][/DB]`, `redis-sentinel://HOST,HOST/MASTER`, `redis+cluster://HOST,HOST`, and each with
        /// `rediss` for TLS; none means that all roles are in one process.
        url: Option<Secret> = None,
        /// The password, where it shall not stand in the URL.
        password: Option<Secret> = None,
        /// The sentinels' own password.
        sentinel_password: Option<Secret> = None,
        /// A PEM file with the certificates to trust; none means those of the host.
        ca_file: Option<PathBuf> = None,
        /// What all keys begin with; systems that share a Redis have one each.
        prefix: String = "nebula".to_owned(),
        /// How long an instance counts as alive after its last sign of life, milliseconds; the same for all of a fleet.
        lease_ms: u32 = 5_000,
    }
}

section! {
    /// `[api]`
    Api {
        /// The port; 0 takes any free one.
        port: u16 = 8080,
    }
}

section! {
    /// `[logging]`
    Logging {
        /// A filter such as `info` or `nebula_proxy=debug,info`.
        filter: String = "info".to_owned(),
        /// `text` for people, `json` for machines.
        format: LogFormat = LogFormat::Text,
    }
}

/// See `Logging::format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line a record, for people.
    Text,
    /// One JSON object a record.
    Json,
}

section! {
    /// `[tuning]`
    Tuning {
        /// Whether the dataplane is started and kept alive by this program, or by another (systemd) at
        /// `media.dataplane_socket`.
        dataplane: Dataplane = Dataplane::Own,
        /// The cores that dataplane workers are pinned to, one worker each; empty means one worker that is not pinned.
        cores: Vec<u16> = Vec::new(),
        /// Ethernet interfaces whose media the dataplane moves by AF_XDP; one that can't is served by sockets, as all others.
        xdp: Vec<String> = Vec::new(),
        /// How long a worker polls the cards of these interfaces before it sleeps, microseconds; 0 leaves it to interrupts.
        xdp_busy_poll_us: u32 = 0,
        /// Streams per worker. Memory for all of them is taken at the start.
        streams_max: u32 = 8192,
        /// CPU time from which on a worker gets no new calls, thousandths of its core.
        overload_cpu_permille: u32 = 900,
        /// The same by how late a worker comes on average to what is due, microseconds: others take its core away.
        overload_lateness_us: u32 = 100_000,
        /// How long a drain waits for live calls before it ends them.
        drain_timeout_s: u32 = 60,
    }
}

/// See `Tuning::dataplane`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dataplane {
    /// Started, started again and stopped with us.
    Own,
    /// Found at its socket, never started or stopped.
    External,
}

/// Text that isn't shown in logs.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
