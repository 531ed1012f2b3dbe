//! The configuration: TOML, overridden by the environment (`NEBULA__SECTION__KEY`), overridden by the command line.
//!
//! Read once at start. Every key has its unit in its name or its type, a default and a range; anything unknown or out
//! of range stops the start with the key, where it stands and what would be right.

mod sections;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::node;
pub use sections::{Config, Dataplane, LogFormat, Logging, Redis, Secret};

/// Where the file is looked for when `--config` doesn't name one. It need not exist.
pub const DEFAULT_FILE: &str = "/etc/nebula/nebula.conf";

const ENVIRONMENT_PREFIX: &str = "NEBULA__";

/// Why a configuration is refused. One line each.
#[derive(Debug, PartialEq)]
pub enum Error {
    /// The file cannot be read.
    Unreadable { file: PathBuf, why: String },
    /// The file isn't TOML, or has a key or a type that doesn't exist.
    File { file: PathBuf, line: usize, why: String },
    /// An environment variable has a key or a value that doesn't exist.
    Environment { variable: String, why: String },
    /// A value is outside its range.
    Range { place: String, why: String },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unreadable { file, why } => write!(f, "configuration {}: {why}", file.display()),
            Error::File { file, line, why } => write!(f, "configuration {} line {line}: {why}", file.display()),
            Error::Environment { variable, why } => write!(f, "environment {variable}: {why}"),
            Error::Range { place, why } => write!(f, "{place}: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl Config {
    /// Reads the file (a missing default one is no error) and the environment's overrides, and checks all values.
    pub fn load(file: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> Result<Self, Error> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && file.is_none() => String::new(),
            Err(e) => return Err(Error::Unreadable { file: path.to_owned(), why: e.to_string() }),
        };
        Self::parse(path, &text, environment)
    }

    fn parse(file: &Path, text: &str, environment: impl Iterator<Item = (String, String)>) -> Result<Self, Error> {
        let in_file = |e: toml::de::Error| Error::File {
            file: file.to_owned(),
            line: e.span().map_or(1, |span| line_of(text, span.start)),
            why: e.message().replace('\n', " "),
        };
        // Read once for its own sake: errors of the file are told with their line.
        let _: Config = toml::from_str(text).map_err(in_file)?;
        let mut table: toml::Table = toml::from_str(text).map_err(in_file)?;

        let mut variables: Vec<(String, String)> =
            environment.filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
        variables.sort();
        for (variable, value) in &variables {
            override_by(&mut table, variable, value)?;
            let _: Config = table.clone().try_into().map_err(|e: toml::de::Error| Error::Environment {
                variable: variable.clone(),
                why: e.message().replace('\n', " "),
            })?;
        }
        let mut config: Config = table.try_into().map_err(in_file)?;
        config.spread();
        config.check(|key| match variables.iter().find(|(name, _)| key_of(name).as_deref() == Some(key)) {
            Some((name, _)) => format!("environment {name}"),
            None => match find_key(text, key) {
                Some(line) => format!("configuration {} line {line}", file.display()),
                None => "default configuration".to_owned(),
            },
        })?;
        Ok(config)
    }

    /// Every range: the roles' own, and those of the sections here.
    pub fn check(&self, place: impl Fn(&str) -> String) -> Result<(), Error> {
        // Every message begins with `section.key = value`, or with `section.key: ` where the value is nobody's concern.
        let refused = |why: String| {
            let key = why.split([' ', ':']).next().unwrap_or(&why).to_owned();
            Error::Range { place: place(&key), why }
        };
        if let Some(why) = self.network.wrong().or_else(|| self.redis.wrong()).or_else(|| self.tuning.wrong()) {
            return Err(refused(why));
        }
        self.sip.check().map_err(|e| refused(e.to_string()))?;
        self.calls.check().map_err(|e| refused(e.to_string()))?;
        self.media.check().map_err(|e| refused(e.to_string()))?;
        let ranges = [
            ("tuning.streams_max", self.tuning.streams_max as usize, 2, 32_768),
            ("tuning.drain_timeout_s", self.tuning.drain_timeout_s as usize, 0, 86_400),
            ("tuning.cores", self.tuning.cores.len(), 0, 64),
            ("tuning.xdp_busy_poll_us", self.tuning.xdp_busy_poll_us as usize, 0, 1_000),
            ("tuning.overload_cpu_permille", self.tuning.overload_cpu_permille as usize, 2, 1_000),
            ("tuning.overload_lateness_us", self.tuning.overload_lateness_us as usize, 100, 10_000_000),
            ("database.pool_size", self.database.pool_size as usize, 1, 1_000),
            ("redis.lease_ms", self.redis.lease_ms as usize, 500, 60_000),
        ];
        match ranges.into_iter().find(|(_, value, min, max)| !(min..=max).contains(&value)) {
            Some((key, value, min, max)) => Err(refused(format!("{key} = {value} is out of range: {min} to {max}"))),
            None => Ok(()),
        }
    }

