//! The JSON-RPC 2.0 envelopes as bytes: written once by the caller, scanned once by the callee; `params` and `result`
//! stay raw until the typed side reads them. Beside the members of the specification there is `meta`, which carries what
//! travels with every request: its id through all hops, the time left, the idempotency key.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorObject, code};

/// What travels with a request beside its parameters.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Meta<'a> {
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    /// The time the caller still gives, from the moment of sending; clocks of two hosts need not agree.
    pub timeout_ms: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<Cow<'a, str>>,
    /// The fence of the call's owner, on requests about a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
}

/// A request as it is written; `P` is typed parameters or raw JSON.
#[derive(Serialize)]
pub(crate) struct RequestOut<'a, P: ?Sized> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    params: &'a P,
    meta: Meta<'a>,
}

/// Writes a request.
pub(crate) fn request<P: Serialize + ?Sized>(
    id: u64,
    method: &str,
    params: &P,
    meta: Meta<'_>,
) -> Result<Bytes, Error> {
    let envelope = RequestOut { jsonrpc: "2.0", id, method, params, meta };
    match serde_json::to_vec(&envelope) {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => Err(Error::permanent(code::INVALID_PARAMS, format!("{method}: {error}"))),
    }
}

/// A request as it is read.
#[derive(Debug, Deserialize)]
pub(crate) struct RequestIn<'a> {
    #[serde(borrow)]
    pub jsonrpc: Cow<'a, str>,
    /// Absent in a notification.
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub method: Cow<'a, str>,
    #[serde(borrow, default)]
    pub params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub meta: Meta<'a>,
}

/// Reads a request, telling JSON that is no request from what is not JSON at all.
pub(crate) fn read_request(bytes: &[u8]) -> Result<RequestIn<'_>, Error> {
    let request: RequestIn<'_> = serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Error::permanent(code::INVALID_REQUEST, error.to_string()),
        _ => Error::permanent(code::PARSE_ERROR, error.to_string()),
    })?;
    if request.jsonrpc != "2.0" {
        return Err(Error::permanent(code::INVALID_REQUEST, "jsonrpc is not \"2.0\""));
    }
    Ok(request)
}

/// A response, written and read: exactly one of `result` and `error`.
#[derive(Serialize)]
struct ResponseOut<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorObject>,
    id: Option<&'a RawValue>,
}

/// How a request came out, its result still raw JSON.
pub(crate) type Outcome = Result<Box<RawValue>, Error>;

/// Writes a response; `id` is the request's, or none where it could not be read (`null` on the wire).
pub(crate) fn response(id: Option<&RawValue>, outcome: &Outcome) -> Bytes {
    let (result, error) = match outcome {
        Ok(result) => (Some(&**result), None),
        Err(error) => (None, Some(ErrorObject::from(error.clone()))),
    };
    // Raw JSON, text and numbers: there is nothing in it that serde_json can refuse.
    serde_json::to_vec(&ResponseOut { jsonrpc: "2.0", result, error, id }).unwrap_or_default().into()
}

#[derive(Deserialize)]
struct ResponseIn<'a> {
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<ErrorObject>,
}

/// Reads a response to its raw result.
pub(crate) fn read_response(bytes: &[u8]) -> Result<&RawValue, Error> {
    let response: ResponseIn<'_> =
        serde_json::from_slice(bytes).map_err(|error| Error::permanent(code::INVALID_REPLY, error.to_string()))?;
    match (response.result, response.error) {
        (_, Some(error)) => Err(error.into()),
        (Some(result), None) => Ok(result),
        // `"result": null` reads as absent; it is the result of a method that returns nothing.
        (None, None) => Ok(RawValue::NULL),
    }
}
