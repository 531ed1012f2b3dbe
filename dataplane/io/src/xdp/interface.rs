//! What has to be known of a network interface, asked of the kernel with ioctls: they follow the thread's network namespace,
//! where files in /sys follow a mount.

use super::Error;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// ETH_FLAG_RXVLAN: the card takes VLAN tags out of frames.
const FLAG_VLAN_TAKEN_OUT: u32 = 1 << 8;
/// Where the kernel lists the VLAN interfaces of the reader's namespace.
const VLANS: &str = "/proc/thread-self/net/vlan/config";

/// An Ethernet interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The kernel's index.
    pub index: u32,
    /// Its own MAC address.
    pub mac: [u8; 6],
    /// The longest IP packet, in bytes.
    pub mtu: usize,
    /// Receive queues.
    pub queues: u32,
}

/// `struct ethtool_value`.
#[repr(C)]
#[derive(Default)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

impl Interface {
    /// Looks one up.
    pub fn find(name: &str) -> Result<Self, Error> {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| Error::Socket { what: "a socket to ask for interfaces", source: errno.into() })?;
        if name.len() >= libc::IFNAMSIZ || name.is_empty() {
            return Err(Error::NoInterface);
        }
        let index = rustix::net::netdevice::name_to_index(&socket, name).map_err(|_| Error::NoInterface)?;
        let asked = |result: io::Result<libc::ifreq>| result.map_err(|_| Error::NoInterface);
        let hardware = asked(ask(&socket, name, libc::SIOCGIFHWADDR, std::ptr::null_mut()))?;
        // SAFETY: SIOCGIFHWADDR has filled in the address.
        let address = unsafe { hardware.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Err(Error::NotEthernet);
        }
        let mtu = asked(ask(&socket, name, libc::SIOCGIFMTU, std::ptr::null_mut()))?;
        // SAFETY: SIOCGIFMTU has filled in the number.
        let mtu = unsafe { mtu.ifr_ifru.ifru_mtu };
        let mut mac = [0; 6];
        mac.iter_mut().zip(address.sa_data).for_each(|(to, from)| *to = from as u8);
        let queues = queues(&socket, name);
        if vlans_are_taken_out(&socket, name) && has_vlans(name) {
            return Err(Error::VlanTagsTakenOut { interface: name.to_owned() });
        }
        Ok(Self { name: name.to_owned(), index, mac, mtu: usize::try_from(mtu).unwrap_or(0), queues })
    }
}

/// Queues that frames may come in by; one where the driver does not say.
fn queues(socket: &OwnedFd, name: &str) -> u32 {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    match ask(socket, name, libc::SIOCETHTOOL, (&raw mut channels).cast()) {
        Ok(_) => (channels.rx + channels.combined).max(1),
        Err(_) => 1,
    }
}

fn vlans_are_taken_out(socket: &OwnedFd, name: &str) -> bool {
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    ask(socket, name, libc::SIOCETHTOOL, (&raw mut value).cast()).is_ok() && value.data & FLAG_VLAN_TAKEN_OUT != 0
}

/// Whether VLAN interfaces stand on this one.
fn has_vlans(name: &str) -> bool {
    let Ok(list) = std::fs::read_to_string(VLANS) else { return false };
    list.lines().any(|line| line.split('|').nth(2).is_some_and(|parent| parent.trim() == name))
}

/// One ioctl about an interface. `data` is null, or what the request reads and writes.
fn ask(socket: &OwnedFd, name: &str, request: libc::c_ulong, data: *mut libc::c_char) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data for which zero is valid.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    ifreq.ifr_name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
    ifreq.ifr_ifru.ifru_data = data;
    // SAFETY: the request reads and writes the ifreq, and for SIOCETHTOOL the structure behind it, which is as long as its
    // command says; both outlive the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), request as _, &raw mut ifreq) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(ifreq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_interface_of_ethernet_is_refused_by_name() {
        assert!(matches!(Interface::find("lo"), Err(Error::NotEthernet)));
        for none in ["", "nowhere0", "a-name-that-is-too-long"] {
            assert!(matches!(Interface::find(none), Err(Error::NoInterface)), "{none:?}");
        }
    }
}
