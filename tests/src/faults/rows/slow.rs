//! A client that asks over TCP and doesn't read the answers.

use super::super::trial::{HEALED, Trial, unix_ms};
use super::super::{Form, Seen};
use super::{RECORDS_DEADLINE, tell_log};
use crate::process::favour;
use crate::system::System;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long it may go on asking before it must have been disconnected.
const PATIENCE: Duration = Duration::from_secs(30);

/// By how much control may grow for the sake of one such client, MiB.
const GROWTH_MIB: f64 = 32.0;

/// How long others' calls may take to be answered meanwhile, at the worst.
const SETUP_MS: f64 = 1_000.0;

/// It asks as fast as it can until it is disconnected.
pub fn reader(form: &Form, seen: &mut Seen) {
    let system = System::start();
    favour(system.dataplane_pid());
    let mut trial = Trial::begin(form, &[system.sip()], seen);
    for _ in 0..form.rounds {
        trial.mark();
        let (sip, before) = (system.sip(), resident_mib(system.pid()));
        let flood = std::thread::spawn(move || ask_without_reading(sip));
        let trickle = trial.trickle(20, 10);
        let outcomes = trial.settle(trickle);
        let slowest = outcomes.iter().map(|(_, outcome)| took_ms(outcome)).fold(0.0, f64::max);
        let answered = outcomes.iter().filter(|(code, _)| *code == 200).count();
        trial
            .seen
            .expect(answered == outcomes.len(), || format!("{answered} of {} others were served", outcomes.len()));
        trial.seen.expect(slowest <= SETUP_MS, || format!("another call took {slowest:.0} ms to be answered"));
        let (cut, asked, took) = flood.join().expect("the flood");
        let growth = resident_mib(system.pid()) - before;
        trial.seen.expect(cut, || format!("{asked} requests in {took:?} and still connected"));
        trial.seen.expect(growth <= GROWTH_MIB, || format!("control grew by {growth:.0} MiB"));
        trial.seen.note(format!(
            "disconnected after {asked} requests and {:.1} s; control grew by {growth:.1} MiB; others' slowest set-up {slowest:.0} ms",
            took.as_secs_f64()
        ));
        trial.try_dialogs(unix_ms(), HEALED);
        trial.judge(Some(form.gap_ms_max()));
        trial.seen.rounds += 1;
        trial.place(form.calls.saturating_sub(trial.live()));
    }
    trial.finish(|n| system.wait_for_cdrs(n, RECORDS_DEADLINE));
    tell_log(seen, || system.log());
}

fn took_ms(outcome: &serde_json::Value) -> f64 {
    outcome["final_unix_ms"].as_f64().unwrap_or(f64::MAX) - outcome["sent_unix_ms"].as_f64().unwrap_or(0.0)
}

/// Whether it was disconnected, after how many requests, and when.
fn ask_without_reading(sip: SocketAddr) -> (bool, usize, Duration) {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(sip).expect("connected");
    stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let local = stream.local_addr().expect("an address");
    let mut asked = 0;
    while begun.elapsed() < PATIENCE {
        let request = format!(
            "OPTIONS sip:{sip} SIP/2.0\r\nVia: SIP/2.0/TCP {local};branch=z9hG4bKslow{asked}\r\nMax-Forwards: 70\r\n\
             From: <sip:slow@{local}>;tag=s{asked}\r\nTo: <sip:{sip}>\r\nCall-ID: slow{asked}\r\nCSeq: 1 OPTIONS\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let sent = stream.write_all(request.as_bytes());
        match sent {
            Ok(()) => asked += 1,
            // The other side has stopped reading, too: that bounds it as well; it still has to let go of us.
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return (true, asked, begun.elapsed()),
        }
    }
    (false, asked, begun.elapsed())
}

/// Resident memory.
fn resident_mib(pid: i32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
