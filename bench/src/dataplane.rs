//! `nebula-dataplane` under measurement: started with one worker and driven over its ring, as the media agent does.

use crate::load::Leg;
use crate::place::Place;
use crate::process::Process;
use crate::srtp::{Keys, master};
use anyhow::{Context, Result, bail};
use nebula_ring::segment::Counter;
use nebula_ring::srtp::{SrtpConfig, Suite};
use nebula_ring::{Attached, Command as Order, Dataplane, Event, Mode, PayloadType, SendError, StreamConfig, StreamId};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(5);

/// A running dataplane that we are attached to.
pub struct NebulaDataplane {
    /// The daemon.
    pub process: Process,
    attached: Attached,
    correlation: u64,
    _folder: TempDir,
}

impl NebulaDataplane {
    /// Starts one with further options and attaches to it.
    pub fn start(program: &Path, place: &Place, options: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("dataplane.sock");
        let mut command = place.command(program);
        command
            .args(options)
            .arg("--socket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = Process::spawn(command).with_context(|| program.display().to_string())?;
        let end = Instant::now() + DEADLINE;
        let attached = loop {
            match Dataplane::attach(&socket) {
                Ok(attached) => break attached,
                Err(e) if Instant::now() > end || process.ended() => bail!("the dataplane does not come up: {e}"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let correlation = attached.epoch() << 32;
        Ok(Self { process, attached, correlation, _folder: folder })
    }

    /// Sets a call up between two phones, in the clear or with SRTP: what `a` and `b` must know.
    pub fn call(
        &mut self,
        place: &Place,
        call: usize,
        [a, b]: [SocketAddr; 2],
        suite: Option<Suite>,
    ) -> Result<[Leg; 2]> {
        let ids = [1, 2].map(|leg| StreamId(2 * call as u64 + leg));
        let mut leg = |leg: usize, phone| -> Result<Leg> {
            let to: SocketAddr = (place.relay_ip, place.free_ports()?).into();
            let key = |suite, whose| master(suite, [call as u32, leg as u32, whose]);
            let keys =
                suite.map(|suite| anyhow::Ok(Keys { sends: key(suite, 0)?, hears: key(suite, 1)? })).transpose()?;
            let config = stream(to, phone, ids[leg], keys.as_ref());
            self.order(&Order::CreateStream { id: ids[leg], config })?;
            Ok(Leg { to, keys })
        };
        let legs = [leg(0, a)?, leg(1, b)?];
        self.order(&Order::CreateBridge { a: ids[0], b: ids[1] })?;
        Ok(legs)
    }

    /// Packets that came as frames, by AF_XDP.
    pub fn frames_received(&self) -> u64 {
        self.attached.segment().counter(0, Counter::FramesReceived)
    }

    /// Turns of its worker so far, and the packets that it received in them.
    pub fn turns(&self) -> (u64, u64) {
        let counter = |counter| self.attached.segment().counter(0, counter);
        (counter(Counter::Turns), counter(Counter::PacketsReceived))
    }

    fn order(&mut self, order: &Order) -> Result<()> {
        self.correlation += 1;
        let wanted = self.correlation;
        let worker = &mut self.attached.workers()[0];
        let end = Instant::now() + DEADLINE;
        while let Err(e) = worker.send(wanted, order) {
            match e {
                SendError::Busy if Instant::now() < end => std::thread::yield_now(),
                e => bail!("{e}"),
            }
        }
        while Instant::now() < end {
            match worker.receive() {
                Some(Event::Done { correlation }) if correlation == wanted => return Ok(()),
                Some(Event::Failed { correlation, reason }) if correlation == wanted => bail!("{order:?}: {reason:?}"),
                Some(_) => {}
                None => std::thread::yield_now(),
            }
        }
        bail!("no answer to {order:?}")
    }
}

/// RTP and RTCP on ports of their own, as rtpengine has them unless both phones multiplex.
fn stream(local: SocketAddr, phone: SocketAddr, id: StreamId, keys: Option<&Keys>) -> StreamConfig {
    let srtp = |keys: &Keys| SrtpConfig { receive: Some(keys.sends.clone()), send: Some(keys.hears.clone()) };
    StreamConfig {
        local_ip: local.ip(),
        rtp_port: local.port(),
        rtcp_port: local.port() + 1,
        remote_rtp: Some(phone),
        remote_rtcp: Some((phone.ip(), phone.port().saturating_add(1)).into()),
        nat_expected: false,
        learning_window_ms: 1000,
        learn_from: None,
        relatch_interval_ms: 0,
        receive: true,
        send: true,
        mode: Mode::Bridge,
        rtp_timeout_ms: 0,
        ssrc: id.0 as u32,
        srtp: keys.map(srtp),
        payload_types: [PayloadType { number: 0, forward_as: 0, clock_rate_hz: 8000 }].into_iter().collect(),
    }
}
