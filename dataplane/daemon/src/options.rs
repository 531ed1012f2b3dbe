//! The command line. Ranges are checked here, so that everything behind it can rely on them.

use crate::overload;
use nebula_core::limits::STREAMS_MAX;
use nebula_io::xdp;
use nebula_ring::Sizes;
use nebula_ring::segment::WORKERS_MAX;
use std::path::PathBuf;
use std::time::Duration;

/// Nebula's media plane: relays RTP on its own, as told by the media agent over shared memory.
#[derive(Debug, Clone, clap::Parser)]
#[command(version)]
pub struct Options {
    /// The Unix socket at which control attaches
    #[arg(long, default_value = "/run/nebula/dataplane.sock")]
    pub socket: PathBuf,

    /// Cores for the workers, one pinned to each, such as 0,2,3. Without it there is one worker, which the scheduler places
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(..1024))]
    pub cores: Vec<u16>,

    /// Streams (call legs) per worker
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=i64::from(STREAMS_MAX)))]
    pub streams_max: u32,

    /// Receive buffers per worker, of 1,536 bytes each: a power of two from 64 to 32,768
    #[arg(long, default_value_t = 1024, value_parser = buffers)]
    pub buffers: u16,

    /// SO_RCVBUF of each media socket in bytes; the system's default without it
    #[arg(long)]
    pub socket_buffer_bytes: Option<usize>,

    /// How long a busy worker gathers packets before it handles them, in microseconds, unless a burst of twice what that time
    /// brings is there sooner: saves turns, costs latency. 0 handles each at once
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(..=10_000))]
    pub batch_us: u64,

    /// CPU time from which on a worker is overloaded, in thousandths of its core's: new calls are then refused, those that exist
    /// keep their quality
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u64).range(2..=1_000))]
    pub overload_cpu_permille: u64,

    /// The same by how late a worker comes on average to what is due, in microseconds: the core is taken away by others
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    pub overload_lateness_us: u64,

    /// Ethernet interfaces whose media go past the kernel's sockets, by AF_XDP, such as eth0,eth1. One that can't is served
    /// by io_uring like all others, and a line says why
    #[arg(long, value_delimiter = ',', value_name = "INTERFACES")]
    pub xdp: Vec<String>,

    /// Where the XDP program runs: in the driver, behind it (generic), or the former where it can (auto)
    #[arg(long, default_value = "auto", value_parser = xdp_mode, value_name = "auto|driver|generic")]
    pub xdp_mode: xdp::Mode,

    /// Frames of 2,048 bytes for each queue of these interfaces: a power of two from 64 to 32,768
    #[arg(long, default_value_t = 8192, value_parser = buffers)]
    pub xdp_frames: u16,

    /// How long a worker polls these interfaces' cards before it sleeps, in microseconds: saves interrupts, costs a core.
    /// 0 leaves it to interrupts. With it, set the card's napi_defer_hard_irqs and gro_flush_timeout
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000))]
    pub xdp_busy_poll_us: u64,
}

impl Options {
    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.cores.len().max(1)
    }

    /// The segment's sizes. `WORKERS_MAX` is checked where the segment is made.
    pub fn sizes(&self) -> Sizes {
        Sizes { workers: self.workers(), command_slots: 1024, event_slots: 1024, streams: self.streams_max as usize }
    }

    /// See `batch_us`.
    pub fn batch(&self) -> Option<Duration> {
        (self.batch_us > 0).then(|| Duration::from_micros(self.batch_us))
    }

    /// When a worker is overloaded.
    pub fn overload(&self) -> overload::Thresholds {
        let lateness_nanos = self.overload_lateness_us * 1000;
        overload::Thresholds { cpu_permille: self.overload_cpu_permille, lateness_nanos }
    }

    /// What AF_XDP is asked for.
    pub fn xdp(&self) -> xdp::Options {
        let busy_poll = (self.xdp_busy_poll_us > 0).then(|| Duration::from_micros(self.xdp_busy_poll_us));
        let tuning = xdp::Tuning { mode: self.xdp_mode, frames: self.xdp_frames.into(), busy_poll };
        xdp::Options { interfaces: self.xdp.clone(), streams_max: self.streams_max, tuning }
    }
}

const _: () = assert!(WORKERS_MAX == 64, "named in the documentation");

fn buffers(text: &str) -> Result<u16, String> {
    let buffers: u16 = text.parse().map_err(|_| "not a number up to 32768".to_owned())?;
    if buffers.is_power_of_two() && buffers >= 64 { Ok(buffers) } else { Err("not a power of two from 64".into()) }
}

fn xdp_mode(text: &str) -> Result<xdp::Mode, String> {
    match text {
        "auto" => Ok(xdp::Mode::Auto),
        "driver" => Ok(xdp::Mode::Driver),
        "generic" => Ok(xdp::Mode::Generic),
        _ => Err("neither auto, driver nor generic".into()),
    }
}
