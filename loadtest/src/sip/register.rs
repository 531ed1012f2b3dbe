//! REGISTER, with the digest challenge answered.

use super::Failure;
use super::endpoint::Endpoint;
use super::message::{Account, Side, authorization};
use crate::id::random_id;
use rsip::Method;
use rsip::headers::UntypedHeader;
use std::sync::Arc;

/// Registers the endpoint's address for the account.
pub async fn register(endpoint: &Arc<Endpoint>, account: &Account, expires_s: u32) -> Result<(), Failure> {
    let call_id = random_id();
    let mut call = endpoint.call(&call_id);
    let target = format!("sip:{}", account.server);
    let mut side = Side {
        local: endpoint.local,
        target: target.clone(),
        from: format!("<{}>;tag={}", account.address(), random_id()),
        to: format!("<{}>", account.address()),
        call_id,
        user: account.user.clone(),
        cseq: 0,
    };
    let expires = || rsip::headers::Expires::new(expires_s.to_string()).into();
    let request = side.request(Method::Register, &random_id(), vec![expires()], "")?;
    let mut response = call.transact(request).await?;
    if response.status_code.code() == 401 {
        let credentials = authorization(account, &response, &Method::Register, &target, &random_id())?;
        let request = side.request(Method::Register, &random_id(), vec![expires(), credentials], "")?;
        response = call.transact(request).await?;
    }
    match response.status_code.code() {
        200 => Ok(()),
        code => Err(Failure::Refused(code)),
    }
}
