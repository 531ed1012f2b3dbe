//! What of a host is not as a profile wants it. Pure: facts and wishes in, findings out, in the order of the profile.

use super::cores::CoreSet;
use super::host::Host;
use super::profile::{Profile, Setting, Sysctl};
use std::path::PathBuf;

/// One thing that is off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub what: String,
    /// As it is.
    pub is: String,
    /// As it should be.
    pub wanted: String,
    /// Why it matters.
    pub why: String,
    /// What mends it.
    pub mend: Mend,
}

/// What mends a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mend {
    /// A file of /proc or /sys to be written, named from the root of the host.
    File {
        /// Absolute.
        path: PathBuf,
        /// All of its new content.
        value: String,
    },
    /// A sysctl.
    Sysctl {
        /// With dots.
        key: String,
        /// Its new value.
        value: String,
    },
    /// Something that people must do: a boot parameter, a service, a purchase.
    ByHand(String),
}

impl Mend {
    /// The command that does it.
    pub fn command(&self) -> String {
        match self {
            Self::File { path, value } => format!("echo {value} > {}", path.display()),
            Self::Sysctl { key, value } => format!("sysctl -w {key}={}", quoted(value)),
            Self::ByHand(what) => what.clone(),
        }
    }

    /// The file that is to be written, and what with.
    pub fn file(&self) -> Option<(PathBuf, &str)> {
        match self {
            Self::File { path, value } => Some((path.clone(), value)),
            Self::Sysctl { key, value } => Some((format!("/proc/sys/{}", key.replace('.', "/")).into(), value)),
            Self::ByHand(_) => None,
        }
    }
}

fn quoted(value: &str) -> String {
    if value.contains(' ') { format!("{value:?}") } else { value.to_owned() }
}

/// Clocks that are read without a system call; each packet turn reads one.
const FAST_CLOCKS: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];
/// Multishot RecvMsg came with it.
const KERNEL_MIN: (u32, u32) = (6, 0);
const CPU_FOLDER: &str = "/sys/devices/system/cpu";

/// A power of two of pages that no free block reaches: 10 is the largest there is.
const NO_ORDER: u32 = 11;

/// Compares.
pub fn check(host: &Host, profile: &Profile, sysctls: &[Sysctl]) -> Vec<Finding> {
    let mut findings = Vec::new();
    size(host, profile, &mut findings);
    cores(host, profile, &mut findings);
    interrupts(host, profile, &mut findings);
    memory(host, profile, &mut findings);
    free_page_reporting(host, &mut findings);
    network(host, profile, &mut findings);
    for sysctl in sysctls {
        findings.extend(sysctl_of(host, &sysctl.key, &sysctl.value, sysctl.is_minimum, &sysctl.reason));
    }
    limits(host, profile, &mut findings);
    kernel(host, &mut findings);
    findings
}

fn by_hand(what: &str, is: impl ToString, wanted: impl ToString, why: &str, command: String) -> Finding {
    Finding {
        what: what.into(),
        is: is.to_string(),
        wanted: wanted.to_string(),
        why: why.into(),
        mend: Mend::ByHand(command),
    }
}

fn by_file(what: String, is: impl ToString, wanted: &str, why: &str, path: String) -> Finding {
    let mend = Mend::File { path: path.into(), value: wanted.into() };
    Finding { what, is: is.to_string(), wanted: wanted.into(), why: why.into(), mend }
}

fn size(host: &Host, profile: &Profile, findings: &mut Vec<Finding>) {
    for (what, is, wanted) in
        [("cores", host.cores.len(), profile.cores_min), ("NUMA nodes", host.nodes.len(), profile.numa_nodes_min)]
    {
        if is < wanted {
            let why = "The profile is for a larger host, and its core numbers are of that one.";
            findings.push(by_hand(
                what,
                is,
                format!("at least {wanted}"),
                why,
                "nebula tune check --profile laptop".into(),
            ));
        }
    }
}

