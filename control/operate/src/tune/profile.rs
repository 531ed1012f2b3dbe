//! What a host should be like: the profiles of `tuning/profiles` and the lines of `tuning/sysctl/90-nebula.conf`, which are
//! compiled in, so that a binary alone can check a host. Every setting has its reason; a test wants one that says something.

use super::cores::CoreSet;
use anyhow::Context;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

const BUILT_IN: [(&str, &str); 5] = [
    ("laptop", include_str!("../../../../tuning/profiles/laptop.toml")),
    ("8-core", include_str!("../../../../tuning/profiles/8-core.toml")),
    ("32-core-2-numa", include_str!("../../../../tuning/profiles/32-core-2-numa.toml")),
    ("64-core-conference", include_str!("../../../../tuning/profiles/64-core-conference.toml")),
    ("xdp-nic", include_str!("../../../../tuning/profiles/xdp-nic.toml")),
];

const SYSCTLS: &str = include_str!("../../../../tuning/sysctl/90-nebula.conf");

/// A value and why it is so.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting<T> {
    /// What it should be.
    pub value: T,
    /// Why it matters.
    pub reason: String,
}

/// A file of `tuning/profiles`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// As the file is called.
    pub name: String,
    /// For which host.
    pub summary: String,
    /// Cores that such a host has at least.
    pub cores_min: usize,
    /// NUMA nodes that it has at least.
    pub numa_nodes_min: usize,
    /// Who runs where.
    pub cores: Cores,
    /// Where memory comes from.
    pub memory: Memory,
    /// Sockets and interfaces.
    pub network: Network,
    /// What processes may have.
    pub limits: Limits,
}

/// `[cores]`: sets of cores; an empty one leaves the choice to the scheduler.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cores {
    /// One dataplane worker each: `tuning.cores` of the configuration.
    pub workers: Setting<CoreSet>,
    /// Control's processes: CPUAffinity of their units.
    pub control: Setting<CoreSet>,
    /// Interrupts of devices.
    pub interrupts: Setting<CoreSet>,
    /// The scheduler puts nothing on the workers' cores by itself.
    pub isolate_workers: Setting<bool>,
    /// cpufreq governor of the workers' cores; `any` leaves it.
    pub governor: Setting<String>,
}

