//! The units in `tuning/systemd`: systemd itself finds nothing wrong with them, and what calls depend on is set.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn units() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tuning/systemd");
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read_to_string(path).expect("a unit"))
    };
    fs::read_dir(folder).expect("the units").map(|entry| read(entry.expect("a unit").path())).collect()
}

/// Folder, file and text of what may be dropped in.
fn drop_ins() -> Vec<(String, String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tuning/systemd-dropins");
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let entries = |path: &Path| fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut all = Vec::new();
    for unit in entries(&folder) {
        for file in entries(&unit) {
            all.push((name(&unit), name(&file), fs::read_to_string(&file).expect("a drop-in")));
        }
    }
    all
}

/// The values of a key, in order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn there_is_a_unit_for_each_way_to_run() {
    let names: Vec<String> = units().into_keys().collect();
    let all = ["api", "dataplane", "media", "proxy", "switchboard"].map(|role| format!("nebula-{role}.service"));
    assert_eq!(names, [&all[..], &["nebula.service".to_owned()]].concat());
}

#[test]
fn each_is_started_again_at_once_and_more_than_once() {
    for (name, unit) in units() {
        assert_eq!((values(&unit, "Restart"), values(&unit, "RestartSec")), (vec!["always"], vec!["100ms"]), "{name}");
        // systemd's default gives up after five starts in ten seconds.
        let burst: u32 = values(&unit, "StartLimitBurst")[0].parse().expect("a number");
        let interval_s: u32 = values(&unit, "StartLimitIntervalSec")[0].parse().expect("a number");
        assert!(burst >= 20 && interval_s >= 10, "{name}");
    }
}

#[test]
fn the_end_of_control_is_not_the_end_of_its_dataplane() {
    let units = units();
    assert_eq!(values(&units["nebula.service"], "KillMode"), ["process"]);
    assert_eq!(values(&units["nebula.service"], "SendSIGKILL"), ["no"]);
    let media = &units["nebula-media.service"];
    assert!(values(media, "ExecStart")[0].contains("--dataplane-socket /run/nebula/dataplane.sock"), "{media}");
    for key in ["Requires", "BindsTo", "PartOf", "PropagatesStopTo"] {
        for (name, unit) in &units {
            assert_eq!(values(unit, key), [""; 0], "{name}: {key} would end one with the other");
        }
    }
}

#[test]
fn the_dataplane_has_room_for_its_sockets_and_rings() {
    for name in ["nebula-dataplane.service", "nebula.service"] {
        let unit = &units()[name];
        let files: u32 = values(unit, "LimitNOFILE")[0].parse().expect("a number");
        // tuning.streams_max goes up to 32768 a worker, with two sockets a stream.
        assert!(files > 2 * 32_768, "{name}");
        assert_eq!(values(unit, "LimitMEMLOCK"), ["infinity"], "{name}");
    }
}

#[test]
fn the_dataplane_has_no_right_but_those_of_the_drop_in_for_af_xdp() {
    let unit = &units()["nebula-dataplane.service"];
    assert_eq!((values(unit, "CapabilityBoundingSet"), values(unit, "AmbientCapabilities")), (vec![""], vec![]));
    let drop_ins = drop_ins();
    for (unit, file, _) in &drop_ins {
        let unit = unit.strip_suffix(".d").unwrap_or_else(|| panic!("{unit}/{file} is for no unit"));
        assert!(units().contains_key(unit), "{unit}");
    }
    let (_, _, xdp) = drop_ins.iter().find(|(_, file, _)| file == "xdp.conf").expect("one for AF_XDP");
    for key in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert_eq!(values(xdp, key), ["CAP_BPF CAP_NET_ADMIN CAP_NET_RAW"], "{key}");
    }
    assert_eq!(
        (values(xdp, "SystemCallFilter"), values(xdp, "RestrictAddressFamilies")),
        (vec!["bpf"], vec!["AF_XDP"])
    );
}

#[test]
fn a_process_that_was_fenced_stays_down() {
    for (name, unit) in units().iter().filter(|(name, _)| *name != "nebula-dataplane.service") {
        assert_eq!(values(unit, "RestartPreventExitStatus"), ["3"], "{name}");
    }
}

#[test]
fn each_command_line_is_one() {
    for (name, unit) in units().iter().filter(|(name, _)| *name != "nebula-dataplane.service") {
        let line = values(unit, "ExecStart")[0];
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some("/usr/local/bin/nebula"), "{name}");
        // Before it does anything, it would say that it doesn't know a flag.
        let run = Command::new(env!("CARGO_BIN_EXE_nebula")).args(words).arg("--help").output().expect("nebula");
        assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn systemd_finds_nothing_wrong() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: systemd-analyze is not on this machine");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    for (name, unit) in units() {
        // The programs are not installed where the units look for them.
        let program = env!("CARGO_BIN_EXE_nebula");
        let unit = unit.replace("/usr/local/bin/nebula-dataplane", program).replace("/usr/local/bin/nebula", program);
        let path = folder.path().join(&name);
        fs::write(&path, unit).expect("written");
        verify.arg(path);
    }
    // Drop-ins are read beside the units that they are for.
    for (name, file, text) in drop_ins() {
        fs::create_dir_all(folder.path().join(&name)).expect("a folder");
        fs::write(folder.path().join(name).join(file), text).expect("written");
    }
    let run = verify.output().expect("systemd-analyze");
    let said = String::from_utf8_lossy(&run.stderr).into_owned() + &String::from_utf8_lossy(&run.stdout);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("nebula")).collect();
    assert!(run.status.success() && ours.is_empty(), "{said}");
}