fn cores(host: &Host, profile: &Profile, findings: &mut Vec<Finding>) {
    let workers = profile.cores.workers.value.and(&host.cores);
    let isolate = &profile.cores.isolate_workers;
    let exposed = workers.without(&host.isolated);
    if isolate.value && !exposed.is_empty() {
        let command = format!(
            "add isolcpus={workers} nohz_full={workers} rcu_nocbs={workers} to the kernel's command line and boot"
        );
        findings.push(by_hand("isolated cores", &host.isolated, &workers, &isolate.reason, command));
    }
    let governor = &profile.cores.governor;
    for (core, is) in
        host.governors.iter().filter(|(core, _)| workers.is_empty() || workers.iter().any(|it| it == **core))
    {
        if governor.value != "any" && *is != governor.value {
            let path = format!("{CPU_FOLDER}/cpu{core}/cpufreq/scaling_governor");
            findings.push(by_file(format!("governor of core {core}"), is, &governor.value, &governor.reason, path));
        }
    }
}

fn interrupts(host: &Host, profile: &Profile, findings: &mut Vec<Finding>) {
    let Setting { value: wanted, reason } = &profile.cores.interrupts;
    let wanted = wanted.and(&host.cores);
    if wanted.is_empty() {
        return;
    }
    if host.irqbalance_runs {
        let why = "It moves interrupts back to the workers' cores whatever is set here.";
        findings.push(by_hand("irqbalance", "running", "stopped", why, "systemctl disable --now irqbalance".into()));
    }
    let workers = &profile.cores.workers.value;
    for irq in host.irqs.iter().filter(|irq| !irq.cores.and(workers).is_empty()) {
        let what = format!("interrupt {} ({})", irq.number, irq.name);
        let path = format!("/proc/irq/{}/smp_affinity_list", irq.number);
        findings.push(by_file(what, format!("on cores {}", irq.cores), &wanted.to_string(), reason, path));
    }
}

fn memory(host: &Host, profile: &Profile, findings: &mut Vec<Finding>) {
    let Setting { value: wanted, reason } = &profile.memory.numa_nodes;
    let local: CoreSet =
        wanted.iter().filter_map(|node| host.nodes.get(node)).flat_map(|node| node.cores.iter()).collect();
    let remote = profile.cores.workers.value.and(&host.cores).without(&local);
    if !remote.is_empty() {
        let command = format!("set tuning.cores to cores of nodes {wanted:?}, which are {local}");
        findings.push(by_hand("workers' cores on other nodes", &remote, "none", reason, command));
    }
    let Setting { value: pages, reason } = &profile.memory.huge_pages_per_node;
    for node in wanted {
        let is = host.nodes.get(node).and_then(|node| node.huge_pages).unwrap_or(0);
        if is >= *pages {
            continue;
        }
        let what = format!("huge pages of node {node}");
        let path = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages");
        findings.push(match host.nodes.get(node).and_then(|node| node.huge_pages) {
            Some(is) => by_file(what, is, &pages.to_string(), reason, path),
            None => by_hand(&what, "not offered", pages, reason, "boot a kernel with CONFIG_HUGETLBFS".into()),
        });
    }
    let Setting { value: choice, reason } = &profile.memory.transparent_huge_pages;
    if let Some(is) = host.transparent_huge_pages.as_ref().filter(|is| *is != choice) {
        let path = "/sys/kernel/mm/transparent_hugepage/enabled".to_owned();
        findings.push(by_file("transparent huge pages".into(), is, choice, reason, path));
    }
}

/// Where a virtual machine gives freed memory back to its host, pages beside it are unmapped as well and fetched one by one.
fn free_page_reporting(host: &Host, findings: &mut Vec<Finding>) {
    if let Some(order) = host.page_reporting_order.filter(|order| *order < NO_ORDER) {
        let why = "Two seconds after a process has ended, the host takes its memory back, and every other process stalls \
                   for up to 50 ms while its own pages come back. If this kernel refuses the value, turn it off in the \
                   host (QEMU: free-page-reporting=off).";
        let path = "/sys/module/page_reporting/parameters/page_reporting_order".to_owned();
        let (is, wanted) = (format!("blocks of order {order}"), NO_ORDER.to_string());
        findings.push(by_file("memory given back to the host".into(), is, &wanted, why, path));
    }
}

fn network(host: &Host, profile: &Profile, findings: &mut Vec<Finding>) {
    let Setting { value: poll_us, reason } = &profile.network.busy_poll_us;
    for key in ["net.core.busy_poll", "net.core.busy_read"] {
        findings.extend(sysctl_of(host, key, &poll_us.to_string(), false, reason));
    }
    findings.extend(ports(host, profile));
    let Setting { value: queues, reason } = &profile.network.xdp_queues;
    if *queues > 0 && !host.queues.values().any(|it| it >= queues) {
        let is = host.queues.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ");
        let is = if is.is_empty() { "no interface of hardware".into() } else { is };
        let command = format!("ethtool -L INTERFACE combined {queues}");
        findings.push(by_hand("receive queues", is, format!("{queues} on one interface"), reason, command));
    }
}

