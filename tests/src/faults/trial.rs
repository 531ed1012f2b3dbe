//! What all rows have in common: calls that are held, looked at, changed, hung up and replaced, and their records.

use super::dice::Dice;
use super::hold::Hold;
use super::witness::Witness;
use super::{Form, Seen, records};
use serde_json::Value;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How fast held calls are placed, and hung up at the end, a second.
const RATE: usize = 50;

/// How long a request of a phone may take: timer B and F of RFC 3261, and some.
const REQUEST_DEADLINE: Duration = Duration::from_secs(40);

/// A call that nobody answers in that time counts as hanging: longer than a phone's own timer for an INVITE, and than the
/// system's for a call that rings.
const SETUP_TIMEOUT_S: &str = "40";

/// After a fault, dialogs must work again within this.
pub const HEALED: Duration = Duration::from_secs(2);

/// How long after one end of a call was hung up the other may be up.
const OTHER_END: Duration = Duration::from_secs(3);

/// How far apart the phones' tries are while a system is down.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// Sums that must be zero, whatever happens to the system.
const JUDGED: [&str; 9] = [
    "packets_wrong",
    "packets_unauthentic",
    "indices_reused",
    "crossed",
    "hung_up_by_system",
    "failed",
    "doubled",
    "media_moved",
    "keys_changed",
];

/// Milliseconds since 1970.
pub fn unix_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}

/// Calls under observation.
pub struct Trial<'a> {
    /// How it is run.
    pub form: Form,
    /// The phones.
    pub hold: Hold,
    /// What was seen.
    pub seen: &'a mut Seen,
    /// Chance.
    pub dice: Dice,
    /// Calls that are up.
    live: Vec<usize>,
    /// Those of them whose other end isn't a phone of ours.
    echoes: HashSet<usize>,
    /// How many lines of each kind were looked at already.
    looked_at: usize,
    /// How the host treats a bystander.
    witness: Witness,
    /// What befell calls in set-up up to now: each is told once.
    disturbed: [u64; 3],
}

impl<'a> Trial<'a> {
    /// Places the calls.
    pub fn begin(form: &Form, servers: &[SocketAddr], seen: &'a mut Seen) -> Self {
        Self::begin_with(form, servers, &[], seen)
    }

    /// The same, with phones that are told more of `nebula-load hold`'s arguments.
    pub fn begin_with(form: &Form, servers: &[SocketAddr], phones: &[&str], seen: &'a mut Seen) -> Self {
        let ptime = form.ptime_ms.to_string();
        let hold =
            Hold::start(servers, &[&["--ptime-ms", &ptime, "--setup-timeout-s", SETUP_TIMEOUT_S], phones].concat());
        let dice = super::dice(form);
        seen.setup_is_told = form.short;
        let (live, echoes) = (Vec::new(), HashSet::new());
        let mut trial = Self {
            form: form.clone(),
            hold,
            seen,
            dice,
            live,
            echoes,
            looked_at: 0,
            disturbed: [0; 3],
            witness: Witness::start(),
        };
        trial.place(form.calls);
        trial
    }

    /// Places more, and waits until they are up.
    pub fn place(&mut self, calls: usize) {
        self.place_at(calls, "");
    }

    /// The same, at another number.
    pub fn place_at(&mut self, calls: usize, number: &str) {
        if calls == 0 {
            return;
        }
        let deadline = Duration::from_secs_f64(calls as f64 / RATE as f64) + REQUEST_DEADLINE;
        let done = self.hold.run(&format!("place {calls} {RATE} {number}"), deadline);
        self.seen.expect(done["answered"] == calls, || format!("{} of {calls} calls were answered", done["answered"]));
        self.look();
    }

    /// Which calls are up.
    fn look(&mut self) {
        let report = self.hold.run("report", REQUEST_DEADLINE);
        let is_up = |call: &&Value| call["caller"]["stage"] == "up" && call["trickled"] == false;
        let number = |call: &Value| Some(call["n"].as_u64()? as usize);
        let calls = report["calls"].as_array().expect("calls");
        self.live = calls.iter().filter(is_up).filter_map(number).collect();
        self.echoes = calls.iter().filter(|call| call["callee"].is_null()).filter_map(number).collect();
    }

