//! A phone registers, is found, and goes; who may not is refused in the order of the diagram.

mod common;

use common::*;
use nebula_sip::{Method, Name};
use nebula_store::{locations, now_unix_ms};

#[tokio::test]
async fn a_phone_registers_and_goes() {
    let rig = Rig::new().await;
    for tcp in [false, true] {
        let mut phone = if tcp { Phone::tcp("1000", rig.edge.local_addr()).await } else { rig.phone("1000").await };
        let call_id = format!("register-{tcp}");
        let mut register = phone.new_request(Method::Register, "1000", &call_id, 1).with(Name::Expires, "600");
        register.uri = format!("sip:{}", rig.edge.local_addr()).parse().unwrap();
        phone.send_authorized(register.clone()).await;
        let ok = phone.response(200).await;
        let contact = ok.headers.contact().unwrap().unwrap();
        let left_s: u32 = contact.params.get("expires").unwrap().parse().unwrap();
        assert!((595..=600).contains(&left_s), "{left_s}");
        let bindings = locations::live(&rig.store, "1000", now_unix_ms()).await.unwrap();
        let [binding] = &bindings[..] else { panic!("{bindings:?}") };
        assert_eq!(binding.address, phone.address.to_string());
        assert_eq!(binding.transport, phone.transport().to_lowercase());
        assert_eq!(&binding.proxy, rig.edge.instance().as_str());

        register.headers.set(Name::Expires, "0");
        register.headers.set(Name::CSeq, "11 REGISTER");
        let branch = phone.branch();
        register.headers.edit_via_top(|via| via.params.set("branch", Some(&branch))).unwrap();
        phone.send_authorized(register).await;
        assert!(phone.response(200).await.headers.contact().unwrap().is_none());
        assert!(locations::live(&rig.store, "1000", now_unix_ms()).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn strangers_the_disabled_and_impostors_are_refused() {
    let rig = Rig::new().await;
    // An unknown user and a disabled one are challenged for ever, like a wrong password.
    for user in ["9999", "1002"] {
        let mut phone = rig.phone(user).await;
        let register = phone.new_request(Method::Register, user, "stranger", 1);
        phone.send_authorized(register).await;
        phone.response(401).await;
    }
    // With the right password, but for somebody else.
    let mut phone = rig.phone("1000").await;
    let register = phone.new_request(Method::Register, "1001", "impostor", 1);
    phone.send_authorized(register).await;
    phone.response(403).await;
}
