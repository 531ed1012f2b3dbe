//! The agent's mind and a model of the dataplane, while either dies, or both, or only the way between them is cut; thousands of
//! seeds. After each there is exactly what there was: streams, ports, SSRC, configurations, bridges.
//!
//! `NEBULA_SEEDS=100000` runs more; `NEBULA_SEED=42` replays one that failed (it is printed on failure).

use nebula_bus::contract::StreamId as Name;
use nebula_bus::contract::to_media::{AdoptStreams, Create, Mode, Step};
use nebula_media::Options;
use nebula_media::agent::{Agent, Arrival, Errand, Random as Drawn};
use nebula_media::reconcile::Found;
use nebula_ring::command::{Command, StreamConfig, StreamId};
use nebula_ring::table::{FLAG_OPEN, StreamRecord};
use std::collections::{BTreeMap, BTreeSet};

const SEEDS: u64 = 2_000;
const STEPS: u64 = 40;
const WORKERS: usize = 2;

/// Prints the seed if its run fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed; replay with NEBULA_SEED={}", self.0);
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn whoever_dies_there_is_what_there_was() {
    let seeds = match number("NEBULA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("NEBULA_SEEDS").unwrap_or(SEEDS),
    };
    let mut deaths = 0;
    for seed in seeds.clone() {
        let _seed = Seed(seed);
        deaths += run(seed);
    }
    println!("{} seeds, {deaths} deaths", seeds.end - seeds.start);
    assert!(deaths >= seeds.end - seeds.start, "the runs must reach what they test");
}

/// The dataplane as the agent can see it.
#[derive(Default)]
struct Dataplane(BTreeMap<u64, There>);

#[derive(Debug, Clone)]
struct There {
    worker: usize,
    config: StreamConfig,
    bridged_with: u64,
    packets_in: u64,
}

impl Dataplane {
    /// Carries a command out as the engine would; none of the agent's may be refused.
    fn apply(&mut self, (worker, command): &Errand) {
        match command {
            Command::CreateStream { id, config } => self.open(*worker, *id, config, 0),
            Command::ResumeStream { id, config, record } => {
                assert_eq!((record.id, record.rtp_port), (id.0, config.rtp_port));
                self.open(*worker, *id, config, record.packets_in);
            }
            Command::UpdateStream { id, config } => {
                let there = self.0.get_mut(&id.0).expect("an update of a stream that is there");
                assert_eq!(there.config.rtp_port, config.rtp_port);
                there.config = config.clone();
            }
            Command::DestroyStream { id } => {
                self.part(id.0);
                self.0.remove(&id.0).expect("the end of a stream that is there");
            }
            Command::CreateBridge { a, b } => {
                self.part(a.0);
                self.part(b.0);
                for (one, other) in [(a, b), (b, a)] {
                    let there = self.0.get_mut(&one.0).expect("a bridge of streams that are there");
                    assert_eq!(there.worker, *worker);
                    there.bridged_with = other.0;
                }
            }
            Command::DestroyBridge { a, .. } => self.part(a.0),
            Command::MigrateStream { .. } => unreachable!("the streams of a call live together"),
        }
    }

    fn open(&mut self, worker: usize, id: StreamId, config: &StreamConfig, packets_in: u64) {
        let ports: BTreeSet<u16> = self.0.values().map(|it| it.config.rtp_port).collect();
        assert!(!ports.contains(&config.rtp_port), "port {} is another's", config.rtp_port);
        let there = There { worker, config: config.clone(), bridged_with: 0, packets_in };
        assert!(self.0.insert(id.0, there).is_none(), "made twice");
    }

    fn part(&mut self, id: u64) {
        for (other, there) in &mut self.0 {
            if *other == id || there.bridged_with == id {
                there.bridged_with = 0;
            }
        }
    }

    fn found(&self) -> Vec<Found> {
        let record = |(id, it): (&u64, &There)| {
            let mut record = StreamRecord {
                id: *id,
                bridged_with: it.bridged_with,
                packets_in: it.packets_in,
                flags: FLAG_OPEN,
                ..StreamRecord::default()
            };
            record.set_local(it.config.local_ip, it.config.rtp_port, it.config.rtcp_port);
            record.set_remote_rtp(it.config.remote_rtp);
            Found { worker: it.worker, record }
        };
        self.0.iter().map(record).collect()
    }
}