    /// What `[network]` says for several sections at once.
    fn spread(&mut self) {
        if let Some(ip) = self.network.bind_ip {
            self.sip.listen = vec![ip];
            self.media.local_ip = Some(ip);
        }
        if let Some(ip) = self.network.advertised_ip {
            self.sip.advertised_address = Some(ip);
            self.media.advertised_ip = Some(ip);
        }
    }
}

impl sections::Network {
    /// What is wrong with it, if anything.
    fn wrong(&self) -> Option<String> {
        let node = self.node.as_deref()?;
        let right = node::is_one(node);
        (!right).then(|| format!("network.node = {node:?} is no node's name: {}", node::RIGHT))
    }
}

impl sections::Tuning {
    /// What is wrong with it, if anything.
    fn wrong(&self) -> Option<String> {
        let (right, most) = (|name: &String| is_interface(name), INTERFACES_MAX);
        if self.xdp.len() <= most && self.xdp.iter().all(right) {
            return None;
        }
        Some(format!("tuning.xdp = {:?} is not a list of up to {most} interfaces, such as [\"eth0\"]", self.xdp))
    }
}

/// Interfaces that a dataplane drives by AF_XDP.
const INTERFACES_MAX: usize = 8;

/// Whether it can be a network interface's name (IFNAMSIZ), and one argument among others divided by commas.
fn is_interface(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"/,".contains(&byte);
    (1..16).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(fits)
}

impl Redis {
    /// What is wrong with it, if anything.
    fn wrong(&self) -> Option<String> {
        let right = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.chars().all(right) {
            return Some(format!("redis.prefix = {:?} is not 1 to 64 letters, digits and -_.:", self.prefix));
        }
        // The URL itself may hold a password, and is not repeated.
        let wrong = nebula_bus::redis::Options::parse(self.url.as_ref()?.expose()).err()?;
        Some(format!("redis.url: {wrong}"))
    }
}

/// `NEBULA__SIP__PORT` is `sip.port`.
fn key_of(variable: &str) -> Option<String> {
    let (section, key) = variable.strip_prefix(ENVIRONMENT_PREFIX)?.split_once("__")?;
    Some(format!("{}.{}", section.to_ascii_lowercase(), key.to_ascii_lowercase()))
}

