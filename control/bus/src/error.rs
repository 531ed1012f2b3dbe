//! What goes wrong in a request: one error type, with a category that says what the caller may do about it, and its form
//! as a JSON-RPC 2.0 error object (section 5.1 of that specification).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What a caller may do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// It may pass: try again inside the deadline.
    Transient,
    /// It will not pass: a bug, a wrong message, a missing method.
    Permanent,
    /// The request was understood and refused by the callee's rules (`unknown_channel`, `incompatible`).
    Business,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// What the caller may do about it.
    pub category: Category,
    /// A stable name for programs, for example `unknown_channel`.
    pub code: Cow<'static, str>,
    /// An explanation for people.
    pub message: String,
    /// When to try again, if the callee knows.
    pub retry_after_s: Option<u32>,
}

/// The stable codes that the bus itself gives.
pub mod code {
    /// Transient: the inbox, or its memory of idempotency keys, is full.
    pub const BUSY: &str = "busy";
    /// Transient: the deadline passed before the answer came; whether the callee acted is unknown.
    pub const DEADLINE_EXCEEDED: &str = "deadline_exceeded";
    /// Transient: no instance of the service is announced and not draining.
    pub const NO_INSTANCE: &str = "no_instance";
    /// Transient: the addressed instance is not there (any more, or yet).
    pub const UNKNOWN_INSTANCE: &str = "unknown_instance";
    /// Transient: the instance went away with the request still in its inbox; it has not acted.
    pub const UNAVAILABLE: &str = "unavailable";
    /// Permanent: the callee dropped the request without an answer (a bug or a panic there).
    pub const INTERNAL: &str = "internal";
    /// Permanent: the callee answers no such method.
    pub const UNKNOWN_METHOD: &str = "unknown_method";
    /// Permanent: the parameters are not those of the method.
    pub const INVALID_PARAMS: &str = "invalid_params";
    /// Permanent: JSON, but no JSON-RPC 2.0 request.
    pub const INVALID_REQUEST: &str = "invalid_request";
    /// Permanent: not JSON.
    pub const PARSE_ERROR: &str = "parse_error";
    /// Permanent: a newer owner of the call (or a newer process of the same name) has taken over; see
    /// [`crate::membership`].
    pub const FENCED: &str = "fenced";
    /// Permanent: the reply is not what the contract says.
    pub const INVALID_REPLY: &str = "invalid_reply";
}

/// The codes that JSON-RPC itself numbers; all others are numbered by their category.
const NUMBERS: [(&str, i32); 5] = [
    (code::PARSE_ERROR, -32700),
    (code::INVALID_REQUEST, -32600),
    (code::UNKNOWN_METHOD, -32601),
    (code::INVALID_PARAMS, -32602),
    (code::INTERNAL, -32603),
];

impl Error {
    /// An error that may pass.
    pub fn transient(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Category::Transient, code, message)
    }

    /// An error that will not pass.
    pub fn permanent(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Category::Permanent, code, message)
    }

    /// A refusal by the callee's rules.
    pub fn business(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Category::Business, code, message)
    }

    /// The same error, with when to try again.
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Whether it may pass.
    pub fn is_transient(&self) -> bool {
        self.category == Category::Transient
    }

    /// Whether it has this stable code.
    pub fn is(&self, code: &str) -> bool {
        self.code == code
    }

    pub(crate) fn unknown_method(method: &str) -> Self {
        Self::permanent(code::UNKNOWN_METHOD, format!("no method {method:?} here"))
    }

    pub(crate) fn deadline_exceeded(method: &str) -> Self {
        Self::transient(code::DEADLINE_EXCEEDED, format!("{method}: no answer before the deadline"))
    }

    fn new(category: Category, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { category, code: code.into(), message: message.into(), retry_after_s: None }
    }
}

/// The JSON-RPC error object.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorObject {
    code: i32,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<ErrorData>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ErrorData {
    category: Category,
    code: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u32>,
}

impl From<Error> for ErrorObject {
    fn from(error: Error) -> Self {
        let by_category = match error.category {
            Category::Business => -32000,
            Category::Transient => -32001,
            Category::Permanent => -32002,
        };
        let numbered = NUMBERS.iter().find(|(name, _)| *name == error.code).map(|(_, number)| *number);
        ErrorObject {
            code: numbered.unwrap_or(by_category),
            message: error.message,
            data: Some(ErrorData { category: error.category, code: error.code, retry_after_s: error.retry_after_s }),
        }
    }
}

impl From<ErrorObject> for Error {
    /// An object without our `data` (another implementation's) is permanent, named by its number.
    fn from(object: ErrorObject) -> Self {
        let named = NUMBERS.iter().find(|(_, number)| *number == object.code).map(|(name, _)| Cow::Borrowed(*name));
        match object.data {
            Some(data) => Error {
                category: data.category,
                code: data.code,
                message: object.message,
                retry_after_s: data.retry_after_s,
            },
            None => Error::permanent(named.unwrap_or_else(|| Cow::Owned(object.code.to_string())), object.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_wire_with_every_category() {
        for error in [
            Error::transient(code::BUSY, "full").retry_after_s(3),
            Error::permanent(code::UNKNOWN_METHOD, "no method"),
            Error::business("unknown_channel", "gone"),
        ] {
            let text = serde_json::to_string(&ErrorObject::from(error.clone())).unwrap();
            let back: ErrorObject = serde_json::from_str(&text).unwrap();
            assert_eq!(Error::from(back), error);
        }
    }

    #[test]
    fn numbers_are_those_of_json_rpc() {
        assert_eq!(ErrorObject::from(Error::unknown_method("x")).code, -32601);
        assert_eq!(ErrorObject::from(Error::business("unknown_channel", "gone")).code, -32000);
    }

    #[test]
    fn a_foreign_error_object_is_understood() {
        let object: ErrorObject = serde_json::from_str(r#"{"code":-32602,"message":"bad"}"#).unwrap();
        assert_eq!(Error::from(object), Error::permanent(code::INVALID_PARAMS, "bad"));
    }
}