struct World {
    random: Random,
    agent: Agent,
    dataplane: Dataplane,
    /// What an agent of this name has kept.
    kept: BTreeMap<String, Vec<u8>>,
    names: Vec<Name>,
    now_ms: u64,
    calls: u64,
}

fn options() -> Options {
    Options { local_ip: Some([127, 0, 0, 1].into()), rtp_port_min: 20_000, rtp_port_max: 20_127, ..Options::default() }
}

fn run(seed: u64) -> u64 {
    let mut world = World {
        random: Random(seed),
        agent: Agent::new(options()),
        dataplane: Dataplane::default(),
        kept: BTreeMap::new(),
        names: Vec::new(),
        now_ms: 1_000,
        calls: 0,
    };
    world.attach();
    let mut deaths = 0;
    for _ in 0..STEPS {
        world.now_ms += world.random.below(40_000);
        match world.random.below(16) {
            0..=4 => world.call(),
            5..=7 => world.renegotiate(),
            8..=9 => world.end_one(),
            10 => world.speak(),
            _ => {
                deaths += 1;
                world.death();
            }
        }
        world.keep();
        world.check();
    }
    deaths
}

impl World {
    fn attach(&mut self) {
        let found = self.dataplane.found();
        let random = self.random.bits();
        let Arrival { repairs, mut returning, .. } = self.agent.attached(WORKERS, &found, random, self.now_ms);
        repairs.iter().for_each(|errand| self.carry_out(errand));
        while !returning.is_empty() {
            let at = self.random.below(returning.len() as u64) as usize;
            let resumption = returning.swap_remove(at);
            if let Some(errand) = self.agent.resumption(resumption, self.now_ms) {
                self.dataplane.apply(&errand);
                let whole = self.agent.resumed(resumption);
                whole.iter().for_each(|errand| self.carry_out(errand));
            }
        }
    }

    fn carry_out(&mut self, errand: &Errand) {
        self.dataplane.apply(errand);
        self.agent.settle_errand(errand, true);
    }

    fn keep(&mut self) {
        for (key, value) in self.agent.take_changes(self.now_ms) {
            match value {
                Some(value) => drop(self.kept.insert(key, value)),
                None => drop(self.kept.remove(&key)),
            }
        }
    }

    /// One of the ways in which things go wrong; then all is as it was.
    fn death(&mut self) {
        let before = self.dataplane.0.clone();
        let (dataplane_dies, agent_dies) = match self.random.below(4) {
            0 => (true, false),
            1 => (false, true),
            2 => (true, true),
            // Only the way between them is cut.
            _ => (false, false),
        };
        let mut expected = before;
        if agent_dies {
            self.agent = Agent::new(options());
            let kept: Vec<(String, Vec<u8>)> = self.kept.clone().into_iter().collect();
            let unreadable = self.agent.restore(kept.iter().map(|(key, it)| (key.as_str(), &it[..])), self.now_ms);
            assert_eq!(unreadable, []);
        } else {
            self.agent.lost(&self.dataplane.found(), self.now_ms);
            // A call may end meanwhile.
            if self.random.below(2) == 0 && !self.names.is_empty() {
                let at = self.random.below(self.names.len() as u64) as usize;
                let (id, farewell, errands) = self.agent.destroy(&self.names.swap_remove(at)).unwrap();
                assert!(errands.is_empty() && farewell.base.is_some(), "nobody to tell, but a last word");
                expected.remove(&id.0);
                expected.values_mut().filter(|it| it.bridged_with == id.0).for_each(|it| it.bridged_with = 0);
            }
        }
        if dataplane_dies {
            self.dataplane = Dataplane::default();
        }
        self.now_ms += self.random.below(2_000);
        if self.random.below(2) == 0 && !self.names.is_empty() {
            let streams = self.names.clone();
            let adopt = AdoptStreams { switchboard: "switchboard-2".into(), fence: self.now_ms, streams };
            assert_eq!(self.agent.adopt(&adopt).unwrap().len(), self.names.len(), "all are still to be had");
        }
        self.attach();
        assert!(self.dataplane.0.keys().eq(expected.keys()), "neither more nor less");
        for (id, is) in &self.dataplane.0 {
            let was = &expected[id];
            assert_eq!(is.bridged_with, was.bridged_with, "stream {id:x}");
            if is.bridged_with != 0 || was.bridged_with == 0 {
                // What a widow would send its partner matters to nobody.
                let told = |it: &There| StreamConfig { payload_types: Default::default(), ..it.config.clone() };
                assert_eq!(told(is), told(was), "stream {id:x}");
            }
            if is.bridged_with != 0 {
                assert_eq!(is.config.payload_types, was.config.payload_types);
            }
            assert!(agent_dies && dataplane_dies || is.packets_in == was.packets_in);
        }
    }

