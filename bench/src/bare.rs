//! The floor of ordinary sockets: a relay that is nothing but epoll, recvfrom and sendto, one thread, no checks.
//!
//! Runs as a process of its own (`relay-bench bare`), so that its CPU time can be told apart. It reads pairs of
//! addresses, a line a call, and answers each with its own two.

use anyhow::{Context, Result};
use rustix::event::epoll;
use rustix::net::{RecvFlags, SendFlags, recvfrom, sendto};
use std::io::{BufRead, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Serves on sockets of this address, until standard input ends and after that until it is killed.
pub fn serve(ip: IpAddr) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    // Each socket, and the socket and address its packets leave by.
    let mut legs: Vec<(UdpSocket, usize, SocketAddr)> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (a, b) = line.split_once(' ').context("two addresses a line")?;
        let open = || -> Result<UdpSocket> {
            let socket = UdpSocket::bind((ip, 0))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let (for_a, for_b, index) = (open()?, open()?, legs.len());
        for (socket, i) in [(&for_a, index), (&for_b, index + 1)] {
            epoll::add(&epoll, socket, epoll::EventData::new_u64(i as u64), epoll::EventFlags::IN)?;
        }
        println!("{} {}", for_a.local_addr()?, for_b.local_addr()?);
        std::io::stdout().flush()?;
        legs.push((for_a, index + 1, b.parse()?));
        legs.push((for_b, index, a.parse()?));
    }
    let mut events = Vec::with_capacity(1024);
    let mut buffer = [0; 2048];
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        for event in &events {
            let (socket, out, to) = &legs[event.data.u64() as usize];
            while let Ok((length, _, _)) = recvfrom(socket, &mut buffer[..], RecvFlags::empty()) {
                // A full queue drops the packet, as any relay's does.
                sendto(&legs[*out].0, &buffer[..length], SendFlags::empty(), to).ok();
            }
        }
    }
}
