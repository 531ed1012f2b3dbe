//! What roles stand on: the bus, the store and the keep of their snapshots. Embedded in this process, or Redis and
//! Postgres, as the configuration says.

use crate::cache::RedisCache;
use crate::config::{Config, Secret};
use crate::keep::FileKeep;
use crate::process::Member;
use anyhow::{Context, Result, bail};
use nebula_bus::contract::{self, Role};
use nebula_bus::redis::{self, Redis};
use nebula_bus::snapshots::{Keep, KeepError};
use nebula_bus::{Bus, Membership};
use nebula_store::outbox::OutboxEvent;
use nebula_store::{Store, publisher, snapshots};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The snapshots of an embedded system, in the state folder.
const SNAPSHOTS_FILE: &str = "snapshots.db";

/// The database of an embedded system, in the state folder.
const DATABASE_FILE: &str = "nebula.db";

/// The store's cache among those in Redis.
const CACHE: &str = "store";

/// Where records wait while the database is away, in the state folder.
const SPOOL_FOLDER: &str = "spool";

/// How long a start waits for a Redis that comes and goes.
const ENTER_PATIENCE: Duration = Duration::from_secs(10);

/// The pause between two attempts meanwhile.
const ENTER_PAUSE: Duration = Duration::from_millis(100);

/// How often a process that waits for Redis says so.
const WAIT_TOLD_EVERY: Duration = Duration::from_secs(5);

/// Whether a process may change the database's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// It brings the schema to its own.
    Migrate,
    /// It refuses any but its own: others may still run on it.
    Check,
}

/// Whose backbone it is.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// What it is made of.
    pub config: &'a Config,
    /// The state folder.
    pub folder: &'a Path,
    /// What kind of process.
    pub process: &'a str,
    /// Its name in a fleet.
    pub node: &'a str,
}

/// How long Redis is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Not at all: somebody waits for the command's end.
    None,
    /// Until it comes: whoever supervises this process would only start it again.
    Endless,
}

/// See the module.
pub struct Backbone {
    /// The bus.
    pub bus: Bus,
    /// The store.
    pub store: Store,
    keep: Arc<dyn Keep>,
    node: String,
    /// Its tasks end with it.
    redis: Option<Redis>,
}

impl Backbone {
    /// Opens all of it. Waits for a Redis that is not there yet.
    pub async fn open(place: Place<'_>, schema: Schema) -> Result<Self> {
        let Place { config, folder, process, node } = place;
        let redis = connect(config, Patience::Endless).await?;
        let (bus, keep): (Bus, Arc<dyn Keep>) = match &redis {
            Some(redis) => (redis.bus(), redis.keep()),
            None => {
                let file = snapshots::File::open(&folder.join(SNAPSHOTS_FILE))?;
                (Bus::local(), Arc::new(FileKeep(file)))
            }
        };
        let mut options = store_options(config, folder, redis.as_ref());
        options.migrate = schema == Schema::Migrate;
        options.instance = format!("{process}-{node}");
        let spool = config.database.spool_folder.clone();
        options.spool = Some(spool.unwrap_or_else(|| folder.join(SPOOL_FOLDER)));
        let store = Store::open(&options).await?;
        Ok(Self { bus, store, keep, node: node.to_owned(), redis })
    }

    /// Takes a role's name for this process, and up what its predecessor left.
    pub async fn enter(&self, role: Role) -> Result<(Membership, Member)> {
        let began = Instant::now();
        let membership = loop {
            match Membership::enter(self.keep.clone(), role, &self.node).await {
                Ok(membership) => break membership,
                Err(KeepError::Away(why)) if began.elapsed() < ENTER_PATIENCE => {
                    tracing::warn!(why, "cannot take a name yet; trying again");
                    sleep(ENTER_PAUSE).await;
                }
                Err(e) => return Err(e).context("cannot take a name"),
            }
        };
        let (instance, restored) = (membership.instance.clone(), membership.restored.len());
        tracing::info!(%instance, fence = membership.fence.get(), restored, "took its name");
        let snapshots = membership.snapshots.clone();
        Ok((membership, Member { instance, snapshots }))
    }

    /// Whether Redis answers; without one the bus is always there.
    pub fn probe(&self) -> Option<redis::Cache> {
        self.redis.as_ref().map(|redis| redis.cache("probe"))
    }

