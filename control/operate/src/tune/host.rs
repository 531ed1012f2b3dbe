//! The facts of a host, read from a root folder: tests give it a tree of files. What is not there is none, never an error;
//! `check` decides what that means.

use super::cores::CoreSet;
use super::irq::{self, Irq};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a host is like.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Online.
    pub cores: CoreSet,
    /// NUMA nodes by number; a host without any counts as one.
    pub nodes: BTreeMap<u32, Node>,
    /// By core, where there is cpufreq.
    pub governors: BTreeMap<u32, String>,
    /// Kept free by the scheduler (isolcpus).
    pub isolated: CoreSet,
    /// Of devices.
    pub irqs: Vec<Irq>,
    /// Somebody moves interrupts around.
    pub irqbalance_runs: bool,
    /// In use, and those that could be.
    pub clocksource: Option<String>,
    /// Names, as the kernel lists them.
    pub clocksources: Vec<String>,
    /// The choice in force.
    pub transparent_huge_pages: Option<String>,
    /// The smallest free block, as a power of two of pages, that a virtual machine gives back to its host; none if it gives
    /// nothing back.
    pub page_reporting_order: Option<u32>,
    /// `major.minor`.
    pub kernel: Option<(u32, u32)>,
    /// Soft limits of the process; the hard one of open files, to which the dataplane helps itself.
    pub limits: Limits,
    /// Queues of each interface that hardware has, by name.
    pub queues: BTreeMap<String, u32>,
    proc_sys: PathBuf,
}

/// A NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its cores.
    pub cores: CoreSet,
    /// Huge pages of 2 MiB that it has.
    pub huge_pages: Option<u64>,
}

/// What a process may have; none is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// RLIMIT_NOFILE, hard.
    pub open_files: Option<u64>,
    /// RLIMIT_MEMLOCK, hard.
    pub locked_memory_bytes: Option<u64>,
}

/// Processes that are looked at for irqbalance, at most: a host with more has other worries.
const PROCESSES_MAX: usize = 100_000;

/// VIRTIO_BALLOON_F_REPORTING (virtio 1.2, 5.5.3).
const BALLOON_REPORTING_BIT: usize = 5;

impl Host {
    /// Reads what is under a root; limits are those of a process, or else of ourselves.
    pub fn read(root: &Path, pid: Option<u32>) -> std::io::Result<Self> {
        let (proc, sys) = (root.join("proc"), root.join("sys"));
        let cpu = sys.join("devices/system/cpu");
        let cores = cores_in(&cpu.join("online")).unwrap_or_default();
        let clock = sys.join("devices/system/clocksource/clocksource0");
        let governor = |core: u32| Some((core, text(&cpu.join(format!("cpu{core}/cpufreq/scaling_governor")))?));
        let process = pid.map_or("self".to_owned(), |pid| pid.to_string());
        Ok(Self {
            governors: cores.iter().filter_map(governor).collect(),
            nodes: nodes(&sys.join("devices/system/node"), &cores),
            isolated: cores_in(&cpu.join("isolated")).unwrap_or_default(),
            irqs: irq::read(&proc),
            irqbalance_runs: runs(&proc, "irqbalance"),
            clocksource: text(&clock.join("current_clocksource")),
            clocksources: text(&clock.join("available_clocksource"))
                .map(|all| all.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            transparent_huge_pages: text(&sys.join("kernel/mm/transparent_hugepage/enabled")).map(|all| chosen(&all)),
            page_reporting_order: reports_free_pages(&sys.join("bus/virtio/drivers/virtio_balloon"))
                .then(|| text(&sys.join("module/page_reporting/parameters/page_reporting_order"))?.parse().ok())
                .flatten(),
            kernel: text(&proc.join("sys/kernel/osrelease")).and_then(|release| version(&release)),
            limits: limits(&fs::read_to_string(proc.join(process).join("limits"))?),
            queues: queues(&sys.join("class/net")),
            proc_sys: proc.join("sys"),
            cores,
        })
    }

    /// A sysctl, its blanks made single; none if this kernel, or this network namespace, does not have it.
    pub fn sysctl(&self, key: &str) -> Option<String> {
        text(&self.proc_sys.join(key.replace('.', "/"))).map(|value| single_blanks(&value))
    }
}

/// What a file of choices such as `always [madvise] never` has chosen; any other text as it is, with single blanks.
pub fn chosen(text: &str) -> String {
    let bracketed = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    bracketed.map_or_else(|| single_blanks(text), |(choice, _)| choice.to_owned())
}

fn single_blanks(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Whether a memory balloon has the feature: a device's `features` has a digit for each, the first one's first.
fn reports_free_pages(driver: &Path) -> bool {
    let devices = fs::read_dir(driver).into_iter().flatten().flatten();
    let mut features = devices.filter_map(|device| text(&device.path().join("features")));
    features.any(|bits| bits.as_bytes().get(BALLOON_REPORTING_BIT) == Some(&b'1'))
}

fn cores_in(path: &Path) -> Option<CoreSet> {
    text(path)?.parse().ok()
}

fn nodes(folder: &Path, cores: &CoreSet) -> BTreeMap<u32, Node> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let found: BTreeMap<u32, Node> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            let huge = entry.path().join("hugepages/hugepages-2048kB/nr_hugepages");
            let huge_pages = text(&huge).and_then(|count| count.parse().ok());
            Some((number, Node { cores: cores_in(&entry.path().join("cpulist"))?, huge_pages }))
        })
        .collect();
    if found.is_empty() { [(0, Node { cores: cores.clone(), huge_pages: None })].into() } else { found }
}

fn runs(proc: &Path, name: &str) -> bool {
    let processes = fs::read_dir(proc).into_iter().flatten().flatten().take(PROCESSES_MAX);
    processes
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()))
        .any(|entry| text(&entry.path().join("comm")).as_deref() == Some(name))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Of `/proc/PID/limits`: name, soft, hard, unit, in columns of blanks.
fn limits(table: &str) -> Limits {
    let hard = |name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Limits { open_files: hard("Max open files"), locked_memory_bytes: hard("Max locked memory") }
}

/// Interfaces that stand for hardware have a `device`.
fn queues(folder: &Path) -> BTreeMap<String, u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| {
            let queues = fs::read_dir(entry.path().join("queues")).ok()?.flatten();
            let received = queues.filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-")).count();
            Some((entry.file_name().into_string().ok()?, received as u32))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_texts_of_the_kernel_are_read() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen("32768\t60999"), "32768 60999");
        assert_eq!((version("6.12.5-amd64"), version("x")), (Some((6, 12)), None));
        let table = "Limit                     Soft Limit           Hard Limit           Units     \n\
                     Max locked memory         8388608              unlimited            bytes     \n\
                     Max open files            1024                 524288               files     \n";
        assert_eq!(limits(table), Limits { open_files: Some(524_288), locked_memory_bytes: None });
    }

    #[test]
    fn this_host_has_cores_limits_and_sysctls() {
        let host = Host::read(Path::new("/"), None).unwrap();
        assert!(!host.cores.is_empty() && !host.nodes.is_empty() && host.kernel.is_some());
        assert!(host.sysctl("kernel.osrelease").is_some() && host.sysctl("no.such").is_none());
    }
}
