//! The route set of a dialog, and how a request is aimed with it (RFC 3261 12.1, 12.2.1.1, 16.12.1.1).
//!
//! Pure functions.

use crate::message::{HeaderError, Headers, NameAddr, Uri};

/// The route set of the side that got the request: Record-Route in order (12.1.1).
pub(super) fn of_uas(headers: &Headers) -> Result<Vec<NameAddr>, HeaderError> {
    headers.record_routes()
}

/// The route set of the side that got the response: Record-Route backwards (12.1.2).
pub(super) fn of_uac(headers: &Headers) -> Result<Vec<NameAddr>, HeaderError> {
    headers.record_routes().map(|mut routes| {
        routes.reverse();
        routes
    })
}

/// Request-URI and Route values for a peer at `target` behind `routes` (12.2.1.1).
///
/// The first hop may be a strict router of RFC 2543, without `lr`: it wants itself in the Request-URI and the target
/// last in Route.
pub(super) fn aim(target: &Uri, routes: &[NameAddr]) -> (Uri, Vec<NameAddr>) {
    match routes.split_first() {
        None => (target.clone(), Vec::new()),
        Some((first, _)) if is_loose(&first.uri) => (target.clone(), routes.to_vec()),
        Some((first, rest)) => {
            let mut routes = rest.to_vec();
            routes.push(NameAddr::new(target.clone()));
            (as_request_uri(&first.uri), routes)
        }
    }
}

fn is_loose(uri: &Uri) -> bool {
    uri.params().is_some_and(|params| params.has("lr"))
}

/// Without what a Request-URI must not have (19.1.1, table 1): headers and the method parameter.
fn as_request_uri(uri: &Uri) -> Uri {
    let mut uri = uri.clone();
    if let Uri::Sip(sip) = &mut uri {
        sip.headers = None;
        sip.params.remove("method");
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn aimed(target: &str, routes: &[&str]) -> (String, Vec<String>) {
        let routes: Vec<_> = routes.iter().map(|route| NameAddr::parse(route).unwrap()).collect();
        let (request_uri, routes) = aim(&uri(target), &routes);
        (request_uri.to_string(), routes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn loose_routers_leave_the_request_uri_alone() {
        assert_eq!(aimed("sip:b@h", &[]), ("sip:b@h".into(), vec![]));
        assert_eq!(
            aimed("sip:b@h", &["<sip:p1;lr>", "<sip:p2>"]),
            ("sip:b@h".into(), vec!["<sip:p1;lr>".into(), "<sip:p2>".into()])
        );
    }

    /// The example of 12.2.1.1.
    #[test]
    fn a_strict_router_gets_itself_and_the_target_comes_last() {
        assert_eq!(
            aimed("sip:user@remoteua", &["<sip:proxy1?x=y>", "<sip:proxy2>", "<sip:proxy3;lr>", "<sip:proxy4>"]),
            (
                "sip:proxy1".into(),
                vec![
                    "<sip:proxy2>".into(),
                    "<sip:proxy3;lr>".into(),
                    "<sip:proxy4>".into(),
                    "<sip:user@remoteua>".into()
                ]
            )
        );
    }
}
