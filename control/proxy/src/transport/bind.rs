//! Opening the listening sockets, all on one port.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};

use nebula_sip::Protocol;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::{BindError, Options};

const LISTEN_BACKLOG: i32 = 1024;
/// With port 0: how often to look for a port that is free on every address and transport.
const FREE_PORT_TRIES: usize = 16;

/// What was opened.
pub struct Sockets {
    pub udp: Vec<UdpSocket>,
    pub tcp: Vec<TcpListener>,
    pub port: u16,
}

/// Opens a UDP socket, and a TCP listener if wanted, on each address.
pub fn sockets(options: &Options) -> Result<Sockets, BindError> {
    let mut tries_left = if options.port == 0 { FREE_PORT_TRIES } else { 1 };
    loop {
        tries_left -= 1;
        match all_on_one_port(options) {
            Err(error) if tries_left > 0 && error.source.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
}

fn all_on_one_port(options: &Options) -> Result<Sockets, BindError> {
    let mut port = options.port;
    let mut opened = Sockets { udp: Vec::new(), tcp: Vec::new(), port };
    for &ip in &options.addresses {
        let failed = |protocol, address| move |source| BindError { protocol, address, source };
        let address = SocketAddr::new(ip, port);
        let socket = udp(address, options.udp_receive_buffer_bytes).map_err(failed(Protocol::Udp, address))?;
        // The first socket chooses for the others if the port was 0.
        port = socket.local_addr().map_err(failed(Protocol::Udp, address))?.port();
        opened.udp.push(socket);
        if options.tcp {
            let address = SocketAddr::new(ip, port);
            opened.tcp.push(tcp(address).map_err(failed(Protocol::Tcp, address))?);
        }
    }
    opened.port = port;
    Ok(opened)
}

fn udp(address: SocketAddr, receive_buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM)?;
    socket.set_recv_buffer_size(receive_buffer_bytes)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(StdUdpSocket::from(socket))
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(StdTcpListener::from(socket))
}

fn socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and :: can be listened on side by side, and IPv4 peers keep their IPv4 addresses.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
