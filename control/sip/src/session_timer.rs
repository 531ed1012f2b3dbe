//! Session timers (RFC 4028): negotiated as UAC or UAS, then watched, so that a call whose peer vanished ends.
//!
//! Called by the owner of a dialog with the values of `Session-Expires`, `Min-SE`, `Supported` and the clock. Pure:
//! nothing here sends; `Watch` says when to refresh and when the session is to be ended with BYE.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::message::{Headers, Name};
pub use crate::message::{Refresher, SessionExpires};
use crate::snapshot::{Left, Resume};

/// The option tag in Supported and Require.
pub const OPTION_TAG: &str = "timer";
/// No session interval may be shorter (RFC 4028 section 4).
pub const MIN_SE_FLOOR_S: u32 = 90;
/// The recommended session interval (section 4).
pub const SESSION_EXPIRES_DEFAULT_S: u32 = 1800;
/// BYE goes out this much before the end, or a third of the interval if that is less (section 10).
const EXPIRY_MARGIN_MAX: Duration = Duration::from_secs(32);

/// Why a session refresh request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// The interval is below what we accept: answer 422 with `Min-SE: min_se_s`.
    #[error("the session interval is below {min_se_s} s")]
    TooSmall {
        /// For the Min-SE header of the 422.
        min_se_s: u32,
    },
}

/// What we want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The interval we ask for, seconds; 0 asks for none (a peer's wish is honoured nevertheless).
    pub interval_s: u32,
    /// The smallest we accept, seconds, at least 90.
    pub min_se_s: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { interval_s: SESSION_EXPIRES_DEFAULT_S, min_se_s: MIN_SE_FLOOR_S }
    }
}

/// What a session refresh request says about timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offer {
    /// `Supported: timer` (or `Require`).
    pub supported: bool,
    /// Session-Expires.
    pub session_expires: Option<SessionExpires>,
    /// Min-SE.
    pub min_se_s: Option<u32>,
}

impl Offer {
    /// What a request says. A parsed request has readable headers; an unreadable one counts as absent.
    pub fn of(headers: &Headers) -> Self {
        Self {
            supported: headers.lists(Name::Supported, OPTION_TAG) || headers.lists(Name::Require, OPTION_TAG),
            session_expires: headers.session_expires().ok().flatten(),
            min_se_s: headers.min_se().ok().flatten(),
        }
    }

    /// Writes it into a request of ours, but for Supported, which the caller lists.
    pub fn put(&self, headers: &mut Headers) {
        if let Some(session_expires) = self.session_expires {
            headers.set(Name::SessionExpires, session_expires.to_string());
        }
        if let Some(min_se_s) = self.min_se_s {
            headers.set(Name::MinSe, min_se_s.to_string());
        }
    }
}

/// What the UAS's 2xx says, and both sides then do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// The session interval.
    pub interval_s: u32,
    /// Who refreshes.
    pub refresher: Refresher,
    /// Whether the 2xx carries `Require: timer`.
    pub require: bool,
}

impl Agreed {
    /// The Session-Expires of the 2xx.
    pub fn session_expires(&self) -> SessionExpires {
        SessionExpires { interval_s: self.interval_s, refresher: Some(self.refresher) }
    }

    /// Writes it into a 2xx of ours.
    pub fn put(&self, headers: &mut Headers) {
        headers.set(Name::SessionExpires, self.session_expires().to_string());
        if self.require && !headers.lists(Name::Require, OPTION_TAG) {
            headers.push(Name::Require, OPTION_TAG);
        }
    }
}

