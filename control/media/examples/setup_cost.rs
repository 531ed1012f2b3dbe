//! What the media part of a call costs: seven requests over the in-process bus (two streams created, two answered, a
//! bridge, two destroyed) against a running dataplane. Prints time and CPU of this process per call.
//!
//! `nebula-dataplane --socket S & cargo run --release -p nebula-media --example setup_cost -- S 2000`

use nebula_bus::contract::Role;
use nebula_bus::contract::to_media::{
    Bridge, BridgeCreate, Create, Mode, Step, Stream, StreamCreate, StreamDestroy, StreamUpdate, Update,
};
use nebula_bus::{Bus, Context, Error, Target};
use std::time::{Duration, Instant};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dataplane_socket = arguments.next().ok_or("which socket?")?.into();
    let calls: u32 = arguments.next().map_or(Ok(2000), |calls| calls.parse())?;
    let bus = Bus::local();
    let _switchboard = bus.serve(Role::Switchboard, "switchboard".into());
    let options = nebula_media::Options { dataplane_socket, ..nebula_media::Options::default() };
    let agent =
        nebula_media::start(options, bus.clone(), nebula_bus::Membership::alone(nebula_bus::contract::Role::Media))
            .await?;
    while !agent.ready() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let target = Target::Instance(agent.instance().clone());
    let mut times = Vec::new();
    let (start, cpu) = (Instant::now(), cpu());
    for call in 0..calls {
        let began = Instant::now();
        one(&bus, &target, call).await?;
        times.push(began.elapsed());
    }
    times.sort();
    let per_call = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(calls);
    println!(
        "{calls} calls: {:.0} us each (p50 {:.0}, p99 {:.0}), {:.0} us of CPU each in this process",
        per_call(start.elapsed()),
        times[times.len() / 2].as_secs_f64() * 1e6,
        times[times.len() * 99 / 100].as_secs_f64() * 1e6,
        per_call(self::cpu() - cpu),
    );
    agent.stop().await;
    Ok(())
}

async fn one(bus: &Bus, target: &Target, call: u32) -> Result<(), Error> {
    let context = Context::new(Duration::from_secs(5));
    let create = |step| Create {
        call_id: call.to_string().into(),
        channel_id: "leg".into(),
        switchboard: "switchboard".into(),
        mode: Mode::Bridge,
        step,
        source: Some("127.0.0.1:5060".into()),
        srtp: None,
    };
    let offer = Step::RemoteOffer { sdp: sdp(40_000, "96 9 8 0 101") };
    let a = bus.call::<StreamCreate>(target, create(offer), &context).await?.stream_id;
    let mirror = Step::LocalOffer { mirror: Some(a.clone()) };
    let b = bus.call::<StreamCreate>(target, create(mirror), &context).await?.stream_id;
    let answer = Step::RemoteAnswer { sdp: sdp(40_002, "96 101") };
    bus.call::<StreamUpdate>(target, Update { stream_id: b.clone(), step: answer }, &context).await?;
    let mirror = Step::LocalAnswer { mirror: Some(b.clone()) };
    bus.call::<StreamUpdate>(target, Update { stream_id: a.clone(), step: mirror }, &context).await?;
    bus.call::<BridgeCreate>(target, Bridge { a: a.clone(), b: b.clone() }, &context).await?;
    for stream_id in [a, b] {
        bus.call::<StreamDestroy>(target, Stream { stream_id }, &context).await?;
    }
    Ok(())
}

fn sdp(port: u16, formats: &str) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP {formats}\r\n\
         a=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\na=rtpmap:101 telephone-event/8000\r\na=ptime:20\r\n"
    )
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
