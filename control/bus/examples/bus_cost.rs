//! What a request over the in-process bus costs: `cargo run --release -p nebula-bus --example bus_cost`. Prints wall
//! and CPU time per call, one after the other and 64 at once, with an SDP-sized body.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use nebula_bus::contract::to_proxy::{Answer, ChannelAnswer};
use nebula_bus::contract::{Accepted, Role};
use nebula_bus::{Bus, Context, Target, dispatch};

const CALLS: u32 = 200_000;

#[tokio::main(worker_threads = 1)]
async fn main() {
    let bus = Bus::local();
    let mut inbox = bus.serve(Role::Proxy, "proxy".into());
    tokio::spawn(async move {
        while let Some(request) = inbox.recv().await {
            dispatch!(request; { ChannelAnswer => |_params, call| call.reply(Ok(Accepted {})) });
        }
    });
    // On the worker thread itself: `main` runs beside it, and each call would be two thread switches.
    tokio::spawn(async move {
        for at_once in [1, 64] {
            let (wall, cpu) = (Instant::now(), cpu_time());
            for _ in 0..CALLS / at_once {
                let calls: Vec<_> = (0..at_once).map(|_| call(&bus)).collect();
                for call in calls {
                    call.await;
                }
            }
            let per_call = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(CALLS);
            println!(
                "{at_once:3} at once: {:6.2} us wall, {:6.2} us CPU",
                per_call(wall.elapsed()),
                per_call(cpu_time() - cpu)
            );
        }
    })
    .await
    .expect("the measurement");
}

fn call(bus: &Bus) -> impl Future<Output = ()> + use<> {
    let params =
        Answer { channel_id: "01JD3000000000000000000000".into(), sdp: Some("a=rtpmap:0 PCMU/8000\r\n".repeat(20)) };
    let call = bus.call::<ChannelAnswer>(&Target::Service, params, &Context::new(Duration::from_secs(5)));
    async { assert_eq!(call.await, Ok(Accepted {})) }
}

/// User and system time of this process, from `/proc/self/stat` in ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let after_name = stat.rsplit_once(") ").expect("a process name").1;
    let ticks: u64 = after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}
