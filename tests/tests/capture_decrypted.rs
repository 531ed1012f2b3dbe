//! `nebula capture --decrypt`: what is in the file is what the phones said, on both legs, whatever suite, also under new keys; the
//! log says who did it; and whoever is neither root nor the agent's user is told that he may not.

use nebula_tests::faults::hold::Hold;
use nebula_tests::process::binary;
use nebula_tests::system::{System, run};
use nebula_tests::wait_for;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(40);
const NOBODY: u32 = 65_534;
const PACKETS_MAX: usize = 900;

/// Capturing needs rights, and so does becoming nobody.
fn is_root() -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        eprintln!("left out: it needs root");
    }
    is
}

fn capture(program: &Path, system: &System, stream: &str, file: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["capture", stream, "--both-legs", "--seconds", "30", "--state"]).arg(system.state());
    command.arg("--pcap").arg(file).args(more).current_dir("/");
    command
}

/// UDP payloads with source and target port, of a file of IPv4 packets as `nebula capture` writes it.
fn packets(file: &Path) -> Vec<([u16; 2], Vec<u8>)> {
    let bytes = std::fs::read(file).expect("a file");
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let (mut at, mut all) = (24, Vec::new());
    while at < bytes.len() {
        let packet = &bytes[at + 16..at + 16 + word(at + 8)];
        assert_eq!((packet[0], packet[9]), (0x45, 17), "UDP over IPv4");
        let half = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        assert_eq!(usize::from(half(2)), packet.len(), "IP's length");
        assert_eq!(usize::from(half(24)), packet.len() - 20, "UDP's length");
        all.push(([half(20), half(22)], packet[28..].to_vec()));
        at += 16 + packet.len();
    }
    all
}

