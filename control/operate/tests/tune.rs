//! `nebula tune` against a tree of files as /proc and /sys, and once against this machine.

use nebula_operate::tune::{CoreSet, Finding, Host, Mend, Profile, Sysctl, apply, check, revert};
use std::fs;
use std::path::{Path, PathBuf};

/// A host that is as profile 8-core wants it.
fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let limits = "Limit  Soft Limit  Hard Limit  Units\n\
                  Max open files            1024                 131072               files     \n\
                  Max locked memory         unlimited            unlimited            bytes     \n";
    let mut files: Vec<(String, String)> = [
        ("proc/self/limits", limits),
        (
            "proc/interrupts",
            "       CPU0\n 24:  1  IO-APIC  eth0-rx-0\n 25:  1  IO-APIC  ttyS0\nNMI:  0  Non-maskable\n",
        ),
        ("proc/irq/24/smp_affinity_list", "0-3\n"),
        ("proc/irq/25/smp_affinity_list", "2\n"),
        ("proc/irq/99/smp_affinity_list", "0-7\n"), // no device has it
        ("proc/1/comm", "init\n"),
        ("proc/sys/kernel/osrelease", "6.12.5-amd64\n"),
        ("proc/sys/net/core/busy_poll", "0\n"),
        ("proc/sys/net/core/busy_read", "0\n"),
        ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
        ("proc/sys/net/ipv4/ip_local_reserved_ports", "\n"),
        ("proc/sys/net/core/rmem_max", "8388608\n"),
        ("proc/sys/vm/swappiness", "1\n"),
        ("sys/devices/system/cpu/online", "0-7\n"),
        ("sys/devices/system/cpu/isolated", "\n"),
        ("sys/devices/system/node/node0/cpulist", "0-7\n"),
        ("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "64\n"),
        ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
        ("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet acpi_pm\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ("sys/bus/virtio/drivers/virtio_balloon/virtio0/features", "011001010000\n"),
        ("sys/module/page_reporting/parameters/page_reporting_order", "11\n"),
        ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n"),
        ("sys/class/net/eth0/device/vendor", "0x8086\n"),
    ]
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .into();
    for core in 0..8 {
        files.push((format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"), "performance\n".into()));
    }
    files.iter().for_each(|(path, text)| put(root.path(), path, text));
    root
}

fn put(root: &Path, path: &str, text: &str) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

fn sysctls() -> Vec<Sysctl> {
    let of = |key: &str, value: &str, is_minimum| Sysctl {
        key: key.into(),
        value: value.into(),
        reason: "for a reason of its own".into(),
        is_minimum,
    };
    vec![of("net.core.rmem_max", "4194304", true), of("vm.swappiness", "1", false)]
}

fn findings(root: &Path, profile: &str) -> Vec<Finding> {
    check(&Host::read(root, None).unwrap(), &Profile::load(profile).unwrap(), &sysctls())
}

#[test]
fn a_host_as_the_profile_wants_it_has_nothing_off() {
    let root = tree();
    assert_eq!(findings(root.path(), "8-core"), []);
}

#[test]
fn each_fact_that_is_off_is_found_alone_with_its_reason_and_its_mend() {
    let cpu = "sys/devices/system/cpu";
    let node = "sys/devices/system/node/node0";
    let irq = "proc/irq/24/smp_affinity_list";
    let limits = "Max open files  1024  4096  files\nMax locked memory  unlimited  unlimited  bytes\n";
    let locked = "Max open files  1024  131072  files\nMax locked memory  65536  65536  bytes\n";
    for (path, text, what, mend) in [
        (
            &format!("{cpu}/cpu5/cpufreq/scaling_governor")[..],
            "powersave",
            "governor of core 5",
            "echo performance > /sys/devices/system/cpu/cpu5/cpufreq/scaling_governor",
        ),
        (irq, "0-7", "interrupt 24 (eth0-rx-0)", "echo 0-3 > /proc/irq/24/smp_affinity_list"),
        ("proc/77/comm", "irqbalance\n", "irqbalance", "systemctl disable --now irqbalance"),
        (
            &format!("{node}/hugepages/hugepages-2048kB/nr_hugepages"),
            "10",
            "huge pages of node 0",
            "echo 64 > /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
        ),
        (&format!("{node}/cpulist"), "0-3", "workers' cores on other nodes", "tuning.cores"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "[always] madvise never",
            "transparent huge pages",
            "echo madvise",
        ),
        (
            "sys/module/page_reporting/parameters/page_reporting_order",
            "9",
            "memory given back to the host",
            "echo 11 > /sys/module/page_reporting/parameters/page_reporting_order",
        ),
        ("proc/sys/net/core/busy_poll", "50", "net.core.busy_poll", "sysctl -w net.core.busy_poll=0"),
        ("proc/sys/vm/swappiness", "60", "vm.swappiness", "sysctl -w vm.swappiness=1"),
        ("proc/sys/net/core/rmem_max", "212992", "net.core.rmem_max", "sysctl -w net.core.rmem_max=4194304"),
        (
            "proc/sys/net/ipv4/ip_local_port_range",
            "20000 60999",
            "RTP ports within the ephemeral range",
            "sysctl -w net.ipv4.ip_local_reserved_ports=20000-29999",
        ),
        ("proc/self/limits", limits, "limit of open files", "LimitNOFILE=131072"),
        ("proc/self/limits", locked, "limit of locked memory", "LimitMEMLOCK=524288K"),
        ("proc/sys/kernel/osrelease", "5.15.0", "kernel", "newer kernel"),
        ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet", "clocksource", "echo tsc >"),
    ] {
        let root = tree();
        put(root.path(), path, text);
        let found = findings(root.path(), "8-core");
        let [it] = &found[..] else { panic!("{path}: {found:?}") };
        assert_eq!(it.what, what);
        assert!(it.mend.command().contains(mend), "{}", it.mend.command());
        assert!(it.why.split_whitespace().count() >= 5 && it.is != it.wanted, "{it:?}");
    }
}

#[test]
fn ports_that_are_reserved_are_no_finding_and_others_stay_reserved() {
    let root = tree();
    put(root.path(), "proc/sys/net/ipv4/ip_local_port_range", "29990 60999");
    put(root.path(), "proc/sys/net/ipv4/ip_local_reserved_ports", "29990-29994,50000");
    let found = findings(root.path(), "8-core");
    assert!(
        matches!(&found[..], [Finding { mend: Mend::Sysctl { value, .. }, .. }] if value == "29990-29999,50000"),
        "{found:?}"
    );
    put(root.path(), "proc/sys/net/ipv4/ip_local_reserved_ports", "29990-29999");
    assert_eq!(findings(root.path(), "8-core"), []);
}

#[test]
fn a_host_that_is_too_small_or_has_no_queues_is_told_so() {
    let root = tree();
    let whats = |profile: &str| findings(root.path(), profile).into_iter().map(|it| it.what).collect::<Vec<_>>();
    let large = whats("32-core-2-numa");
    assert!(
        ["cores", "NUMA nodes", "isolated cores"].iter().all(|what| large.contains(&(*what).to_owned())),
        "{large:?}"
    );
    assert!(whats("xdp-nic").contains(&"receive queues".to_owned()));
    fs::remove_file(root.path().join("proc/sys/vm/swappiness")).unwrap();
    let [missing] = &findings(root.path(), "8-core")[..] else { panic!() };
    assert_eq!((missing.is.as_str(), missing.mend.file()), ("not there", None));
}

#[test]
fn a_host_without_free_page_reporting_gives_nothing_back() {
    let root = tree();
    put(root.path(), "sys/module/page_reporting/parameters/page_reporting_order", "9");
    put(root.path(), "sys/bus/virtio/drivers/virtio_balloon/virtio0/features", "011000010000");
    assert_eq!(findings(root.path(), "8-core"), []);
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap().trim().to_owned()
}

#[test]
fn apply_then_revert_leaves_all_as_before() {
    let root = tree();
    let state = root.path().join("state/tune.state");
    let (governor, swappiness) = ("sys/devices/system/cpu/cpu4/cpufreq/scaling_governor", "proc/sys/vm/swappiness");
    let huge = "sys/kernel/mm/transparent_hugepage/enabled";
    put(root.path(), governor, "powersave");
    put(root.path(), swappiness, "60");
    put(root.path(), huge, "[always] madvise never");
    put(root.path(), "proc/sys/kernel/osrelease", "5.15.0"); // only people can mend that
    let found = findings(root.path(), "8-core");
    let outcomes = apply(root.path(), &state, &found).unwrap();
    assert!(outcomes.len() == 3 && outcomes.iter().all(|it| !it.is_failure()), "{outcomes:?}");
    assert_eq!([governor, swappiness, huge].map(|path| read(root.path(), path)), ["performance", "1", "madvise"]);
    let left: Vec<_> = findings(root.path(), "8-core").into_iter().map(|it| it.what).collect();
    assert_eq!(left, ["kernel"]);

    // Once more, after somebody changed one of them: what counts is what was there first.
    put(root.path(), swappiness, "30");
    apply(root.path(), &state, &findings(root.path(), "8-core")).unwrap();
    assert_eq!(read(root.path(), swappiness), "1");
    let outcomes = revert(root.path(), &state).unwrap();
    assert_eq!(outcomes.len(), 3);
    assert_eq!([governor, swappiness, huge].map(|path| read(root.path(), path)), ["powersave", "60", "always"]);
    assert!(!state.exists() && revert(root.path(), &state).unwrap().is_empty());
}

#[test]
fn what_somebody_else_has_changed_since_is_left_alone() {
    let root = tree();
    let state = root.path().join("tune.state");
    put(root.path(), "proc/sys/vm/swappiness", "60");
    apply(root.path(), &state, &findings(root.path(), "8-core")).unwrap();
    put(root.path(), "proc/sys/vm/swappiness", "42");
    let outcomes = revert(root.path(), &state).unwrap();
    assert!(outcomes[0].to_string().contains("left at 42"), "{outcomes:?}");
    assert_eq!(read(root.path(), "proc/sys/vm/swappiness"), "42");
}

/// A crash between the note and the write, or after both, is reverted alike.
#[test]
fn a_note_without_its_write_is_put_back_too() {
    let root = tree();
    let state = root.path().join("tune.state");
    put(root.path(), "proc/sys/vm/swappiness", "1");
    fs::write(&state, r#"{"path":"/proc/sys/vm/swappiness","before":"60","after":null}"#).unwrap();
    revert(root.path(), &state).unwrap();
    assert_eq!(read(root.path(), "proc/sys/vm/swappiness"), "60");
    fs::write(&state, "no state").unwrap();
    assert!(revert(root.path(), &state).unwrap_err().to_string().contains("no state"));
}

#[test]
fn nothing_is_changed_if_it_cannot_be_kept_and_a_refusal_is_told_and_forgotten() {
    let root = tree();
    put(root.path(), "proc/sys/vm/swappiness", "60");
    let found = findings(root.path(), "8-core");
    put(root.path(), "a_file", "");
    assert!(apply(root.path(), &root.path().join("a_file/tune.state"), &found).is_err());
    assert_eq!(read(root.path(), "proc/sys/vm/swappiness"), "60");

    let mend = Mend::File { path: PathBuf::from("/proc/irq"), value: "1".into() };
    let folder = Finding { mend, ..found[0].clone() };
    let state = root.path().join("tune.state");
    let outcomes = apply(root.path(), &state, &[folder]).unwrap();
    assert!(outcomes[0].is_failure() && !state.exists(), "{outcomes:?}");
}

/// This machine, with a setting that does no harm: the longest queue of packets per core, one more than it was.
#[test]
fn on_this_machine_apply_then_revert_leaves_all_as_before() {
    const KEY: &str = "net.core.netdev_max_backlog";
    let file = Path::new("/proc/sys/net/core/netdev_max_backlog");
    let Ok(before) = fs::read_to_string(file).map(|text| text.trim().to_owned()) else {
        return eprintln!("left out: this network namespace has no {KEY}");
    };
    if fs::write(file, &before).is_err() {
        return eprintln!("left out: {KEY} may not be written here");
    }
    struct Restore<'a>(&'a Path, &'a str);
    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            let _ = fs::write(self.0, self.1);
        }
    }
    let _restore = Restore(file, &before);
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("tune.state");
    let value = (before.parse::<u64>().unwrap() + 1).to_string();
    let host = Host::read(Path::new("/"), None).unwrap();
    let wish = Sysctl { key: KEY.into(), value: value.clone(), reason: String::new(), is_minimum: true };
    let found: Vec<Finding> =
        check(&host, &Profile::load("laptop").unwrap(), &[wish]).into_iter().filter(|it| it.what == KEY).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    apply(Path::new("/"), &state, &found).unwrap();
    assert_eq!(read(Path::new("/"), "proc/sys/net/core/netdev_max_backlog"), value);
    revert(Path::new("/"), &state).unwrap();
    assert_eq!(read(Path::new("/"), "proc/sys/net/core/netdev_max_backlog"), before);
}

#[test]
fn cores_of_profiles_fit_their_hosts() {
    let all: CoreSet = "0-7".parse().unwrap();
    assert!(Profile::load("8-core").unwrap().cores.workers.value.without(&all).is_empty());
}