/// The UAS's answer to a request (section 9 and its table 2). `None`: no session timer.
pub fn answer(policy: Policy, offer: &Offer) -> Result<Option<Agreed>, Error> {
    let ours_min_s = policy.min_se_s.max(MIN_SE_FLOOR_S);
    let floor_s = offer.min_se_s.unwrap_or(0).max(ours_min_s);
    let wanted_s = if policy.interval_s == 0 { u32::MAX } else { policy.interval_s.max(floor_s) };
    let interval_s = match offer.session_expires {
        // Only a UAC that knows of timers understands 422.
        Some(asked) if asked.interval_s < ours_min_s && offer.supported => {
            return Err(Error::TooSmall { min_se_s: ours_min_s });
        }
        // Lowered to ours, never raised but from nonsense.
        Some(asked) => asked.interval_s.min(wanted_s).max(MIN_SE_FLOOR_S),
        None if policy.interval_s == 0 => return Ok(None),
        None => wanted_s,
    };
    let refresher = match (offer.supported, offer.session_expires.and_then(|asked| asked.refresher)) {
        (false, _) => Refresher::Uas,
        (true, Some(asked)) => asked,
        (true, None) => Refresher::Uac,
    };
    Ok(Some(Agreed { interval_s, refresher, require: offer.supported }))
}

/// The UAC's request: its Session-Expires and Min-SE, raised to the `Min-SE` of a 422 (section 7.3) if one came.
pub fn request(policy: Policy, too_small: Option<u32>) -> Offer {
    let min_se_s = policy.min_se_s.max(MIN_SE_FLOOR_S).max(too_small.unwrap_or(0));
    Offer {
        supported: true,
        session_expires: (policy.interval_s > 0)
            .then(|| SessionExpires { interval_s: policy.interval_s.max(min_se_s), refresher: None }),
        min_se_s: (min_se_s > MIN_SE_FLOOR_S).then_some(min_se_s),
    }
}

/// What a UAC's 2xx settles (section 7.2). No Session-Expires means no session timer; no refresher means us.
pub fn settle(response: Option<SessionExpires>) -> Option<Agreed> {
    response.map(|said| Agreed {
        interval_s: said.interval_s.max(MIN_SE_FLOOR_S),
        refresher: said.refresher.unwrap_or(Refresher::Uac),
        require: false,
    })
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Send a re-INVITE or UPDATE; said once per interval.
    Refresh,
    /// Send BYE; said once.
    Expire,
}

/// A session that is watched: half an interval to the refresh, almost a whole one to the end (section 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    agreed: Agreed,
    refresh_at: Option<Instant>,
    expire_at: Option<Instant>,
}

/// A [`Watch`] in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedWatch {
    agreed: Agreed,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh: Option<Left>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expire: Option<Left>,
}

impl Watch {
    /// What is left of it.
    pub fn save(&self, now: Instant) -> SavedWatch {
        let left = |at: Option<Instant>| at.map(|at| Left::of(at, now));
        SavedWatch { agreed: self.agreed, refresh: left(self.refresh_at), expire: left(self.expire_at) }
    }

    /// Goes on where it was.
    pub fn resume(saved: SavedWatch, resume: &Resume) -> Self {
        let at = |left: Option<Left>| left.map(|left| resume.at(left));
        Self { agreed: saved.agreed, refresh_at: at(saved.refresh), expire_at: at(saved.expire) }
    }

    /// Starts or restarts at the 2xx. `we_are` is our part in the request that it answers.
    pub fn new(now: Instant, agreed: Agreed, we_are: Refresher) -> Self {
        let interval = Duration::from_secs(agreed.interval_s.into());
        let margin = EXPIRY_MARGIN_MAX.min(interval / 3);
        Self {
            agreed,
            refresh_at: (agreed.refresher == we_are).then(|| now + interval / 2),
            expire_at: Some(now + (interval - margin)),
        }
    }

    /// What was agreed.
    pub fn agreed(&self) -> Agreed {
        self.agreed
    }

