//! The way in for JSON-RPC 2.0 from outside: what a role's `POST /rpc` hands over. Single requests, notifications and
//! batches (sections 4 to 6 of the specification). The outside names no deadline: the context does.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::contract::Role;
use crate::error::{Error, code};
use crate::limits::{BATCH_REQUESTS_MAX, GATEWAY_BYTES_MAX};
use crate::rpc::{Bus, Context, Target, wait};
use crate::wire::{self, Outcome};

impl Bus {
    /// Passes a JSON-RPC request (or batch) on and returns the response. It is empty if all of it were notifications.
    /// Never fails: what goes wrong is in the response, as the specification says.
    pub async fn call_json(&self, role: Role, target: &Target, raw: &[u8], context: &Context) -> Vec<u8> {
        if raw.len() > GATEWAY_BYTES_MAX {
            return refusal(code::INVALID_REQUEST, format!("a request of more than {GATEWAY_BYTES_MAX} bytes"));
        }
        if raw.trim_ascii_start().first() != Some(&b'[') {
            return self.call_one(role, target, raw, context).await.unwrap_or_default();
        }
        let requests: Vec<&RawValue> = match serde_json::from_slice(raw) {
            Ok(requests) => requests,
            Err(error) => return refusal(code::PARSE_ERROR, error.to_string()),
        };
        if requests.is_empty() || requests.len() > BATCH_REQUESTS_MAX {
            return refusal(code::INVALID_REQUEST, format!("a batch has 1 to {BATCH_REQUESTS_MAX} requests"));
        }
        let mut responses = Vec::with_capacity(requests.len());
        for request in requests {
            responses.extend(self.call_one(role, target, request.get().as_bytes(), context).await);
        }
        if responses.is_empty() {
            return Vec::new();
        }
        [b"[".as_slice(), &responses.join(b",".as_slice()), b"]"].concat()
    }

    /// One request; none is the answer to a notification.
    async fn call_one(&self, role: Role, target: &Target, raw: &[u8], context: &Context) -> Option<Vec<u8>> {
        let request = match wire::read_request(raw) {
            Ok(request) => request,
            Err(error) => return Some(wire::response(None, &Err(error)).into()),
        };
        let mut context = context.clone();
        if let Some(key) = &request.meta.idempotency_key {
            context.idempotency_key = Some(key.as_ref().into());
        }
        let params = request.params.unwrap_or(RawValue::NULL);
        let outcome = self.pass(role, target, &request.method, params, &context).await;
        request.id.map(|id| wire::response(Some(id), &outcome).into())
    }

    async fn pass<P: Serialize + ?Sized>(
        &self,
        role: Role,
        target: &Target,
        method: &str,
        params: &P,
        context: &Context,
    ) -> Outcome {
        let request = wire::request(self.counters.next_id(), method, params, context.meta())?;
        let response =
            wait(self.send(role, target, request, context), method, context.deadline, &self.counters).await?;
        wire::read_response(&response).map(RawValue::to_owned)
    }
}

fn refusal(code: &'static str, message: String) -> Vec<u8> {
    wire::response(None, &Err(Error::permanent(code, message))).into()
}
