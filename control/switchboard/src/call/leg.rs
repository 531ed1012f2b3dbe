//! A leg of a call: a SIP dialog at a proxy and a stream at a media agent. Plain data.

use nebula_bus::contract::{Cause, ChannelId, Destination, InstanceId, StreamId, StreamStats};
use serde::{Deserialize, Serialize};

/// Which leg of a call; 0 is the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LegIndex(pub u8);

impl From<usize> for LegIndex {
    fn from(index: usize) -> Self {
        // FORKS_MAX keeps it far below.
        LegIndex(index as u8)
    }
}

/// Where a leg's dialog stands, as far as the call needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sip {
    /// Not dialled yet.
    Idle,
    /// An INVITE is open, ours or the caller's.
    Inviting,
    /// 2xx was sent or received.
    Answered,
    /// Ended by the phone, or told to end.
    Gone,
}

/// Where a leg's stream stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    /// Not asked for.
    None,
    /// `stream.create` is under way.
    Creating,
    /// It lives.
    Open {
        /// Its name.
        stream_id: StreamId,
        /// Its agent.
        media: InstanceId,
    },
    /// `stream.destroy` is under way.
    Closing {
        /// Its name.
        stream_id: StreamId,
        /// Its agent.
        media: InstanceId,
    },
    /// It is closed; its statistics if its agent still knew them.
    Closed(Option<Box<StreamStats>>),
}

/// One leg.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Leg {
    /// Its name on the bus.
    pub channel_id: ChannelId,
    /// The proxy that owns it.
    pub proxy: InstanceId,
    /// Where its dialog stands.
    pub sip: Sip,
    /// Where its stream stands.
    pub media: Media,
    /// Where a fork's phone is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// The peer holds us.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// The description the peer answered with, once applied; forgotten when the call is answered.
    #[serde(skip)]
    pub remote_sdp: Option<String>,
    /// An offer/answer exchange was completed: there is a session to fall back to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub agreed: bool,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Cause>,
    /// Its proxy says that it has ended, but not how: found at this moment, monotonic ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_ms: Option<u64>,
}

impl Leg {
    pub(super) fn caller(channel_id: ChannelId, proxy: InstanceId) -> Leg {
        Leg {
            channel_id,
            proxy,
            sip: Sip::Inviting,
            media: Media::None,
            destination: None,
            held: false,
            remote_sdp: None,
            agreed: false,
            ended: None,
            gone_ms: None,
        }
    }

    pub(super) fn fork(channel_id: ChannelId, proxy: InstanceId, destination: Destination) -> Leg {
        Leg { sip: Sip::Idle, destination: Some(destination), ..Leg::caller(channel_id, proxy) }
    }

    /// The name of its stream while there is one.
    pub fn stream_id(&self) -> Option<&StreamId> {
        match &self.media {
            Media::Open { stream_id, .. } | Media::Closing { stream_id, .. } => Some(stream_id),
            Media::None | Media::Creating | Media::Closed(_) => None,
        }
    }

    /// The media agent of its stream while it is open.
    pub fn agent(&self) -> Option<&InstanceId> {
        match &self.media {
            Media::Open { media, .. } => Some(media),
            _ => None,
        }
    }

    /// The statistics of its stream, once closed.
    pub fn stats(&self) -> Option<&StreamStats> {
        match &self.media {
            Media::Closed(stats) => stats.as_deref(),
            _ => None,
        }
    }
}