/// Puts one variable into the table. The value is read as TOML where it is TOML, as a string else.
fn override_by(table: &mut toml::Table, variable: &str, value: &str) -> Result<(), Error> {
    let wrong = |why: String| Error::Environment { variable: variable.to_owned(), why };
    let key = key_of(variable).ok_or_else(|| wrong("the form is NEBULA__SECTION__KEY".to_owned()))?;
    let (section, key) = key.split_once('.').unwrap_or((&key, ""));
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok().and_then(|mut t| t.remove("value"));
    let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let section_table = entry.as_table_mut().ok_or_else(|| wrong(format!("{section} is not a section")))?;
    section_table.insert(key.to_owned(), parsed.unwrap_or_else(|| toml::Value::String(value.to_owned())));
    Ok(())
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// The line on which `section.key` is set.
fn find_key(text: &str, key: &str) -> Option<usize> {
    let (section, key) = key.split_once('.')?;
    let mut current = String::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            current = name.trim().to_owned();
        } else if current == section && line.split('=').next().is_some_and(|k| k.trim() == key) {
            return Some(i + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::parse(Path::new("n.conf"), text, environment).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_at_all_is_the_embedded_default() {
        assert_eq!(parse("", &[]), Ok(Config::default()));
    }

    #[test]
    fn file_then_environment() {
        let config =
            parse("[sip]\nport = 5070\ntcp = false\n", &[("NEBULA__SIP__PORT", "5080"), ("HOME", "/x")]).unwrap();
        assert_eq!((config.sip.port, config.sip.tcp), (5080, false));
        let config = parse("", &[("NEBULA__NETWORK__BIND_IP", "::1"), ("NEBULA__TUNING__CORES", "[0, 1]")]).unwrap();
        assert_eq!(config.sip.listen, [IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
        assert_eq!(config.media.local_ip, Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])));
        assert_eq!(config.tuning.cores, [0, 1]);
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = parse("[redis]\nurl = \"redis://:hidden@a\"\npassword = \"hidden\"\n", &[]).unwrap();
        assert_eq!(config.redis.password.as_ref().map(Secret::expose), Some("hidden"));
        assert!(!format!("{config:?}").contains("hidden"));
    }

    #[test]
    fn errors_say_what_where_and_what_would_be_right() {
        for (text, environment, says) in [
            ("[sip]\nprot = 5060\n", &[][..], &["n.conf line 2", "prot", "port"][..]),
            ("[spi]\nport = 5060\n", &[], &["n.conf line 1", "spi", "sip"]),
            ("[sip]\n\nport = \"x\"\n", &[], &["n.conf line 3", "u16"]),
            ("[sip]\nport = 70000\n", &[], &["n.conf line 2", "70000"]),
            ("[sip\n", &[], &["n.conf line 1"]),
            ("[calls]\n# a comment\ncalls_max = 0\n", &[], &["n.conf line 3", "calls.calls_max = 0", "1 to 1000000"]),
            ("[media]\nrtp_port_min = 20000\nrtp_port_max = 20001\n", &[], &["line 2", "media.rtp_port_min"]),
            ("", &[("NEBULA__SIP__PROT", "1")], &["environment NEBULA__SIP__PROT", "prot"]),
            (
                "",
                &[("NEBULA__SIP__SESSION_EXPIRES_MIN_S", "10")],
                &["environment NEBULA__SIP__SESSION_EXPIRES_MIN_S", "90 to"],
            ),
            ("", &[("NEBULA__SIP", "1")], &["NEBULA__SECTION__KEY"]),
            ("[logging]\nformat = \"xml\"\n", &[], &["line 2", "text", "json"]),
            ("[tuning]\ndataplane = \"none\"\n", &[], &["line 2", "own", "external"]),
            ("[network]\n\nnode = \"a b\"\n", &[], &["line 3", "network.node", "a b", "1 to 64 letters"]),
            ("[database]\npool_size = 0\n", &[], &["line 2", "database.pool_size = 0", "1 to 1000"]),
            ("[tuning]\nxdp = [\"eth0\", \"a b\"]\n", &[], &["line 2", "tuning.xdp", "eth0"]),
            ("[tuning]\noverload_cpu_permille = 1\n", &[], &["line 2", "overload_cpu_permille = 1", "2 to 1000"]),
            ("[tuning]\noverload_lateness_us = 99\n", &[], &["line 2", "overload_lateness_us = 99", "100 to 10000000"]),
            (
                "[tuning]\noverload_cpu_percent = 90\n",
                &[],
                &["line 2", "overload_cpu_percent", "overload_cpu_permille"],
            ),
            ("[redis]\nlease_ms = 0\n", &[], &["line 2", "redis.lease_ms = 0", "500 to 60000"]),
            ("[redis]\nprefix = \"*\"\n", &[], &["line 2", "redis.prefix", "letters"]),
            ("[redis]\nurl = \"http://a\"\n", &[], &["line 2", "redis.url", "rediss", "redis+cluster"]),
        ] {
            let error = parse(text, environment).unwrap_err();
            for part in says {
                assert!(error.contains(part), "{error:?} should say {part:?}");
            }
            assert!(!error.contains('\n'), "{error:?} is one line");
        }
    }
}