    /// From here on losses and gaps count.
    pub fn mark(&mut self) {
        self.hold.run("mark", REQUEST_DEADLINE);
        self.witness.worst_ms();
    }

    /// What was lost since the mark, and whether all calls are up; `gap_ms_max` none means that a gap is told, not judged.
    pub fn judge(&mut self, gap_ms_max: Option<f64>) {
        // The other ends of what was hung up hear of it a moment later.
        let end = Instant::now() + OTHER_END;
        let mut sums = self.hold.run("sums", REQUEST_DEADLINE);
        while sums["up"] != self.live.len() && Instant::now() < end {
            sums = self.hold.run("sums", REQUEST_DEADLINE);
        }
        let number = |key: &str| sums[key].as_u64().unwrap_or(u64::MAX);
        let gap_ms = sums["gap_ms"].as_f64().unwrap_or(f64::MAX);
        self.seen.gap_ms = self.seen.gap_ms.max(gap_ms);
        let stall_ms = self.witness.worst_ms();
        self.seen.host_stall_ms = self.seen.host_stall_ms.max(stall_ms);
        if let Some(most) = gap_ms_max {
            self.seen.packets_lost += number("packets_lost");
            self.seen.expect(number("packets_lost") == 0, || format!("{} packets lost", sums["packets_lost"]));
            self.seen.expect(gap_ms <= most, || {
                let end = if sums["gap_is_callers"] == true { "caller" } else { "callee" };
                let ago_ms = unix_ms() - sums["gap_over_unix_ms"].as_f64().unwrap_or(0.0);
                let call = &sums["gap_call"];
                format!(
                    "a gap of {gap_ms:.0} ms, at most {most:.0} are allowed: {end} of call {call}, over {ago_ms:.0} ms ago; \
                     the host kept a bystander waiting for up to {stall_ms:.0} ms"
                )
            });
        }
        for key in JUDGED {
            self.seen.expect(number(key) == 0, || format!("{key}: {}", sums[key]));
        }
        for (what, before) in ["doubled", "hung_up", "crossed"].into_iter().zip(&mut self.disturbed) {
            let calls = number(&format!("trickles_{what}"));
            self.seen.expect_of_setup(calls == *before, || format!("calls in set-up, {what}: {}", calls - *before));
            *before = calls;
        }
        let live = self.live.len() as u64;
        self.seen.expect(number("up") == live, || format!("{} of {live} calls are up", sums["up"]));
    }

    /// What was lost since the mark where that is to be expected, and the longest gap; the rest is judged.
    pub fn interrupted(&mut self) -> (u64, f64) {
        let sums = self.hold.run("sums", REQUEST_DEADLINE);
        self.judge(None);
        (sums["packets_lost"].as_u64().unwrap_or(u64::MAX), sums["gap_ms"].as_f64().unwrap_or(f64::MAX))
    }

    /// SSRC and sequence in what came, over all calls.
    pub fn continuity(&mut self) -> Continuity {
        let report = self.hold.run("report", REQUEST_DEADLINE);
        let calls = report["calls"].as_array().expect("calls");
        let mut all = Continuity::default();
        for end in calls.iter().flat_map(|call| [&call["caller"], &call["callee"]]).filter(|end| !end.is_null()) {
            all.ssrc_changes += end["ssrc_changes"].as_u64().unwrap_or(0);
            all.rollovers += end["rollovers"].as_u64().unwrap_or(0);
            let ahead = end["sequence_ahead_max"].as_u64().unwrap_or(0);
            // Sequence numbers are compared over half their circle (RFC 1982).
            if ahead >= 1 << 15 {
                all.went_back += 1;
            } else {
                all.ahead_max = all.ahead_max.max(ahead);
            }
        }
        all
    }

    /// Whether a re-INVITE works in every call that is up.
    pub fn all_change(&mut self) -> bool {
        let done = self.hold.run("reinvite all caller", REQUEST_DEADLINE);
        done["good"] == done["asked"]
    }