/// splitmix64, as nebula-load's phones use it.
fn step(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whose packet of which number it is, if every byte of its payload is as a phone of nebula-load says it: origin, number, time,
/// and noise that follows from them.
fn said(rtp: &[u8]) -> Option<(u32, u64)> {
    let payload = rtp.get(12..).filter(|payload| payload.len() == 160)?;
    let origin = u32::from_be_bytes(payload[..4].try_into().ok()?);
    let [number, sent] = [4, 12].map(|at| u64::from_be_bytes(payload[at..at + 8].try_into().expect("eight bytes")));
    let mut noise = step((u64::from(origin) << 32) ^ number ^ sent.rotate_left(17));
    let is_noise = payload[20..].chunks(8).all(|chunk| {
        noise = step(noise);
        noise.to_be_bytes()[..chunk.len()] == *chunk
    });
    is_noise.then_some((origin, number))
}

fn is_rtcp(payload: &[u8]) -> bool {
    (192..=223).contains(&payload[1])
}

#[test]
fn what_is_captured_decrypted_is_what_was_said() {
    if !is_root() {
        return;
    }
    let system = System::start_with(&[("NEBULA__MEDIA__SRTP", "required")]);
    // Each leg has a suite of its own, and both numbers pass their wrap before the capture begins.
    let suites = "AEAD_AES_128_GCM,AES_CM_128_HMAC_SHA1_32";
    let mut phones = Hold::start(&[system.sip()], &["--srtp", suites, "--first-sequence", "65500"]);
    assert_eq!(phones.run("place 1 20", DEADLINE)["answered"], 1);
    let received = |phones: &mut Hold| phones.run("sums", DEADLINE)["packets_received"].as_u64().expect("a count");
    wait_for("numbers past their wrap", DEADLINE, || (received(&mut phones) > 200).then_some(()));
    let call = system.wait_for_talking(1).remove(0);
    let stream = call["streams"][0].as_str().expect("a stream").to_owned();

    let folder = tempfile::tempdir().expect("a folder");
    let closed = folder.path().join("closed.pcap");
    let (status, _, err) = run(capture(&binary("nebula"), &system, &stream, &closed, &["--packets-max", "100"]));
    assert!(status.success(), "{err}");
    let sealed = packets(&closed);
    assert!(sealed.len() >= 100 && sealed.iter().all(|(_, payload)| said(payload).is_none()), "without --decrypt");

    let open = folder.path().join("open.pcap");
    let most = PACKETS_MAX.to_string();
    let mut command = capture(&binary("nebula"), &system, &stream, &open, &["--decrypt", "--packets-max", &most]);
    let log = std::fs::File::create(folder.path().join("log")).expect("a file");
    command.stdin(Stdio::null()).stderr(log);
    let mut capturing = nebula_tests::process::Process::spawn(command);
    let told = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    wait_for("the capture to begin", DEADLINE, || {
        assert!(capturing.runs(), "{}", told());
        told().contains("capturing").then_some(())
    });
    // In its middle both phones take new keys.
    for end in ["caller", "callee"] {
        assert_eq!(phones.run(&format!("rekey all {end}"), DEADLINE)["good"], 1);
    }
    assert!(capturing.wait(DEADLINE).success(), "{}", told());

    let all = packets(&open);
    let rtp: Vec<_> = all.iter().filter(|(_, payload)| !is_rtcp(payload)).collect();
    assert!(rtp.len() >= PACKETS_MAX * 9 / 10, "{} of {}", rtp.len(), all.len());
    // Of each of the four ways (source and target port): whose packets, and their numbers in order.
    let mut ways: BTreeMap<[u16; 2], Vec<(u32, u64)>> = BTreeMap::new();
    for (ports, payload) in &rtp {
        let said =
            said(payload).unwrap_or_else(|| panic!("{ports:?}: not what a phone says: {payload:02x?}\n{}", told()));
        ways.entry(*ports).or_default().push(said);
    }
    assert_eq!(ways.len(), 4, "in and out of both legs: {ways:?}");
    for (ports, said) in &ways {
        assert!(said.len() >= PACKETS_MAX / 8, "{ports:?}: {}", said.len());
        assert!(said.windows(2).all(|two| two[0].0 == two[1].0 && two[0].1 + 1 == two[1].1), "{ports:?}: {said:?}");
    }
    let origins: Vec<u32> = ways.values().map(|said| said[0].0).collect();
    assert_eq!([1, 2].map(|origin| origins.iter().filter(|it| **it == origin).count()), [2, 2], "each in and out");
    assert!(told().contains("decrypted") && !told().contains("stay as they were"), "{}", told());
    assert_eq!(std::fs::metadata(&open).expect("a file").permissions().mode() & 0o077, 0, "for its owner alone");

    let audit = system.log();
    let line = audit.lines().find(|line| line.contains("captured decrypted") && line.contains(&stream));
    let line = line.unwrap_or_else(|| panic!("no line about {stream}: {audit}"));
    assert!(line.contains("uid=0") && line.contains("pid="), "{line}");
}

#[test]
fn nobody_else_may() {
    if !is_root() {
        return;
    }
    let system = System::start_with(&[("NEBULA__MEDIA__SRTP", "required")]);
    let mut phones = Hold::start(&[system.sip()], &["--srtp", "AEAD_AES_128_GCM"]);
    assert_eq!(phones.run("place 1 20", DEADLINE)["answered"], 1);
    let call = system.wait_for_talking(1).remove(0);
    let stream = call["streams"][0].as_str().expect("a stream").to_owned();
    let folder = tempfile::tempdir().expect("a folder");
    let open = |path: &Path| std::fs::set_permissions(path, Permissions::from_mode(0o777)).expect("a mode");
    open(folder.path());
    // Where our programs are built nobody may look.
    let program = folder.path().join("nebula");
    std::fs::copy(binary("nebula"), &program).expect("a copy");
    let file = folder.path().join("stolen.pcap");
    let refused = || {
        let mut command = capture(&program, &system, &stream, &file, &["--decrypt"]);
        command.uid(NOBODY).gid(NOBODY);
        let (status, _, err) = run(command);
        assert!(!status.success() && !file.exists(), "{err}");
        assert!(err.contains("root and for the user that the media agent runs as"), "{err}");
        err
    };
    refused();
    // Modes may be wrong: the agent looks at who asks.
    open(system.state());
    open(&system.state().join("keys.sock"));
    open(&system.state().join("dataplane.sock"));
    assert!(refused().contains(&format!("user {NOBODY} may not")));
    wait_for("a line about it", DEADLINE, || {
        let log = system.log();
        log.lines().any(|line| line.contains("may not") && line.contains(&format!("uid={NOBODY}"))).then_some(())
    });
    assert!(!system.log().contains("captured decrypted"));
}
