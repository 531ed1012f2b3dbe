//! Where relay and phones stand: both on loopback, or at the two ends of a veth pair between network namespaces of their own.
//!
//! What comes out of a veth pair is received by whoever put it in: the receiving end's IP, UDP and sockets are work of a soft
//! interrupt on the sender's account. `Receiving::Apart` gives each end a thread of the kernel for it (threaded NAPI), as if each
//! were a machine of its own.

use crate::process::free_udp_ports;
use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// The relay's interface of the pair.
pub const RELAY_INTERFACE: &str = "v0";
const PHONE_INTERFACE: &str = "v1";

/// On whose account an end of the veth pair receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiving {
    /// On the sender's.
    BySender,
    /// On that of a kernel thread, one for each end.
    Apart,
}

/// See the module.
pub struct Place {
    /// The relay's address.
    pub relay_ip: IpAddr,
    /// The phones'.
    pub phone_ip: IpAddr,
    veth: Option<Veth>,
}

struct Veth {
    inside: String,
    outside: String,
    next_port: AtomicU16,
    /// The kernel thread that receives for the relay.
    receiver: Option<u32>,
}

impl Place {
    /// Loopback.
    pub fn loopback() -> Self {
        Self { relay_ip: Ipv4Addr::LOCALHOST.into(), phone_ip: Ipv4Addr::LOCALHOST.into(), veth: None }
    }

    /// A veth pair; this thread moves to the phones' end, for good. Needs root.
    pub fn veth(receiving: Receiving) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("network namespaces need root");
        }
        let name = format!("nebula-bench-{}", std::process::id());
        let (inside, outside) = (format!("{name}-i"), format!("{name}-o"));
        let mut veth = Veth { inside, outside, next_port: AtomicU16::new(10_000), receiver: None };
        let Veth { inside, outside, .. } = &veth;
        for command in [
            format!("netns add {inside}"),
            format!("netns add {outside}"),
            format!("link add {RELAY_INTERFACE} netns {inside} type veth peer name {PHONE_INTERFACE} netns {outside}"),
            format!("-n {inside} addr add 10.77.0.1/24 dev {RELAY_INTERFACE}"),
            format!("-n {outside} addr add 10.77.0.2/24 dev {PHONE_INTERFACE}"),
            format!("-n {inside} link set lo up"),
            format!("-n {inside} link set {RELAY_INTERFACE} up"),
            format!("-n {outside} link set {PHONE_INTERFACE} up"),
        ] {
            ip(&command)?;
        }
        if receiving == Receiving::Apart {
            receive_apart(outside, PHONE_INTERFACE)?;
            veth.receiver = Some(receive_apart(inside, RELAY_INTERFACE)?);
        }
        let outside = &veth.outside;
        let namespace = File::open(format!("/var/run/netns/{outside}"))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context("namespace")?;
        Ok(Self { relay_ip: [10, 77, 0, 1].into(), phone_ip: [10, 77, 0, 2].into(), veth: Some(veth) })
    }

    /// A command that runs a program where the relay stands.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let Some(veth) = &self.veth else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &veth.inside]).arg(program);
        command
    }

    /// The first of two neighbouring ports of the relay's that nobody has. Behind the veth nobody else is.
    pub fn free_ports(&self) -> Result<u16> {
        match &self.veth {
            None => Ok(free_udp_ports()?),
            Some(veth) => Ok(veth.next_port.fetch_add(2, Ordering::Relaxed)),
        }
    }

    /// The kernel thread that receives for the relay, if that is apart.
    pub fn receiver(&self) -> Option<u32> {
        self.veth.as_ref()?.receiver
    }

    /// What it is, in a table's words.
    pub fn name(&self) -> &'static str {
        if self.veth.is_some() { "over veth" } else { "over loopback" }
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for namespace in [&self.inside, &self.outside] {
            // One that was never made cannot be removed, and need not be.
            let _ = ip(&format!("netns del {namespace}"));
        }
    }
}

/// Has a thread of the kernel receive for an interface: its pid. A veth has something to give to a thread only with generic
/// receive offload, and only of packets that could not be large ones.
fn receive_apart(namespace: &str, interface: &str) -> Result<u32> {
    let before = napi_threads(interface)?;
    ip(&format!("netns exec {namespace} ethtool -K {interface} gro on tso off"))?;
    // The namespace has a /sys of its own in there.
    let threaded = format!("/sys/class/net/{interface}/threaded");
    let mut tee = Command::new("ip");
    let tee = tee.args(["netns", "exec", namespace, "tee", &threaded]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut tee = tee.spawn().context("ip (iproute2)")?;
    tee.stdin.take().context("piped")?.write_all(b"1")?;
    if !tee.wait()?.success() {
        bail!("{interface} does not receive by threads (threaded NAPI: Linux 5.12)");
    }
    let threads = napi_threads(interface)?;
    threads.difference(&before).next().copied().with_context(|| format!("no thread receives for {interface}"))
}

/// The kernel's threads that receive for interfaces of a name, in whatever namespace.
fn napi_threads(interface: &str) -> Result<BTreeSet<u32>> {
    let name = format!("napi/{interface}-");
    let processes = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_one =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(&name));
    Ok(processes.filter(is_one).collect())
}

fn ip(command: &str) -> Result<()> {
    let output = Command::new("ip").args(command.split(' ')).output().context("ip (iproute2)")?;
    if !output.status.success() {
        bail!("ip {command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