    /// Places calls one after the other until one is answered, which must be soon.
    pub fn first_new_call(&mut self, since_unix_ms: f64, within: Duration) {
        let within_ms = within.as_secs_f64() * 1e3;
        let mut answered = None;
        while answered.is_none() && unix_ms() - since_unix_ms < 4.0 * within_ms {
            let trickle = self.trickle(1, 10);
            let outcomes = self.settle(trickle);
            answered = outcomes.iter().find(|(code, _)| *code == 200).map(|(_, o)| o["final_unix_ms"].clone());
        }
        let at = answered.and_then(|at| at.as_f64()).map_or(f64::MAX, |at| at - since_unix_ms);
        self.seen.expect(at <= within_ms, || format!("the first new call was answered after {at:.0} ms"));
        self.seen.note(format!("first new call answered {at:.0} ms after the return"));
    }

    /// Some calls that are up, no longer counted among them.
    pub fn take(&mut self, calls: usize) -> Vec<usize> {
        let mut taken = Vec::new();
        while taken.len() < calls && !self.live.is_empty() {
            let at = self.dice.below(self.live.len());
            taken.push(self.live.swap_remove(at));
        }
        taken
    }

    /// Calls that are up.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// After a fault at `since_unix_ms`: re-INVITEs and BYEs from either end, in other calls each time, until the system
    /// must be healed. All must be answered with 200, and one of each within `healed`. The calls that were hung up are
    /// gone; `place` puts others in their place.
    pub fn try_dialogs(&mut self, since_unix_ms: f64, healed: Duration) {
        let tries = (HEALED.as_millis() / TRY_EVERY.as_millis()) as usize;
        let mut open = Vec::new();
        let mut all_changed = Vec::new();
        let begun = Instant::now();
        for n in 0..tries {
            let (changed, ended) = (self.take(1), self.take(1));
            let end = self.dice.pick(&["caller", "callee"]);
            for call in changed.iter().chain(&ended) {
                let is_bye = ended.contains(call);
                let end = if self.echoes.contains(call) { "caller" } else { end };
                let line = if is_bye { format!("bye {call} {end}") } else { format!("reinvite {call} {end}") };
                open.push((self.hold.begin(&line), *call, is_bye));
            }
            // Not hung up while its re-INVITE may still be repeated: that would be refused, and rightly so.
            all_changed.extend(changed);
            // Paced by the clock on purpose: phones do something every now and then, whether the system is up or not.
            std::thread::sleep((TRY_EVERY * (n as u32 + 1)).saturating_sub(begun.elapsed()));
        }
        self.live.extend(all_changed);
        let mut first = [f64::MAX; 2];
        for (line, call, is_bye) in open {
            self.hold.done(line, REQUEST_DEADLINE);
            let method = if is_bye { "BYE" } else { "INVITE" };
            let asked = self.hold.events("request");
            let Some(said) = asked.iter().rev().find(|said| said["n"] == call && said["method"] == method) else {
                continue;
            };
            let outcome = &said["outcome"];
            self.seen.expect(outcome["code"] == 200, || {
                format!(
                    "{} ms after the fault, {method} of call {call}: {outcome}",
                    outcome["sent_unix_ms"].as_f64().unwrap_or(0.0) - since_unix_ms
                )
            });
            if outcome["code"] == 200 {
                let at = outcome["final_unix_ms"].as_f64().unwrap_or(f64::MAX) - since_unix_ms;
                first[usize::from(is_bye)] = first[usize::from(is_bye)].min(at);
            }
        }
        let healed_ms = healed.as_secs_f64() * 1e3;
        for (what, at) in ["re-INVITE", "BYE"].into_iter().zip(first) {
            self.seen
                .expect(at <= healed_ms, || format!("first {what} answered after {at:.0} ms, at most {healed_ms:.0}"));
            if at < f64::MAX {
                self.seen.answered_after(at);
            }
        }
    }

    /// Begins to place calls that end by themselves, while something is about to happen.
    pub fn trickle(&mut self, calls: usize, rate: usize) -> u64 {
        self.looked_at = self.hold.events("call").len();
        self.hold.begin(&format!("trickle {calls} {rate} 0.3"))
    }

