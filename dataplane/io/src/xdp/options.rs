//! What an operator can ask of AF_XDP, and why it may not be had.

use std::io;
use std::time::Duration;

/// Which interfaces, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Their names.
    pub interfaces: Vec<String>,
    /// Streams of a worker, each with up to two ports.
    pub streams_max: u32,
    /// How.
    pub tuning: Tuning,
}

/// How sockets are set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Where the program runs.
    pub mode: Mode,
    /// Chunks of 2,048 bytes for each queue: a power of two from 64.
    pub frames: u32,
    /// How long a worker polls the card before it sleeps; none leaves it to interrupts.
    pub busy_poll: Option<Duration>,
}

/// Where the XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// In the driver, or else behind it.
    #[default]
    Auto,
    /// In the driver or not at all.
    Driver,
    /// Behind the driver, with every driver.
    Generic,
}

/// Why an interface cannot be driven.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of the name in this network namespace.
    #[error("there is no such interface")]
    NoInterface,
    /// It has no Ethernet frames, such as the loopback.
    #[error("it is no Ethernet interface")]
    NotEthernet,
    /// The card takes VLAN tags out before the program sees a frame, so a peer's VLAN would never be known.
    #[error(
        "VLAN interfaces stand on it and the card takes their tags out; put an end to it: ethtool -K {interface} rxvlan off"
    )]
    VlanTagsTakenOut {
        /// Which.
        interface: String,
    },
    /// More interfaces than can be polled.
    #[error("there are {interfaces_max} already")]
    TooMany {
        /// The limit.
        interfaces_max: usize,
    },
    /// More queues than all workers can poll.
    #[error("it has {queues} queues and the workers can serve {most}; fewer: ethtool -L")]
    TooManyQueues {
        /// How many it has.
        queues: u32,
        /// How many are possible.
        most: usize,
    },
    /// The process may not.
    #[error("{0} (AF_XDP needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF)")]
    Rights(#[source] io::Error),
    /// The program does not load.
    #[error("the kernel refuses the program: {0}")]
    Program(String),
    /// The interface takes no program, or has another one.
    #[error("the program cannot be attached: {0} (Linux 5.9; and no other program on the interface)")]
    Attach(#[source] io::Error),
    /// A resource is missing.
    #[error("{what}: {source}")]
    Socket {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}
