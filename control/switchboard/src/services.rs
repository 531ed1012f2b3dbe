//! Service numbers: what is dialled to reach Nebula itself. A table; the call machine asks it once per INVITE.

/// A service that answers a call in place of a phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// Sends back what it hears.
    Echo,
}

/// Every service: what is dialled, what answers, and what people are told about it.
pub const SERVICES: &[(&str, Service, &str)] = &[("*43", Service::Echo, "echoes your voice")];

/// The service behind a dialled user part. A softphone may have escaped the star (`%2A43`).
pub fn find(dialled: &str) -> Option<Service> {
    let matches = |number: &str| match dialled.strip_prefix("%2A").or_else(|| dialled.strip_prefix("%2a")) {
        Some(rest) => number.strip_prefix('*') == Some(rest),
        None => number == dialled,
    };
    SERVICES.iter().find(|(number, ..)| matches(number)).map(|(_, service, _)| *service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_is_found_plain_and_escaped() {
        assert_eq!(find("*43"), Some(Service::Echo));
        assert_eq!(find("%2A43"), Some(Service::Echo));
        assert_eq!(find("%2a43"), Some(Service::Echo));
        for other in ["43", "*4", "*433", "", "%2A", "1001"] {
            assert_eq!(find(other), None, "{other}");
        }
    }
}