/// Ports that the kernel may give to anybody must not be those that we promise to phones.
fn ports(host: &Host, profile: &Profile) -> Option<Finding> {
    let ephemeral = host.sysctl("net.ipv4.ip_local_port_range")?;
    let (low, high) = ephemeral.split_once(' ')?;
    let (low, high): (u16, u16) = (low.parse().ok()?, high.parse().ok()?);
    let (first, last) = profile.rtp_ports().into_inner();
    // A set of ports reads like one of cores.
    let reserved = host.sysctl("net.ipv4.ip_local_reserved_ports").unwrap_or_default();
    let exposed: CoreSet = (first.max(low)..=last.min(high)).map(u32::from).collect();
    let exposed = exposed.without(&reserved.parse().unwrap_or_default());
    (!exposed.is_empty()).then(|| {
        let key = "net.ipv4.ip_local_reserved_ports".to_owned();
        let both: CoreSet = exposed.iter().chain(reserved.parse::<CoreSet>().unwrap_or_default().iter()).collect();
        Finding {
            what: "RTP ports within the ephemeral range".into(),
            is: format!("{exposed} of {first}-{last} in {low}-{high}"),
            wanted: format!("reserved ({key})"),
            why: profile.network.rtp_ports.reason.clone(),
            mend: Mend::Sysctl { key, value: both.to_string() },
        }
    })
}

fn sysctl_of(host: &Host, key: &str, wanted: &str, is_minimum: bool, why: &str) -> Option<Finding> {
    let number = |text: &str| text.parse::<u64>().ok();
    let Some(is) = host.sysctl(key) else {
        let command = "see whether the host's own network namespace, or a newer kernel, has it".to_owned();
        return Some(by_hand(key, "not there", wanted, why, command));
    };
    let suffices = match (is_minimum, number(&is), number(wanted)) {
        (true, Some(is), Some(wanted)) => is >= wanted,
        _ => is == wanted,
    };
    (!suffices).then(|| Finding {
        what: key.into(),
        is,
        wanted: if is_minimum { format!("at least {wanted}") } else { wanted.into() },
        why: why.into(),
        mend: Mend::Sysctl { key: key.into(), value: wanted.into() },
    })
}

fn limits(host: &Host, profile: &Profile, findings: &mut Vec<Finding>) {
    let files = &profile.limits.open_files;
    if let Some(is) = host.limits.open_files.filter(|is| *is < files.value) {
        let command = format!("LimitNOFILE={} in the unit, or ulimit -Hn {}", files.value, files.value);
        findings.push(by_hand("limit of open files", is, format!("at least {}", files.value), &files.reason, command));
    }
    let locked = &profile.limits.locked_memory_kib;
    if let Some(is) = host.limits.locked_memory_bytes.map(|bytes| bytes / 1024).filter(|is| *is < locked.value) {
        let command = format!("LimitMEMLOCK={}K in the unit, or ulimit -Hl {}", locked.value, locked.value);
        let (is, wanted) = (format!("{is} KiB"), format!("at least {} KiB", locked.value));
        findings.push(by_hand("limit of locked memory", is, wanted, &locked.reason, command));
    }
}

fn kernel(host: &Host, findings: &mut Vec<Finding>) {
    if let Some((major, minor)) = host.kernel.filter(|is| *is < KERNEL_MIN) {
        let why = "io_uring's multishot receives, which the dataplane stands on, came with Linux 6.0.";
        findings.push(by_hand(
            "kernel",
            format!("{major}.{minor}"),
            "6.0 or newer",
            why,
            "install a newer kernel".into(),
        ));
    }
    let Some(is) = host.clocksource.as_ref().filter(|is| !FAST_CLOCKS.contains(&is.as_str())) else { return };
    let why =
        "The clock is read twice a turn; one that needs a system call or a slow device costs more than the packet.";
    findings.push(match host.clocksources.iter().find(|it| FAST_CLOCKS.contains(&it.as_str())) {
        Some(fast) => {
            let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource".to_owned();
            by_file("clocksource".into(), is, fast, why, path)
        }
        None => by_hand("clocksource", is, "tsc", why, "look into dmesg why the TSC was called unstable".into()),
    });
}
