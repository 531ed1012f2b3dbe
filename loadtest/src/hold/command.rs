//! The lines that drive `nebula-load hold`.

use std::time::Duration;

/// Which end of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The one that placed it.
    Caller,
    /// The one that answered it.
    Callee,
}

impl End {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            End::Caller => "caller",
            End::Callee => "callee",
        }
    }
}

/// Which calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Calls {
    /// All that are up.
    All,
    /// These.
    These(Vec<usize>),
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `place N RATE [NUMBER]`: places calls at a rate a second, and is done when each was answered or refused.
    Place {
        /// How many.
        calls: usize,
        /// A second.
        rate: f64,
        /// Whom; the extension of `--to` if it isn't said.
        number: Option<String>,
    },
    /// `trickle N RATE TALK_S [NUMBER]`: as `place`, but each call ends by itself. Done when all have ended.
    Trickle {
        /// How many.
        calls: usize,
        /// A second.
        rate: f64,
        /// How long they talk.
        talk: Duration,
        /// Whom.
        number: Option<String>,
    },
    /// `reinvite CALLS END`: a re-INVITE from that end of each; `rekey CALLS END`: one with a new key for what it sends, if it
    /// protects.
    Reinvite {
        /// Which.
        calls: Calls,
        /// From where.
        end: End,
        /// With a new key.
        rekey: bool,
    },
    /// `bye CALLS END [RATE]`: that end hangs up.
    Bye {
        /// Which.
        calls: Calls,
        /// From where.
        end: End,
        /// A second.
        rate: f64,
    },
    /// `mark`: from now on losses and gaps are counted anew.
    Mark,
    /// `report`: every call, and the sums.
    Report,
    /// `sums`: the sums alone.
    Sums,
    /// `end`: ends the program.
    End,
}

/// A rate that is as good as none.
const AT_ONCE: f64 = 1000.0;

impl Command {
    /// From its line; says what would be right.
    pub fn read(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let wrong = || {
            "known are: place N RATE [NUMBER], trickle N RATE TALK_S [NUMBER], reinvite CALLS caller|callee, rekey \
             CALLS caller|callee, bye CALLS caller|callee [RATE], mark, report, sums, end; CALLS is all or such as 0-4,9"
                .to_owned()
        };
        let number = |at: usize| words.get(at).map(|word| (*word).to_owned());
        let command = match words.as_slice() {
            ["place", calls, rate] | ["place", calls, rate, _] => Some((count(calls), float(rate)))
                .and_then(|(calls, rate)| Some(Command::Place { calls: calls?, rate: rate?, number: number(3) })),
            ["trickle", calls, rate, talk] | ["trickle", calls, rate, talk, _] => {
                Some((count(calls), float(rate), float(talk))).and_then(|(calls, rate, talk)| {
                    let talk = Duration::try_from_secs_f64(talk?).ok()?;
                    Some(Command::Trickle { calls: calls?, rate: rate?, talk, number: number(4) })
                })
            }
            [what @ ("reinvite" | "rekey"), calls, end] => {
                let rekey = *what == "rekey";
                list(calls).zip(side(end)).map(|(calls, end)| Command::Reinvite { calls, end, rekey })
            }
            ["bye", calls, end] => {
                list(calls).zip(side(end)).map(|(calls, end)| Command::Bye { calls, end, rate: AT_ONCE })
            }
            ["bye", calls, end, rate] => list(calls)
                .zip(side(end))
                .zip(float(rate))
                .map(|((calls, end), rate)| Command::Bye { calls, end, rate }),
            ["mark"] => Some(Command::Mark),
            ["report"] => Some(Command::Report),
            ["sums"] => Some(Command::Sums),
            ["end"] => Some(Command::End),
            _ => None,
        };
        command.ok_or_else(wrong)
    }
}

fn count(word: &str) -> Option<usize> {
    word.parse().ok()
}

/// A number above zero.
fn float(word: &str) -> Option<f64> {
    word.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0)
}

fn side(word: &str) -> Option<End> {
    [End::Caller, End::Callee].into_iter().find(|end| end.word() == word)
}

/// `all`, or `0-4,9`.
fn list(word: &str) -> Option<Calls> {
    if word == "all" {
        return Some(Calls::All);
    }
    let mut calls = Vec::new();
    for part in word.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        calls.extend(count(first)?..=count(last)?);
    }
    Some(Calls::These(calls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_or_refused() {
        let read = |line: &str| Command::read(line);
        assert_eq!(read("place 5 2.5"), Ok(Command::Place { calls: 5, rate: 2.5, number: None }));
        assert_eq!(
            read("trickle 3 1 0.5 *43"),
            Ok(Command::Trickle { calls: 3, rate: 1.0, talk: Duration::from_millis(500), number: Some("*43".into()) })
        );
        let calls = Calls::These(vec![0, 1, 2, 9]);
        assert_eq!(read("bye 0-2,9 callee"), Ok(Command::Bye { calls, end: End::Callee, rate: AT_ONCE }));
        let all = |end, rekey| Ok(Command::Reinvite { calls: Calls::All, end, rekey });
        assert_eq!(read("reinvite all caller"), all(End::Caller, false));
        assert_eq!(read("rekey all callee"), all(End::Callee, true));
        for line in ["", "place", "place 5 0", "place x 1", "bye 1 nobody", "reinvite 3-x caller", "marks"] {
            assert!(read(line).is_err(), "{line:?}");
        }
    }
}
