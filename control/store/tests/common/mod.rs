//! A store in a file or a server of its own, and what the tests put into it.
#![allow(dead_code, missing_docs)]

pub mod postgres;

use nebula_store::calls::NewCall;
use nebula_store::cdrs::{Cdr, Leg};
use nebula_store::extensions::{Customer, Ha1, NewExtension};
use nebula_store::locations::Binding;
use nebula_store::{Options, Store};
use tempfile::TempDir;

use postgres::Server;

pub struct Fixture {
    pub store: Store,
    pub folder: TempDir,
    pub server: Option<Server>,
}

impl Fixture {
    pub async fn sqlite() -> Self {
        Self::open(tempfile::tempdir().expect("a temporary folder"), None).await
    }

    pub async fn postgres() -> Self {
        let server = Server::start().await;
        Self::open(tempfile::tempdir().expect("a temporary folder"), Some(server)).await
    }

    async fn open(folder: TempDir, server: Option<Server>) -> Self {
        let options = server.as_ref().map_or_else(|| options(&folder), |server| Options::url(server.url()));
        let store = Store::open(&options).await.expect("a store");
        Self { store, folder, server }
    }

    /// Closes and opens the same database.
    pub async fn reopen(self) -> Self {
        self.store.close().await;
        Self::open(self.folder, self.server).await
    }
}

/// Makes a test for SQLite and one for Postgres of each function.
#[macro_export]
macro_rules! on_both {
    ($($behaviour:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $behaviour() {
                super::$behaviour($crate::common::Fixture::sqlite().await).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $behaviour() {
                super::$behaviour($crate::common::Fixture::postgres().await).await;
            })+
        }
    };
}

pub fn options(folder: &TempDir) -> Options {
    Options::file(folder.path().join("nebula.db"))
}

pub fn customer() -> Customer {
    Customer { id: "demo".into(), name: "Demo".into(), created_unix_ms: 1 }
}

pub fn extension(user: &str) -> NewExtension {
    let ha1 = Ha1::new(user, "nebula", "secret");
    NewExtension { user: user.into(), display_name: format!("Phone {user}"), ha1, srtp: None }
}

pub fn binding(contact: &str, cseq: u32) -> Binding {
    Binding {
        contact: contact.into(),
        call_id: "register@phone".into(),
        cseq,
        expires_unix_ms: 60_000,
        transport: "udp".into(),
        address: "192.0.2.7:5060".into(),
        path: vec!["<sip:edge.example.com;lr>".into()],
        user_agent: "phone/1".into(),
        q_thousandths: 500,
        proxy: "proxy-1".into(),
    }
}

pub fn call(id: &str) -> NewCall {
    NewCall {
        id: id.into(),
        customer_id: "demo".into(),
        state: "dialling".into(),
        from_user: "1000".into(),
        from_display: Some("Alice".into()),
        to_user: "1001".into(),
        started_unix_ms: 1_000,
        switchboard: "switchboard-1".into(),
        snapshot: Some("{}".into()),
    }
}

pub fn cdr(id: &str) -> Cdr {
    let leg = |channel: &str| Leg {
        channel_id: channel.into(),
        sip_call_id: Some(format!("{channel}@phone")),
        stats: serde_json::json!({ "packets_received": 100, "jitter_us": 40 }),
        ..Leg::default()
    };
    Cdr {
        call_id: id.into(),
        customer_id: "demo".into(),
        from_user: "1000".into(),
        from_display: Some("Alice".into()),
        to_user: "1001".into(),
        started_unix_ms: 1_000,
        answered_unix_ms: Some(3_000),
        ended_unix_ms: 10_500,
        ended_by: "callee".into(),
        sip_code: 200,
        cause: "normal".into(),
        cause_text: "Normal call clearing".into(),
        legs: vec![leg("a"), leg("b")],
    }
}
