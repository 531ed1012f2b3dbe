//! What identifies a dialog (RFC 3261 section 12): Call-ID and both tags, as this side sees them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::message::{ByteStr, HeaderError, Request, Response};

/// A dialog's identity. A peer of RFC 2543 has an empty tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DialogId {
    /// Call-ID.
    pub call_id: ByteStr,
    /// Our tag.
    pub local_tag: ByteStr,
    /// The peer's tag.
    pub remote_tag: ByteStr,
}

impl DialogId {
    /// Of a request that the peer sent: To is us. None if it is outside of any dialog (no To tag).
    pub fn of_request(request: &Request) -> Result<Option<Self>, HeaderError> {
        let headers = &request.headers;
        let (to, from) = (headers.to()?, headers.from()?);
        let Some(local_tag) = to.tag() else { return Ok(None) };
        let remote_tag = from.tag().unwrap_or("").into();
        Ok(Some(Self { call_id: headers.call_id()?.into(), local_tag: local_tag.into(), remote_tag }))
    }

    /// Of a response to a request of ours: From is us.
    pub fn of_response(response: &Response) -> Result<Self, HeaderError> {
        let headers = &response.headers;
        let (to, from) = (headers.to()?, headers.from()?);
        Ok(Self {
            call_id: headers.call_id()?.into(),
            local_tag: from.tag().unwrap_or("").into(),
            remote_tag: to.tag().unwrap_or("").into(),
        })
    }
}

impl fmt::Display for DialogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};local={};remote={}", self.call_id, self.local_tag, self.remote_tag)
    }
}
