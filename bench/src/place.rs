//! Where relay and phones stand: both on loopback, or at the two ends of a veth pair between network namespaces of their own.

use crate::process::free_udp_ports;
use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

/// The relay's interface of the pair.
pub const RELAY_INTERFACE: &str = "v0";

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
}

impl Place {
    /// Loopback.
    pub fn loopback() -> Self {
        Self { relay_ip: Ipv4Addr::LOCALHOST.into(), phone_ip: Ipv4Addr::LOCALHOST.into(), veth: None }
    }

    /// A veth pair; this thread moves to the phones' end, for good. Needs root.
    pub fn veth() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("network namespaces need root");
        }
        let name = format!("nebula-bench-{}", std::process::id());
        let veth =
            Veth { inside: format!("{name}-i"), outside: format!("{name}-o"), next_port: AtomicU16::new(10_000) };
        let Veth { inside, outside, .. } = &veth;
        for command in [
            format!("netns add {inside}"),
            format!("netns add {outside}"),
            format!("link add {RELAY_INTERFACE} netns {inside} type veth peer name v1 netns {outside}"),
            format!("-n {inside} addr add 10.77.0.1/24 dev {RELAY_INTERFACE}"),
            format!("-n {outside} addr add 10.77.0.2/24 dev v1"),
            format!("-n {inside} link set lo up"),
            format!("-n {inside} link set {RELAY_INTERFACE} up"),
            format!("-n {outside} link set v1 up"),
        ] {
            ip(&command)?;
        }
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

fn ip(command: &str) -> Result<()> {
    let output = Command::new("ip").args(command.split(' ')).output().context("ip (iproute2)")?;
    if !output.status.success() {
        bail!("ip {command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