    /// When to call `handle_timeout`.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.refresh_at.or(self.expire_at)
    }

    /// What is due now, if anything.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Due> {
        if self.expire_at.is_some_and(|at| at <= now) {
            (self.refresh_at, self.expire_at) = (None, None);
            return Some(Due::Expire);
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            return Some(Due::Refresh);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { interval_s: 1800, min_se_s: 90 };

    fn offer(supported: bool, interval_s: u32, refresher: Option<Refresher>) -> Offer {
        Offer { supported, session_expires: Some(SessionExpires { interval_s, refresher }), min_se_s: None }
    }

    #[test]
    fn headers_are_read_and_written() {
        let mut headers = Headers::default();
        headers.push(Name::Supported, "100rel, Timer");
        assert_eq!(Offer::of(&headers), Offer { supported: true, ..Offer::default() });
        let offer = Offer { min_se_s: Some(120), ..offer(true, 1800, Some(Refresher::Uas)) };
        offer.put(&mut headers);
        assert_eq!(Offer::of(&headers), offer);
        let mut response = Headers::default();
        answer(POLICY, &offer).unwrap().unwrap().put(&mut response);
        assert_eq!(response.get(Name::SessionExpires), Some("1800;refresher=uas"));
        assert!(response.lists(Name::Require, "timer"));
    }

    /// Table 2 of RFC 4028: (UAC supports, refresher in request) to refresher in response.
    #[test]
    fn uas_table_2() {
        for (supported, asked, answered) in [
            (false, None, Refresher::Uas),
            (true, None, Refresher::Uac),
            (true, Some(Refresher::Uac), Refresher::Uac),
            (true, Some(Refresher::Uas), Refresher::Uas),
        ] {
            let agreed = answer(POLICY, &offer(supported, 1800, asked)).unwrap().unwrap();
            assert_eq!((agreed.refresher, agreed.require), (answered, supported));
        }
    }

    #[test]
    fn uas_never_raises_an_interval_and_never_goes_below_either_minimum() {
        let interval = |offer: &Offer| answer(POLICY, offer).unwrap().unwrap().interval_s;
        assert_eq!(interval(&offer(true, 600, None)), 600);
        assert_eq!(interval(&offer(true, 7200, None)), 1800);
        assert_eq!(interval(&Offer { min_se_s: Some(2400), ..offer(true, 7200, None) }), 2400);
        assert_eq!(interval(&Offer { supported: true, ..Offer::default() }), 1800);
        assert_eq!(answer(Policy { interval_s: 0, ..POLICY }, &Offer::default()), Ok(None));
        assert_eq!(
            answer(Policy { interval_s: 0, ..POLICY }, &offer(true, 600, None)).unwrap().unwrap().interval_s,
            600
        );
    }

    #[test]
    fn too_small_is_refused_with_422_and_asked_again() {
        let strict = Policy { interval_s: 1800, min_se_s: 300 };
        let Err(Error::TooSmall { min_se_s }) = answer(strict, &offer(true, 120, None)) else { panic!("accepted") };
        assert_eq!(min_se_s, 300);
        let lax = Policy { interval_s: 120, min_se_s: 90 };
        assert_eq!(request(lax, None), offer(true, 120, None));
        let again = request(lax, Some(min_se_s));
        assert_eq!((again.session_expires.unwrap().interval_s, again.min_se_s), (300, Some(300)));
        assert_eq!(answer(strict, &again).unwrap().unwrap().interval_s, 300);
        assert!(answer(strict, &offer(false, 120, None)).is_ok(), "a UAC that knows no timers knows no 422");
    }

    #[test]
    fn the_refresher_refreshes_at_half_and_both_end_it_32_s_early() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let agreed = settle(Some(SessionExpires { interval_s: 1800, refresher: None })).unwrap();
        let mut ours = Watch::new(start, agreed, Refresher::Uac);
        assert_eq!(ours.next_timeout(), Some(at(900)));
        assert_eq!(ours.handle_timeout(at(899)), None);
        assert_eq!(ours.handle_timeout(at(900)), Some(Due::Refresh));
        assert_eq!(ours.next_timeout(), Some(at(1768)));
        assert_eq!(ours.handle_timeout(at(1768)), Some(Due::Expire));
        assert_eq!((ours.handle_timeout(at(2000)), ours.next_timeout()), (None, None));
        let mut theirs = Watch::new(start, agreed, Refresher::Uas);
        assert_eq!(theirs.next_timeout(), Some(at(1768)));
        assert_eq!(theirs.handle_timeout(at(1768)), Some(Due::Expire));
        let short = Watch::new(start, Agreed { interval_s: 90, ..agreed }, Refresher::Uas);
        assert_eq!(short.next_timeout(), Some(at(60)), "a third of a short interval");
        assert_eq!(settle(None), None);
    }
}