    /// Carries events from the outbox to the bus, until it is aborted.
    pub fn publish_events(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(publish(self.store.clone(), self.bus.clone()))
    }
}

/// Opens the store for a command that does one thing, without a spool. What it changes, others must not find cached.
pub async fn open_store(config: &Config, folder: &Path, schema: Schema) -> Result<Store> {
    let redis = connect(config, Patience::None).await?;
    let mut options = store_options(config, folder, redis.as_ref());
    options.migrate = schema == Schema::Migrate;
    Ok(Store::open(&options).await?)
}

fn store_options(config: &Config, folder: &Path, redis: Option<&Redis>) -> nebula_store::Options {
    let mut options = nebula_store::Options::url(database_url(config, folder));
    options.pool_size = config.database.pool_size;
    options.cache = redis.map(|redis| Arc::new(RedisCache(redis.cache(CACHE))) as Arc<dyn nebula_store::Cache>);
    options
}

/// Where the database is.
pub fn database_url(config: &Config, folder: &Path) -> String {
    match &config.database.url {
        Some(url) => url.expose().to_owned(),
        None => format!("sqlite://{}", folder.join(DATABASE_FILE).display()),
    }
}

/// What the configuration says of Redis, if anything.
fn redis_options(config: &Config) -> Result<Option<redis::Options>> {
    let section = &config.redis;
    let Some(url) = &section.url else { return Ok(None) };
    // The range check has read the URL before.
    let mut options = redis::Options::parse(url.expose()).context("redis.url")?;
    if let Some(password) = &section.password {
        options = options.password(password.expose());
    }
    if let Some(password) = &section.sentinel_password {
        options = options.sentinel_password(password.expose());
    }
    if let Some(file) = &section.ca_file {
        let pem = std::fs::read(file).with_context(|| format!("redis.ca_file = {}", file.display()))?;
        options = options.ca_pem(pem);
    }
    let lease = Duration::from_millis(section.lease_ms.into());
    Ok(Some(options.prefix(section.prefix.as_str()).lease(lease)))
}

async fn connect(config: &Config, patience: Patience) -> Result<Option<Redis>> {
    let Some(options) = redis_options(config)? else { return Ok(None) };
    let place = options.to_string();
    let mut told: Option<Instant> = None;
    loop {
        match Redis::connect(options.clone()).await {
            Ok(redis) => return Ok(Some(redis)),
            Err(error) if patience == Patience::Endless && error.may_pass() => {
                if told.is_none_or(|told| told.elapsed() > WAIT_TOLD_EVERY) {
                    tracing::warn!(%error, "waiting for Redis at {place}; see redis.url");
                    told = Some(Instant::now());
                }
                sleep(ENTER_PAUSE).await;
            }
            refused => {
                let why = || format!("cannot use Redis at {place}; see redis.url and redis.password");
                return refused.map(Some).with_context(why);
            }
        }
    }
}

/// A role by itself needs what it can reach the others by.
pub fn require_fleet(role: Role, config: &Config) -> Result<()> {
    let missing = |key: &str, url: &Option<Secret>, example: &str| match url {
        Some(_) => None,
        None => {
            let variable = format!("NEBULA__{}", key.to_uppercase().replace('.', "__"));
            Some(format!("{key}, for example {example:?} (or {variable})"))
        }
    };
    let missing = [
        missing("redis.url", &config.redis.url, "redis://127.0.0.1:6379"),
        missing("database.url", &config.database.url, "postgres://nebula:PASSWORD@127.0.0.1/nebula"),
    ];
    let missing: Vec<String> = missing.into_iter().flatten().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let role = role.name();
    bail!(
        "nebula {role} shares Redis and a database with the other roles: set {}; `nebula up` needs neither",
        missing.join(" and ")
    )
}

async fn publish(store: Store, bus: Bus) {
    let hand_over = |event: OutboxEvent| {
        let bus = bus.clone();
        let event = contract::Event {
            sequence: event.sequence,
            kind: event.kind,
            subject: event.subject,
            at_unix_ms: event.at_unix_ms,
            data: event.data,
        };
        async move { bus.publish(&event).await }
    };
    publisher::run(store, hand_over).await;
}