    /// Packets come, and the sweep looks at them.
    fn speak(&mut self) {
        let more = self.random.below(5_000);
        self.dataplane.0.values_mut().for_each(|it| it.packets_in += more);
        let found = self.dataplane.found();
        assert!(self.agent.sweep(&found, self.now_ms).is_empty(), "nobody is unclaimed");
    }

    fn call(&mut self) {
        if self.names.len() > 40 {
            return;
        }
        self.calls += 1;
        let call = format!("call-{}", self.calls);
        let Some(a) = self.create(&call, Step::RemoteOffer { sdp: self.sdp(4000) }) else { return };
        if self.random.below(8) == 0 {
            return;
        }
        let Some(b) = self.create(&call, Step::LocalOffer { mirror: Some(a.clone()) }) else { return };
        if self.random.below(8) == 0 {
            return;
        }
        let answer = self.sdp(5000);
        self.step(&b, &Step::RemoteAnswer { sdp: answer });
        self.step(&a, &Step::LocalAnswer { mirror: Some(b.clone()) });
        let errands = self.agent.bridge(&a, &b).unwrap();
        errands.iter().for_each(|errand| self.carry_out(errand));
    }

    fn sdp(&self, port: u16) -> String {
        let host = self.calls % 250 + 1;
        format!(
            "v=0\r\no=- 1 1 IN IP4 192.0.2.{host}\r\ns=-\r\nc=IN IP4 192.0.2.{host}\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP 0 8 {}\r\na=rtpmap:{0} opus/48000/2\r\n",
            96 + port / 1000
        )
    }

    fn create(&mut self, call: &str, step: Step) -> Option<Name> {
        let create = Create {
            call_id: call.into(),
            channel_id: "leg".into(),
            switchboard: "switchboard-1".into(),
            mode: if self.random.below(6) == 0 { Mode::Echo } else { Mode::Bridge },
            step,
            source: Some("127.0.0.1:5060".into()),
            srtp: None,
        };
        let drawn = Drawn { id: self.random.bits() | 1, ssrc: self.random.bits() as u32 | 1, seed: [7; 32] };
        let draft = self.agent.draft(&create, drawn, Some(1), |_| None).ok()?;
        self.dataplane.apply(&draft.errand());
        let (name, _) = self.agent.admit(draft).expect("the same attachment");
        self.names.push(name.clone());
        Some(name)
    }

    fn step(&mut self, name: &Name, step: &Step) {
        if let Ok((_, errands)) = self.agent.step(name, step) {
            errands.iter().for_each(|errand| self.carry_out(errand));
        }
    }

    fn renegotiate(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let name = self.names[self.random.below(self.names.len() as u64) as usize].clone();
        let hold = format!("{}a=sendonly\r\n", self.sdp(4000));
        let step = match self.random.below(5) {
            0 => Step::RemoteOffer { sdp: hold },
            1 => Step::LocalOffer { mirror: None },
            2 => Step::RemoteAnswer { sdp: self.sdp(6000) },
            3 => Step::LocalAnswer { mirror: None },
            _ => Step::Rollback,
        };
        self.step(&name, &step);
    }

    fn end_one(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let at = self.random.below(self.names.len() as u64) as usize;
        let (_, _, errands) = self.agent.destroy(&self.names.swap_remove(at)).unwrap();
        errands.iter().for_each(|errand| self.carry_out(errand));
    }

    /// What holds between any two steps.
    fn check(&self) {
        assert_eq!(self.dataplane.0.len(), self.names.len(), "one stream for each name");
        assert_eq!((self.agent.stream_count(), self.kept.len()), (self.names.len(), self.names.len()));
        for name in &self.names {
            let (id, farewell) = self.agent.farewell(name).unwrap();
            assert_eq!(farewell.worker, Some(self.dataplane.0[&id.0].worker));
        }
        let in_use = self.dataplane.0.values().map(|it| it.config.rtp_port).collect::<BTreeSet<_>>().len();
        assert_eq!(self.agent.free_ports() + in_use, 64, "no pair of ports is lost");
    }
}
