//! After start-up nothing allocates in the AF_XDP driver: sockets are opened and closed, frames answered, packets of our own
//! sent, under an allocator that counts what this thread asks of it.
#![allow(unsafe_code)]

mod counting;
mod netns;

use counting::allocations;
use nebula_core::driver::{Component, Driver, Forward, Generation, Socket, StreamIndex};
use nebula_io::xdp::{Mode, Options, Tuning, Xdp, set_up};
use nebula_io::{PacketDriver, uring};
use netns::{Net, enter, within};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

fn eventfd() -> rustix::fd::OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
}

#[test]
fn the_allocator_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn nothing_allocates_after_start() {
    let Some(net) = Net::new(1) else { return };
    enter(&net.inside);
    let tuning = Tuning { mode: Mode::Auto, frames: 64, busy_poll: None };
    let options = Options { interfaces: vec!["v0".into()], streams_max: 4, tuning };
    let (mut parts, _) = set_up(&options, &[eventfd()]).unwrap();
    let kernel = uring::Options { streams_max: 4, buffers: 64, socket_buffer_bytes: None };
    let mut driver = Xdp::new(kernel, eventfd(), parts.remove(0), &tuning).unwrap();
    let phone = within(&net.outside, || UdpSocket::bind("10.77.0.2:0").unwrap());
    phone.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (local, remote): (SocketAddr, _) = ("10.77.0.1:4000".parse().unwrap(), phone.local_addr().unwrap());
    let counted = allocations(|| {
        for generation in 0..20 {
            let socket =
                Socket { stream: StreamIndex(0), generation: Generation(generation), component: Component::Rtp };
            driver.open(socket, local).unwrap();
            driver.connect(socket, remote);
            driver.send(socket, remote, b"by the kernel");
            for n in 0..100u8 {
                phone.send_to(&[n; 172], local).unwrap();
                let (mut heard, start) = (false, Instant::now());
                while !heard {
                    assert!(start.elapsed() < Duration::from_secs(20), "{driver:?}");
                    driver.wait(Some(Duration::from_millis(20)), None).unwrap();
                    driver.receive(|_, packets| {
                        for incoming in packets {
                            heard = true;
                            incoming.forward = Some(Forward { from: socket, to: incoming.source.unwrap() });
                        }
                    });
                }
                driver.send(socket, remote, b"by a frame");
                driver.wait(Some(Duration::ZERO), None).unwrap();
            }
            driver.close(socket);
        }
    });
    let counters = driver.frame_counters();
    assert_eq!((counters.received, counters.sent, counters.sent_by_kernel), (2_000, 4_000, 20));
    assert_eq!(counted, 0);
}
