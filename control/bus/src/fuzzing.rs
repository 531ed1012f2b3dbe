//! A way in for the fuzz target about envelopes, whose readers are private.

use crate::snapshots;
use crate::wire::{self, Meta};

/// Reads bytes as each kind of envelope. What can be read is written again and read the same; a request that cannot is
/// refused with an error that can be written and read.
pub fn envelope(bytes: &[u8]) {
    match wire::read_request(bytes) {
        Ok(request) => {
            let meta = Meta {
                request_id: request.meta.request_id.clone(),
                timeout_ms: request.meta.timeout_ms,
                idempotency_key: request.meta.idempotency_key.clone(),
                fence: request.meta.fence,
            };
            let Ok(written) = wire::request(1, &request.method, &request.params, meta) else {
                panic!("what was read cannot be written")
            };
            let Ok(again) = wire::read_request(&written) else { panic!("what was written cannot be read") };
            assert_eq!(again.method, request.method);
            assert_eq!((again.meta.timeout_ms, again.meta.fence), (request.meta.timeout_ms, request.meta.fence));
            assert_eq!(again.meta.request_id, request.meta.request_id);
            assert_eq!(again.meta.idempotency_key, request.meta.idempotency_key);
        }
        Err(error) => {
            let refusal = wire::response(None, &Err(error.clone()));
            assert_eq!(wire::read_response(&refusal).err(), Some(error));
        }
    }
    if let Ok(result) = wire::read_response(bytes) {
        let written = wire::response(None, &Ok(result.to_owned()));
        let Ok(again) = wire::read_response(&written) else { panic!("a response that cannot be read again") };
        assert_eq!(again.get(), result.get());
    }
    let _ = snapshots::decode::<serde_json::Value>("leg", &[1], bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = snapshots::Moment::parse(text);
    }
}
