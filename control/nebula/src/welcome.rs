//! What `nebula up` says when it is ready: where it listens, the demo extensions, and what to do next.

use crate::demo::{self, Extension};
use crate::runtime::Runtime;
use comfy_table::{Table, presets};
use std::net::IpAddr;
use std::path::Path;

/// Prints it. `fresh` are the demo extensions if this start made them; their passwords are shown this once.
pub fn print(runtime: &Runtime, state: &Path, advertised: Option<IpAddr>, fresh: &[Extension]) {
    let ip = advertised.unwrap_or_else(|| demo::likely_address(runtime.sip.ip()));
    let server = std::net::SocketAddr::new(ip, runtime.sip.port());
    println!();
    println!("Nebula is up.");
    println!("  SIP        {server} (UDP and TCP)");
    println!("  HTTP       http://{}", runtime.http);
    println!("  health     http://{}/healthz, and /readyz, /metrics, POST /rpc", runtime.proxy);
    println!("             likewise switchboard {} and media {}", runtime.switchboard, runtime.media);
    println!("  state      {}", state.display());
    println!();
    if fresh.is_empty() {
        println!(
            "The extensions of the first start are there, with their passwords; `nebula extension list` shows them"
        );
        println!("all, `nebula extension password 1000` sets a new password (add --state if you gave it here).");
    } else {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        table.set_header(["extension", "password", "what to type into a softphone: account", "server"]);
        for Extension { user, password } in fresh {
            table.add_row([user, password, &format!("{user}@{server}"), &server.to_string()]);
        }
        println!("Ten demo extensions were made. Their passwords are shown this once:");
        println!("{table}");
    }
    println!();
    println!("What to do next:");
    println!("  1. Give two softphones an extension each: user name and auth name are the extension.");
    println!("  2. Dial *43 to hear your own voice back; dial the other extension to ring the other phone.");
    println!("  3. See the calls at http://{}/v1.0/calls and their records at /v1.0/cdrs.", runtime.http);
    println!("Ctrl-C drains: no new calls, live ones end or time out. Once more ends them at once.");
}
