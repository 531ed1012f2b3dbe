//! Two network namespaces joined by a veth pair, made by a test and removed with it: `inside` has the dataplane, with the
//! interface `v0`, 10.77.0.1 and fd77::1; `outside` has the phones, with `v1`, 10.77.0.2 and fd77::2.
#![allow(dead_code, reason = "each test file uses its part")]

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// See the module.
pub struct Net {
    pub inside: String,
    pub outside: String,
}

impl Net {
    /// Makes them; none, and a line that says why, without the right to.
    pub fn new(queues: u32) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let name = format!("nebula-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let net = Self { inside: format!("{name}-i"), outside: format!("{name}-o") };
        if let Err(error) = net.try_make(queues) {
            eprintln!("skipped: no network namespaces with veth here: {error}");
            return None;
        }
        for (namespace, device, host) in [(&net.inside, "v0", 1), (&net.outside, "v1", 2)] {
            run(&format!("-n {namespace} addr add 10.77.0.{host}/24 dev {device}")).unwrap();
            run(&format!("-n {namespace} addr add fd77::{host}/64 dev {device} nodad")).unwrap();
            run(&format!("-n {namespace} link set lo up")).unwrap();
            run(&format!("-n {namespace} link set {device} up")).unwrap();
        }
        Some(net)
    }

    fn try_make(&self, queues: u32) -> Result<(), String> {
        let Self { inside, outside } = self;
        run(&format!("netns add {inside}"))?;
        run(&format!("netns add {outside}"))?;
        let queues = format!("numrxqueues {queues} numtxqueues {queues}");
        run(&format!("link add v0 netns {inside} {queues} type veth peer name v1 netns {outside} {queues}"))
    }

    /// What `ip link` says of an interface, with a letter more if an XDP program is on it.
    pub fn link(&self, device: &str) -> String {
        let output = Command::new("ip").args(["-n", &self.inside, "link", "show", "dev", device]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether a program is on the dataplane's interface.
    pub fn has_program(&self) -> bool {
        self.link("v0").contains("xdp")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // One that was never made cannot be removed, and need not be.
        for namespace in [&self.inside, &self.outside] {
            let _ = run(&format!("netns del {namespace}"));
        }
    }
}

fn run(command: &str) -> Result<(), String> {
    let output = Command::new("ip").args(command.split(' ')).output().map_err(|error| error.to_string())?;
    let said = || format!("ip {command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(said()) }
}

/// Moves this thread into a namespace, for good.
pub fn enter(namespace: &str) {
    let file = File::open(format!("/var/run/netns/{namespace}")).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Runs something within a namespace; what it opens stays there.
pub fn within<T: Send>(namespace: &str, run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|threads| {
        let inside = threads.spawn(|| {
            enter(namespace);
            run()
        });
        inside.join().unwrap()
    })
}
