//! The XDP program on an interface: loaded from the committed object, attached by a link. A link is a file: whatever ends this
//! process, `kill -9` included, closes it, and the kernel takes the program off the interface.

use super::interface::Interface;
use super::{Error, Mode};
use aya::EbpfLoader;
use aya::maps::{HashMap, Map, MapData, XskMap};
use aya::programs::Xdp;
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Built by `scripts/bpf` from bpf/media.bpf.c.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/media.bpf.o");

const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// An attached program. Dropped, it is detached.
pub struct Program {
    open: MapData,
    sockets: XskMap<MapData>,
    _link: OwnedFd,
    /// Whether the driver runs it, or the kernel behind the driver.
    pub in_driver: bool,
}

/// A worker's handle on the ports that the program redirects. No port of an interface that is not ours.
pub struct OpenPorts(HashMap<MapData, Key, u32>);

/// `struct local` of the program.
type Key = [u8; 20];

impl Program {
    /// Loads and attaches it; it redirects nothing yet. `sockets` is how many ports can be open at once.
    pub fn attach(interface: &Interface, mode: Mode, sockets: u32) -> Result<Self, Error> {
        let mut ebpf = EbpfLoader::new()
            .override_global("mac", &interface.mac, true)
            .map_max_entries("open", sockets)
            .map_max_entries("xsks", interface.queues)
            .load(OBJECT)
            .map_err(load_error)?;
        let missing = || Error::Program("the object lacks what it should have".into());
        let program: &mut Xdp = ebpf.program_mut("media").ok_or_else(missing)?.try_into().map_err(program_error)?;
        program.load().map_err(program_error)?;
        let fd = program.fd().map_err(program_error)?.as_fd().as_raw_fd();
        let (link, in_driver) = link(fd, interface.index, mode)?;
        let Some(Map::HashMap(open)) = ebpf.take_map("open") else { return Err(missing()) };
        let sockets = XskMap::try_from(ebpf.take_map("xsks").ok_or_else(missing)?).map_err(map_error)?;
        Ok(Self { open, sockets, _link: link, in_driver })
    }

    /// From now on frames of a queue can reach its socket.
    pub fn serve(&mut self, queue: u32, socket: &impl AsRawFd) -> Result<(), Error> {
        self.sockets.set(queue, socket.as_raw_fd(), 0).map_err(map_error)
    }

    /// A handle for a worker.
    pub fn open_ports(&self) -> Result<OpenPorts, Error> {
        let fd = self.open.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|source| Error::Socket { what: "a handle on the map of ports", source })?;
        let map = Map::HashMap(MapData::from_fd(fd).map_err(map_error)?);
        Ok(OpenPorts(HashMap::try_from(map).map_err(map_error)?))
    }
}

impl OpenPorts {
    /// Redirects what comes for an address and port; false if the map is full, and then the kernel's socket hears it.
    pub fn open(&mut self, local: SocketAddr) -> bool {
        self.0.insert(key(local), 1, 0).is_ok()
    }

    /// Leaves it to the kernel again.
    pub fn close(&mut self, local: SocketAddr) {
        // Fails only if it was not there.
        let _ = self.0.remove(&key(local));
    }
}

fn key(local: SocketAddr) -> Key {
    let ip = match local.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut key = [0; 20];
    key[..16].copy_from_slice(&ip.octets());
    key[16..18].copy_from_slice(&local.port().to_be_bytes());
    key
}

/// In the driver, or else behind it, as the mode allows. Not by aya, which falls back on netlink where there are no links;
/// what that attaches stays when we are killed.
fn link(program: i32, interface: u32, mode: Mode) -> Result<(OwnedFd, bool), Error> {
    let tries: &[(u32, bool)] = match mode {
        Mode::Auto => &[(XDP_FLAGS_DRV_MODE, true), (XDP_FLAGS_SKB_MODE, false)],
        Mode::Driver => &[(XDP_FLAGS_DRV_MODE, true)],
        Mode::Generic => &[(XDP_FLAGS_SKB_MODE, false)],
    };
    let mut last = None;
    for &(flags, in_driver) in tries {
        match link_create(program, interface, flags) {
            Ok(link) => return Ok((link, in_driver)),
            Err(error) => last = Some(error),
        }
    }
    let source = last.unwrap_or_else(|| io::ErrorKind::InvalidInput.into());
    Err(if is_denied(&source) { Error::Rights(source) } else { Error::Attach(source) })
}

fn link_create(program: i32, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    // The first fields of `union bpf_attr` for BPF_LINK_CREATE; what follows is zero.
    let attributes = [program as u32, interface, BPF_XDP, flags, 0, 0, 0, 0];
    // SAFETY: the attributes are as long as said, and read only during the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, attributes.as_ptr(), size_of_val(&attributes) as libc::c_uint)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just made for us (close-on-exec, as all of BPF's).
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The error at the bottom, if it is the system's.
fn is_denied_at_bottom(mut error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    loop {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return is_denied(io).then(|| io::Error::from_raw_os_error(io.raw_os_error().unwrap_or(libc::EPERM)));
        }
        error = error.source()?;
    }
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

fn load_error(error: aya::EbpfError) -> Error {
    is_denied_at_bottom(&error).map_or_else(|| Error::Program(chain(&error)), Error::Rights)
}

fn program_error(error: aya::programs::ProgramError) -> Error {
    is_denied_at_bottom(&error).map_or_else(|| Error::Program(chain(&error)), Error::Rights)
}

fn map_error(error: aya::maps::MapError) -> Error {
    is_denied_at_bottom(&error).map_or_else(|| Error::Program(chain(&error)), Error::Rights)
}

/// An error and its causes on one line: the verifier's log has many.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_was_made_from_its_source() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/bpf");
        let output = std::process::Command::new(script).arg("check").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn keys_are_the_programs() {
        let mapped = key("192.0.2.1:4660".parse().unwrap());
        assert_eq!(mapped[10..], [0xff, 0xff, 192, 0, 2, 1, 0x12, 0x34, 0, 0]);
        assert_eq!(key("[2001:db8::1]:1".parse().unwrap())[..4], [0x20, 1, 0xd, 0xb8]);
    }
}
