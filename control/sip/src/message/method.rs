//! SIP methods: RFC 3261 (six), 3262 PRACK, 3311 UPDATE, 3428 MESSAGE, 3515 REFER, 3903 PUBLISH, 6086 INFO,
//! 6665 SUBSCRIBE and NOTIFY. Case-sensitive (RFC 3261 section 7.1); an unknown one is kept verbatim.

use std::fmt;

use super::text::ByteStr;

macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?) => {
        /// A request method.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum Method {
            $($(#[$doc])* $variant,)+
            /// Any other token.
            Other(ByteStr),
        }

        impl Method {
            /// As it stands on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Method::$variant => $name,)+
                    Method::Other(name) => name,
                }
            }

            fn known(name: &[u8]) -> Option<Self> {
                $(if name == $name.as_bytes() { return Some(Method::$variant); })+
                None
            }
        }
    };
}

methods! {
    /// Opens or changes a session.
    Invite = "INVITE",
    /// Confirms a final answer to INVITE.
    Ack = "ACK",
    /// Ends a session.
    Bye = "BYE",
    /// Takes an unanswered request back.
    Cancel = "CANCEL",
    /// Binds an address of record to contacts.
    Register = "REGISTER",
    /// Asks for capabilities.
    Options = "OPTIONS",
    /// Confirms a reliable provisional answer.
    Prack = "PRACK",
    /// Changes a session without touching the dialog's INVITE state.
    Update = "UPDATE",
    /// Carries something inside a session, here key presses.
    Info = "INFO",
    /// Asks the other side to call somebody.
    Refer = "REFER",
    /// A short message.
    Message = "MESSAGE",
    /// Asks for events.
    Subscribe = "SUBSCRIBE",
    /// Brings an event.
    Notify = "NOTIFY",
    /// Publishes an event state.
    Publish = "PUBLISH",
}

impl Method {
    /// From a token; the caller has checked that it is one.
    pub fn from_token(token: ByteStr) -> Self {
        Self::known(token.as_bytes()).unwrap_or(Method::Other(token))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
