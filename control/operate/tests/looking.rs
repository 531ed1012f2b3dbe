//! `nebula top` and `nebula stream` on a segment that is served as the dataplane serves its own: read over the attach socket,
//! by somebody who takes nothing over.

use nebula_operate::{stream, top};
use nebula_ring::attach::Server;
use nebula_ring::segment::Counter;
use nebula_ring::table::{FLAG_LATCHED, FLAG_OPEN, FLAG_RECEIVE, FLAG_SEND};
use nebula_ring::{Dataplane, DropReason, Sizes, StreamRecord};
use rustix::fd::AsFd;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// A segment with two workers, served until the test ends.
struct Stage {
    socket: PathBuf,
    stop: UnixStream,
    server: Option<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

fn record(id: u64, bridged_with: u64) -> StreamRecord {
    let mut record = StreamRecord {
        id,
        bridged_with,
        flags: FLAG_OPEN | FLAG_LATCHED | FLAG_SEND | FLAG_RECEIVE,
        packets_in: 100,
        payload_type_in: 8,
        clock_rate_in_hz: 8000,
        created_at_ms: 1,
        rtp_in_at_ms: u64::MAX / 2, // just now, whenever that is
        ..Default::default()
    };
    record.set_local([127, 0, 0, 1].into(), 10_000, 10_001);
    record.set_remote_rtp(Some("192.0.2.7:4000".parse().unwrap()));
    record
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("dataplane.sock");
        let sizes = Sizes { workers: 2, command_slots: 16, event_slots: 16, streams: 8 };
        let (server, ends) = Server::bind(&socket, sizes, 1_000).unwrap();
        let mut silent = StreamRecord { packets_in: 0, rtp_in_at_ms: 0, ..record(0xb1, 0xa1) };
        silent.drop_counts[DropReason::ForeignSource as usize] = 12;
        silent.set_refused_source(Some("203.0.113.9:777".parse().unwrap()));
        ends[0].publish(3, &record(0xa1, 0xb1));
        ends[1].publish(0, &silent);
        ends[1].publish(1, &StreamRecord { flags: 0, ..record(0xc1, 0) });
        ends[1].set(Counter::CpuPermille, 250);
        ends[1].beat(u64::MAX / 2);
        let (stop, stopped) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let _ends = ends;
            server.run(stopped.as_fd(), |_| ()).unwrap();
        });
        Self { socket, stop, server: Some(server), _folder: folder }
    }

    fn explain(&self, stream: &str, json: bool) -> anyhow::Result<String> {
        stream::text(&self.socket, &stream::Options { stream: stream.into(), json })
    }

    fn top(&self, json: bool) -> String {
        let options = top::Options { once: true, json, interval_ms: 100, streams: None, delay_ms: 50 };
        top::once(&self.socket, &options).unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.write_all(b"!").unwrap();
        self.server.take().unwrap().join().unwrap();
    }
}

#[test]
fn top_shows_workers_and_streams_and_control_stays_attached() {
    let stage = Stage::new();
    let control = Dataplane::attach(&stage.socket).unwrap();
    let text = stage.top(false);
    let few = top::Options { once: true, json: false, interval_ms: 100, streams: Some(1), delay_ms: 50 };
    assert!(top::once(&stage.socket, &few).unwrap().contains("2 streams"), "those that are not shown count too");
    assert!(text.contains("2 streams") && text.contains("00000000000000a1") && text.contains("PCMA"), "{text}");
    let view: serde_json::Value = serde_json::from_str(&stage.top(true)).unwrap();
    assert_eq!((view["pid"].as_u64(), view["epoch"].as_u64()), (Some(std::process::id().into()), Some(1)));
    assert_eq!(view["workers"][1]["cpu_percent"], 25.0);
    assert_eq!((&view["workers"][0]["stalled"], &view["workers"][1]["stalled"]), (&true.into(), &false.into()));
    assert_eq!(view["streams"].as_array().map(Vec::len), Some(2), "the one that has ended is not shown");
    assert_eq!(control.connection.lost(), None);
}

#[test]
fn stream_says_why_it_is_silent_and_what_its_other_leg_suffers() {
    let stage = Stage::new();
    let text = stage.explain("b1", false).unwrap();
    assert!(text.starts_with("12 packets came from a foreign source, last from 203.0.113.9:777"), "{text}");
    let other: serde_json::Value = serde_json::from_str(&stage.explain("a1", true).unwrap()).unwrap();
    assert_eq!(other["reasons"][0]["code"], "partner_silent");
    assert!(stage.explain("00000000000000c1", false).unwrap().starts_with("The stream has ended"));
    assert!(stage.explain("ffff", false).unwrap_err().to_string().contains("no stream"));
    assert!(stage.explain("1", false).unwrap_err().to_string().starts_with("2 streams"));
}

#[test]
fn a_dataplane_that_is_not_there_is_named() {
    let socket = PathBuf::from("/nonexistent/dataplane.sock");
    let error = stream::text(&socket, &stream::Options { stream: "1".into(), json: false }).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/dataplane.sock") && error.contains("--socket"), "{error}");
}
