//! The packet socket: the kernel's copies of packets, filtered, with its own time.

use super::filter::{Endpoint, OUTGOING, program};
use super::pcap::PACKET_BYTES_MAX;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Room for bursts while the file is slow: the kernel gives as much as `net.core.rmem_max` allows.
const BUFFER_BYTES: usize = 8 << 20;

/// Why nothing can be captured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A right is missing.
    #[error("capturing needs CAP_NET_RAW: run it as root")]
    NotAllowed,
    /// The system refused otherwise.
    #[error("cannot capture: {0}")]
    System(#[from] std::io::Error),
}

/// An open packet socket.
#[derive(Debug)]
pub struct Tap {
    socket: Socket,
    buffer: Vec<u8>,
    ancillary: Vec<u8>,
    refused: u64,
}

/// A packet.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Since 1970.
    pub at: Duration,
    /// From its IP header on.
    pub packet: &'a [u8],
    /// It leaves this host.
    pub is_outgoing: bool,
}

impl Tap {
    /// Begins to listen on all interfaces.
    pub fn open(endpoints: &[Endpoint]) -> Result<Self, Error> {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(all)).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => Error::NotAllowed,
            _ => Error::System(error),
        })?;
        socket.attach_filter(&program(endpoints))?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).map_err(std::io::Error::from)?;
        setsockopt(&socket, sockopt::RxqOvfl, &1).map_err(std::io::Error::from)?;
        let ancillary = nix::cmsg_space!(nix::sys::time::TimeSpec, u32);
        Ok(Self { socket, buffer: vec![0; PACKET_BYTES_MAX], ancillary, refused: 0 })
    }

    /// The next packet; none if there was none for so long, or a signal came.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Seen<'_>>, Error> {
        self.socket.set_read_timeout(Some(timeout))?;
        let mut slices = [IoSliceMut::new(&mut self.buffer)];
        let flags = MsgFlags::empty();
        let message = match recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut slices, Some(&mut self.ancillary), flags)
        {
            Ok(message) => message,
            // ENETDOWN: one of the interfaces went down.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(None),
            Err(errno) => return Err(Error::System(errno.into())),
        };
        let mut at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for control in message.cmsgs().map_err(std::io::Error::from)? {
            match control {
                ControlMessageOwned::ScmTimestampns(time) => {
                    at = Duration::new(time.tv_sec().unsigned_abs(), time.tv_nsec() as u32);
                }
                ControlMessageOwned::RxqOvfl(refused) => self.refused = refused.into(),
                _ => {}
            }
        }
        let is_outgoing = message.address.is_some_and(|from| from.pkttype() == OUTGOING);
        let len = message.bytes;
        Ok(Some(Seen { at, packet: &self.buffer[..len], is_outgoing }))
    }

    /// Packets that the kernel had no room for, up to the last one seen.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}