/// `[memory]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// NUMA nodes that the workers' cores belong to.
    pub numa_nodes: Setting<Vec<u32>>,
    /// Huge pages of 2 MiB on each of these nodes.
    pub huge_pages_per_node: Setting<u64>,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`.
    pub transparent_huge_pages: Setting<String>,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// `net.core.busy_poll` and `busy_read`, microseconds.
    pub busy_poll_us: Setting<u64>,
    /// `media.rtp_ports` of the configuration: first and last.
    pub rtp_ports: Setting<[u16; 2]>,
    /// The interface that XDP runs on: its receive queues, one a worker. 0: none.
    pub xdp_queues: Setting<u32>,
}

/// `[limits]` of the dataplane's process.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// LimitNOFILE: two sockets a stream.
    pub open_files: Setting<u64>,
    /// LimitMEMLOCK in KiB: rings, segment, AF_XDP's memory.
    pub locked_memory_kib: Setting<u64>,
}

/// A line of the sysctl file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// With dots.
    pub key: String,
    /// As it is written.
    pub value: String,
    /// From the comment above it.
    pub reason: String,
    /// More is as good: the comment begins with "At least:".
    pub is_minimum: bool,
}

impl Profile {
    /// One that is built in, or a file.
    pub fn load(name: &str) -> anyhow::Result<Self> {
        match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            Some((_, text)) => Self::parse(text).with_context(|| format!("profile {name}")),
            None => {
                let known: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                let text = std::fs::read_to_string(name)
                    .with_context(|| format!("profile {name}: neither a file nor one of {}", known.join(", ")))?;
                Self::parse(&text).with_context(|| format!("profile {name}"))
            }
        }
    }

    /// The largest general one that a host is large enough for.
    pub fn for_cores(cores: usize, nodes: usize) -> anyhow::Result<Self> {
        let mut best = Self::load("laptop")?;
        for name in ["8-core", "32-core-2-numa"] {
            let profile = Self::load(name)?;
            if profile.cores_min <= cores && profile.numa_nodes_min <= nodes {
                best = profile;
            }
        }
        Ok(best)
    }

    /// Reads a profile and refuses one that contradicts itself.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let profile: Self =
            toml::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.to_string().trim_end()))?;
        let Cores { workers, control, interrupts, .. } = &profile.cores;
        for (name, others) in [("control", control), ("interrupts", interrupts)] {
            let shared = workers.value.and(&others.value);
            anyhow::ensure!(shared.is_empty(), "cores.workers and cores.{name} share {shared}");
        }
        let [first, last] = profile.network.rtp_ports.value;
        anyhow::ensure!(first < last, "network.rtp_ports: {first} is not below {last}");
        Ok(profile)
    }

    /// Its RTP ports.
    pub fn rtp_ports(&self) -> RangeInclusive<u16> {
        let [first, last] = self.network.rtp_ports.value;
        first..=last
    }
}

/// The lines of the sysctl file.
pub fn sysctls() -> Vec<Sysctl> {
    parse_sysctls(SYSCTLS)
}

/// A line of comment, or more, and the line that they are for.
fn parse_sysctls(text: &str) -> Vec<Sysctl> {
    let mut comment = String::new();
    let mut all: BTreeMap<usize, Sysctl> = BTreeMap::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        match (line.strip_prefix('#'), line.split_once('=')) {
            (Some(words), _) => {
                comment.push(' ');
                comment.push_str(words.trim());
            }
            (None, Some((key, value))) => {
                let reason = comment.trim();
                let (is_minimum, reason) = match reason.strip_prefix("At least:") {
                    Some(reason) => (true, reason.trim()),
                    None => (false, reason),
                };
                let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
                all.insert(number, Sysctl { key, value, reason: reason.to_owned(), is_minimum });
                comment.clear();
            }
            // An empty line ends what is not said of a setting.
            (None, None) => comment.clear(),
        }
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_sound_and_every_setting_has_its_reason() {
        for (name, text) in BUILT_IN {
            let profile = Profile::load(name).unwrap();
            assert_eq!(profile.name, name);
            let table: toml::Table = text.parse().unwrap();
            let mut settings = 0;
            for (section, value) in table.iter().filter_map(|(name, value)| Some((name, value.as_table()?))) {
                for (key, setting) in value {
                    let reason = setting["reason"].as_str().unwrap_or_default();
                    assert!(
                        reason.split_whitespace().count() >= 5,
                        "{name}: {section}.{key} has no reason: {reason:?}"
                    );
                    settings += 1;
                }
            }
            assert_eq!(settings, 13, "{name}");
            let highest = profile.cores.workers.value.iter().chain(profile.cores.control.value.iter()).max();
            assert!(highest.is_none_or(|core| (core as usize) < profile.cores_min), "{name} has cores beyond its own");
        }
    }

    #[test]
    fn every_sysctl_has_its_reason_and_stands_once() {
        let all = sysctls();
        assert!(all.len() >= 8);
        for it in &all {
            assert!(it.reason.split_whitespace().count() >= 5, "{}: {:?}", it.key, it.reason);
            assert_eq!(all.iter().filter(|other| other.key == it.key).count(), 1, "{}", it.key);
            assert!(!it.value.is_empty());
        }
        let parsed = parse_sysctls("# About it all.\n\n# At least: room\n# for bursts.\na.b = 1 2\nc=3\n");
        assert_eq!(
            (parsed[0].reason.as_str(), parsed[0].is_minimum, parsed[0].value.as_str()),
            ("room for bursts.", true, "1 2")
        );
        assert_eq!((parsed[1].reason.as_str(), parsed[1].is_minimum), ("", false));
    }

    #[test]
    fn the_profile_follows_from_the_host_and_contradictions_are_named() {
        for (cores, nodes, name) in [(2, 1, "laptop"), (8, 1, "8-core"), (40, 1, "8-core"), (64, 2, "32-core-2-numa")] {
            assert_eq!(Profile::for_cores(cores, nodes).unwrap().name, name);
        }
        let (_, text) = BUILT_IN[1];
        let shared = text.replace("control = { value = \"1-3\"", "control = { value = \"1-4\"");
        assert!(Profile::parse(&shared).unwrap_err().to_string().contains("share 4"));
        assert!(Profile::parse(&text.replace("rtp_ports", "rtp_port")).unwrap_err().to_string().contains("rtp_port"));
        assert!(Profile::load("9-core").unwrap_err().to_string().contains("laptop, 8-core"));
    }
}
