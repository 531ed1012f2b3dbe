//! What the layer keeps of one transaction: its machine, its timers, and the message it may have to send again.
//!
//! Used by the layer alone.

use std::time::Instant;

use bytes::Bytes;

use super::key::Key;
use super::machine::{Event, Machine, Step};
use super::table::TransactionId;
use super::types::Output;
use super::{client, invite_client, invite_server, server};
use crate::flow::Flow;
use crate::message::{Method, Request, Response};
use crate::timers::Timer;

/// One transaction. Its size times the cap is what an attack can cost, so it is pinned.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) machine: AnyMachine,
    /// Where what it sends goes.
    pub(super) flow: Flow,
    pub(super) key: Key,
    pub(super) merge_key: Option<Key>,
    /// The request (client) or the latest response (server), to be sent again.
    pub(super) kept: Bytes,
    pub(super) repeat: Option<(Timer, Instant)>,
    pub(super) deadline: Option<(Timer, Instant)>,
    pub(super) doublings: u8,
    /// When its live queue entry wakes it.
    pub(super) queued: Option<Instant>,
    pub(super) cancel: Cancel,
    /// Made by the layer itself (CANCEL): the user hears nothing of it.
    pub(super) is_own: bool,
}

const _: () = assert!(size_of::<Transaction>() <= 320);

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum AnyMachine {
    InviteClient(invite_client::State),
    Client(client::State),
    InviteServer(invite_server::State),
    Server(server::State),
}

/// How far the cancelling of an INVITE is: one we sent, or one we got.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Cancel {
    None,
    /// Wanted, but no provisional response came yet (9.1). With the Reason to give.
    Wanted(Option<Box<str>>),
    Done,
}

/// The message that came with an event.
pub(super) enum Cargo {
    None,
    Request(Box<Request>, Flow),
    Response(Box<Response>, Flow),
    Bytes(Bytes),
}

impl Transaction {
    pub(super) fn transmit(&self, id: TransactionId) -> Option<Output> {
        (!self.kept.is_empty()).then(|| Output::Transmit { flow: self.flow, bytes: self.kept.clone(), id: Some(id) })
    }

    pub(super) fn slot(&mut self, timer: Timer) -> &mut Option<(Timer, Instant)> {
        if timer.repeats() { &mut self.repeat } else { &mut self.deadline }
    }
}

impl Cargo {
    pub(super) fn deliver(self, id: TransactionId) -> Option<Output> {
        match self {
            Cargo::Request(request, flow) if request.method == Method::Ack => Some(Output::Ack { request, flow }),
            Cargo::Request(request, flow) => Some(Output::Request { id, request, flow }),
            Cargo::Response(response, flow) => Some(Output::Response { id, response, flow }),
            Cargo::Bytes(_) | Cargo::None => None,
        }
    }
}

impl AnyMachine {
    pub(super) fn step(self, event: Event) -> Step<Self> {
        fn lift<S>((state, actions): Step<S>, wrap: fn(S) -> AnyMachine) -> Step<AnyMachine> {
            (wrap(state), actions)
        }
        match self {
            AnyMachine::InviteClient(state) => lift(state.step(event), AnyMachine::InviteClient),
            AnyMachine::Client(state) => lift(state.step(event), AnyMachine::Client),
            AnyMachine::InviteServer(state) => lift(state.step(event), AnyMachine::InviteServer),
            AnyMachine::Server(state) => lift(state.step(event), AnyMachine::Server),
        }
    }

    pub(super) fn start_client(method: &Method) -> Step<Self> {
        if *method == Method::Invite {
            let (state, actions) = invite_client::State::start();
            return (AnyMachine::InviteClient(state), actions);
        }
        let (state, actions) = client::State::start();
        (AnyMachine::Client(state), actions)
    }

    pub(super) fn start_server(method: &Method) -> Step<Self> {
        if *method == Method::Invite {
            let (state, actions) = invite_server::State::start();
            return (AnyMachine::InviteServer(state), actions);
        }
        let (state, actions) = server::State::start();
        (AnyMachine::Server(state), actions)
    }

    pub(super) fn is_terminated(self) -> bool {
        match self {
            AnyMachine::InviteClient(state) => state.is_terminated(),
            AnyMachine::Client(state) => state.is_terminated(),
            AnyMachine::InviteServer(state) => state.is_terminated(),
            AnyMachine::Server(state) => state.is_terminated(),
        }
    }
}