    /// Each of them must be answered or refused; how many of which code.
    pub fn settle(&mut self, trickle: u64) -> Vec<(u64, Value)> {
        let deadline = Duration::from_secs(2 * SETUP_TIMEOUT_S.parse::<u64>().expect("a number"));
        self.hold.done(trickle, deadline);
        let calls = self.hold.events("call").split_off(self.looked_at);
        let trickled = calls.into_iter().filter(|call| call["trickled"] == true);
        let outcomes: Vec<(u64, Value)> =
            trickled.map(|call| (call["outcome"]["code"].as_u64().unwrap_or(0), call["outcome"].clone())).collect();
        let hanging: Vec<&Value> = outcomes.iter().filter(|(code, _)| *code == 0).map(|(_, outcome)| outcome).collect();
        self.seen.expect(hanging.is_empty(), || {
            format!("{} of {} calls in set-up were left hanging: {hanging:?}", hanging.len(), outcomes.len())
        });
        outcomes
    }

    /// A line with the codes of what was placed meanwhile.
    pub fn note_codes(&mut self, when: &str, outcomes: &[(u64, Value)]) {
        let mut codes = std::collections::BTreeMap::new();
        outcomes.iter().for_each(|(code, _)| *codes.entry(*code).or_insert(0) += 1);
        let told: Vec<String> = codes.iter().map(|(code, n)| format!("{n} x {code}")).collect();
        self.seen.note(format!("calls placed {when}: {}", told.join(", ")));
    }

    /// Hangs up a call now, waiting for it.
    pub fn hang_up(&mut self, calls: usize) {
        let taken = self.take(calls);
        if taken.is_empty() {
            return;
        }
        let list: Vec<String> = taken.iter().map(ToString::to_string).collect();
        let either = self.dice.pick(&["caller", "callee"]);
        let end = if taken.iter().any(|call| self.echoes.contains(call)) { "caller" } else { either };
        let deadline = Duration::from_secs_f64(taken.len() as f64 / RATE as f64) + REQUEST_DEADLINE;
        let done = self.hold.run(&format!("bye {} {end} {RATE}", list.join(",")), deadline);
        self.seen.expect(done["good"] == taken.len(), || format!("{} of {} BYEs were good", done["good"], taken.len()));
    }

    /// Hangs up everything and compares the records; `records` waits for at least so many.
    pub fn finish(mut self, records: impl FnOnce(usize) -> Vec<Value>) {
        let (report, answered) = self.end_all();
        records::compare(&report, &records(answered), self.seen);
    }

    /// The same, where the system's wall clock was another than the phones'.
    pub fn finish_by_durations(mut self, records: impl FnOnce(usize) -> Vec<Value>) {
        let (report, answered) = self.end_all();
        records::compare_durations(&report, &records(answered), self.seen);
    }

    fn end_all(&mut self) -> (Value, usize) {
        let live = self.live.len();
        let callers = live / 2;
        self.hang_up(callers);
        self.hang_up(live - callers);
        // The other ends hear of it a moment later.
        let end = Instant::now() + OTHER_END;
        loop {
            let report = self.hold.run("report", REQUEST_DEADLINE);
            let calls = report["calls"].as_array().expect("calls");
            let lives = |end: &Value| end["stage"] == "up" || end["stage"] == "setup";
            // One that was answered in the moment of a kill may have lost its other end: its record tells.
            let counts = |call: &&Value| lives(&call["caller"]) || call["trickled"] == false && lives(&call["callee"]);
            let still: Vec<&Value> = calls.iter().filter(counts).collect();
            if still.is_empty() || Instant::now() >= end {
                let answered = calls.iter().filter(|call| call["caller"]["setup"]["code"] == 200).count();
                self.seen
                    .expect(still.is_empty(), || format!("{} calls did not end, such as {}", still.len(), still[0]));
                return (report, answered);
            }
        }
    }
}

/// What the headers of all packets say.
#[derive(Debug, Default)]
pub struct Continuity {
    /// Ends that heard another SSRC from some packet on.
    pub ssrc_changes: u64,
    /// How often ends heard a rollover counter go on.
    pub rollovers: u64,
    /// Ends that heard a sequence number from before.
    pub went_back: u64,
    /// The furthest that a sequence number went ahead by more than was lost.
    pub ahead_max: u64,
}
