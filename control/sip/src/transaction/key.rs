//! What identifies a transaction: RFC 3261 17.1.3 (client), 17.2.3 (server, with the older matching of RFC 2543) and
//! 8.2.2.2 (merged requests).
//!
//! A key is half of a SHA-256 over a secret seed and the identifying parts: 16 bytes whatever a peer puts into its
//! headers, and nobody can aim at a collision.

use sha2::{Digest, Sha256};

use crate::message::{Method, Request, Response};

/// A transaction's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Key([u8; 16]);

impl From<Key> for String {
    fn from(key: Key) -> String {
        hex::encode(key.0)
    }
}

impl TryFrom<String> for Key {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, hex::FromHexError> {
        let mut key = [0; 16];
        hex::decode_to_slice(text, &mut key).map(|()| Key(key))
    }
}

/// Makes keys.
#[derive(Debug)]
pub(super) struct Keys {
    seed: [u8; 16],
}

/// Keeps the kinds of keys apart.
#[derive(Clone, Copy)]
enum Kind {
    Client,
    Server,
    ServerRfc2543,
    Merge,
    Tag,
}

impl Keys {
    pub(super) fn new(seed: [u8; 16]) -> Self {
        Self { seed }
    }

    /// 17.1.3: our branch and the method of CSeq.
    pub(super) fn client(&self, branch: &str, method: &Method) -> Key {
        self.digest(Kind::Client, &[branch, method.as_str()])
    }

    /// The key of the transaction that a response answers. None if it is not ours: more than one Via (8.1.3.3).
    pub(super) fn client_of_response(&self, response: &Response) -> Option<Key> {
        let vias = response.headers.vias().ok()?;
        let [via] = vias.as_slice() else { return None };
        let cseq = response.headers.cseq().ok()?;
        Some(self.client(via.branch()?, &cseq.method))
    }

    /// 17.2.3: branch, sent-by and method; ACK counts as the INVITE it follows. `method` may be that of another request
    /// of the same branch: INVITE, to find what a CANCEL is about.
    pub(super) fn server(&self, request: &Request, method: &Method) -> Key {
        let method = if *method == Method::Ack { &Method::Invite } else { method };
        let Ok(via) = request.headers.via_top() else { return self.digest(Kind::Server, &[]) };
        let host = via.host.as_str().to_ascii_lowercase();
        let port = via.port_or_default().to_string();
        if let Some(branch) = via.rfc3261_branch() {
            return self.digest(Kind::Server, &[branch, &host, &port, method.as_str()]);
        }
        // A peer of RFC 2543: Request-URI, From tag, Call-ID, CSeq number and the top Via. The To tag is left out, for
        // the ACK of a refusal bears one that its INVITE did not.
        let from = request.headers.from().ok();
        let parts = [
            method.as_str(),
            &request.uri.to_string(),
            from.as_ref().and_then(|from| from.tag()).unwrap_or(""),
            request.headers.call_id().unwrap_or(""),
            &cseq_number(request),
            &host,
            &port,
            via.branch().unwrap_or(""),
        ];
        self.digest(Kind::ServerRfc2543, &parts)
    }

    /// 8.2.2.2: a request outside a dialog is known by From tag, Call-ID and CSeq, whatever way it took.
    pub(super) fn merge(&self, request: &Request) -> Option<Key> {
        if request.headers.to().ok()?.tag().is_some() {
            return None;
        }
        let from = request.headers.from().ok()?;
        let parts = [from.tag()?, request.headers.call_id().ok()?, &cseq_number(request), request.method.as_str()];
        Some(self.digest(Kind::Merge, &parts))
    }

    /// The To tag of an answer without state: the same for the same request (8.2.7).
    pub(super) fn tag(&self, request: &Request) -> String {
        let Key(transaction) = self.server(request, &Method::Invite);
        let Key(tag) = self.digest(Kind::Tag, &[&hex::encode(transaction)]);
        hex::encode(&tag[..10])
    }

    fn digest(&self, kind: Kind, parts: &[&str]) -> Key {
        let mut hash = Sha256::new().chain_update(self.seed).chain_update([kind as u8]);
        for part in parts {
            // Lengths keep ("a", "bc") and ("ab", "c") apart.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Key(key)
    }
}

fn cseq_number(request: &Request) -> String {
    request.headers.cseq().map(|cseq| cseq.number.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_kinds_nor_parts_nor_seeds_run_into_each_other() {
        let (keys, others) = (Keys::new([1; 16]), Keys::new([2; 16]));
        let all = [
            keys.digest(Kind::Client, &["a", "bc"]),
            keys.digest(Kind::Client, &["ab", "c"]),
            keys.digest(Kind::Client, &["abc"]),
            keys.digest(Kind::Server, &["a", "bc"]),
            others.digest(Kind::Client, &["a", "bc"]),
        ];
        let different: std::collections::HashSet<_> = all.into_iter().collect();
        assert_eq!(different.len(), 5);
        assert_eq!(keys.digest(Kind::Client, &["a", "bc"]), all[0]);
    }
}
