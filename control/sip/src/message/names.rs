//! Header names with their compact forms: RFC 3261 section 20 and 7.3.3, and the extensions we know a header of.

use std::fmt;

use super::text::ByteStr;

macro_rules! names {
    ($($variant:ident = $name:literal $(, $compact:literal)?;)+) => {
        /// A header field's name, whatever its spelling was.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each is the header of that name")]
        pub enum Name {
            $($variant,)+
            /// Any other name, verbatim; compared without regard to case by [`Name::is`].
            Other(ByteStr),
        }

        impl Name {
            /// The name in full, as RFCs spell it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Name::$variant => $name,)+
                    Name::Other(name) => name,
                }
            }

            fn known(name: &[u8]) -> Option<Self> {
                $(
                    if name.len() == $name.len() && name.eq_ignore_ascii_case($name.as_bytes()) {
                        return Some(Name::$variant);
                    }
                    $(if name.len() == 1 && name.eq_ignore_ascii_case($compact.as_bytes()) {
                        return Some(Name::$variant);
                    })?
                )+
                None
            }
        }
    };
}

// The most frequent ones first: the look-up goes down this list.
names! {
    Via = "Via", "v";
    From = "From", "f";
    To = "To", "t";
    CallId = "Call-ID", "i";
    CSeq = "CSeq";
    Contact = "Contact", "m";
    MaxForwards = "Max-Forwards";
    ContentLength = "Content-Length", "l";
    ContentType = "Content-Type", "c";
    Route = "Route";
    RecordRoute = "Record-Route";
    Allow = "Allow";
    Supported = "Supported", "k";
    UserAgent = "User-Agent";
    Server = "Server";
    Expires = "Expires";
    Authorization = "Authorization";
    WwwAuthenticate = "WWW-Authenticate";
    ProxyAuthorization = "Proxy-Authorization";
    ProxyAuthenticate = "Proxy-Authenticate";
    AuthenticationInfo = "Authentication-Info";
    Require = "Require";
    ProxyRequire = "Proxy-Require";
    Unsupported = "Unsupported";
    SessionExpires = "Session-Expires", "x";
    MinSe = "Min-SE";
    RSeq = "RSeq";
    RAck = "RAck";
    Accept = "Accept";
    AcceptEncoding = "Accept-Encoding";
    AcceptLanguage = "Accept-Language";
    AlertInfo = "Alert-Info";
    CallInfo = "Call-Info";
    ContentDisposition = "Content-Disposition";
    ContentEncoding = "Content-Encoding", "e";
    ContentLanguage = "Content-Language";
    Date = "Date";
    Diversion = "Diversion";
    ErrorInfo = "Error-Info";
    Event = "Event", "o";
    AllowEvents = "Allow-Events", "u";
    Identity = "Identity", "y";
    InReplyTo = "In-Reply-To";
    MimeVersion = "MIME-Version";
    MinExpires = "Min-Expires";
    Organization = "Organization";
    PAssertedIdentity = "P-Asserted-Identity";
    PPreferredIdentity = "P-Preferred-Identity";
    Path = "Path";
    Priority = "Priority";
    Privacy = "Privacy";
    Reason = "Reason";
    ReferTo = "Refer-To", "r";
    ReferredBy = "Referred-By", "b";
    Replaces = "Replaces";
    ReplyTo = "Reply-To";
    RequestDisposition = "Request-Disposition", "d";
    AcceptContact = "Accept-Contact", "a";
    RejectContact = "Reject-Contact", "j";
    RetryAfter = "Retry-After";
    ServiceRoute = "Service-Route";
    SipEtag = "SIP-ETag";
    SipIfMatch = "SIP-If-Match";
    Subject = "Subject", "s";
    SubscriptionState = "Subscription-State";
    Timestamp = "Timestamp";
    Warning = "Warning";
}

impl Name {
    /// From a token in any case, in full or compact form.
    pub fn from_token(token: &ByteStr) -> Self {
        Self::known(token.as_bytes()).unwrap_or_else(|| Name::Other(token.clone()))
    }

    /// Whether both name the same header field.
    pub fn is(&self, other: &Name) -> bool {
        match (self, other) {
            (Name::Other(a), Name::Other(b)) => a.eq_ignore_ascii_case(b),
            _ => self == other,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self::from_token(&ByteStr::from(name))
    }
}
