//! Commands that nobody waits for on the spot: requests, answers, acknowledgements. One task per connection takes all
//! that wait and sends them as one pipeline; the next pipeline leaves before the answer to the last one is there.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::link::Link;
use crate::Error;
use crate::error::code;
use crate::limits::{OPERATIONS_MAX, PIPELINE_COMMANDS_MAX, PIPELINES_MAX};

/// Learns what Redis answered.
pub(super) type Done = Box<dyn FnOnce(Result<Value, Error>) + Send>;

/// A command and who wants to know of its outcome.
pub(super) struct Op {
    pub command: Cmd,
    pub done: Done,
}

/// The handle of the task; commands leave in the order of [`Writer::push`].
pub(super) struct Writer {
    ops: mpsc::Sender<Op>,
    task: AbortHandle,
}

impl Writer {
    pub fn start(link: Arc<Link>) -> Self {
        let (ops, receiver) = mpsc::channel(OPERATIONS_MAX);
        let task = tokio::spawn(write(link, receiver)).abort_handle();
        Self { ops, task }
    }

    /// Hands a command over. Never waits: with too many under way it is refused as `busy`.
    pub fn push(&self, command: Cmd, done: impl FnOnce(Result<Value, Error>) + Send + 'static) {
        if let Err(refused) = self.ops.try_send(Op { command, done: Box::new(done) }) {
            let op = refused.into_inner();
            (op.done)(Err(Error::transient(code::BUSY, "too many commands wait for Redis")));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Flight = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn write(link: Arc<Link>, mut ops: mpsc::Receiver<Op>) {
    let mut flying: FuturesUnordered<Flight> = FuturesUnordered::new();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = flying.next(), if !flying.is_empty() => {}
            count = ops.recv_many(&mut batch, PIPELINE_COMMANDS_MAX), if flying.len() < PIPELINES_MAX => {
                if count == 0 {
                    break;
                }
                let mut flight: Flight = Box::pin(fly(link.clone(), std::mem::take(&mut batch)));
                // The first poll puts it into the connection's queue: here, so that none overtakes another.
                if poll_fn(|context| Poll::Ready(flight.as_mut().poll(context))).await.is_pending() {
                    flying.push(flight);
                }
            }
        }
    }
    while flying.next().await.is_some() {}
}

/// Sends some commands and tells each of its outcome.
async fn fly(link: Arc<Link>, ops: Vec<Op>) {
    let live = match link.live() {
        Ok(live) => live,
        Err(error) => return ops.into_iter().for_each(|op| (op.done)(Err(error.clone()))),
    };
    let mut pipeline = Pipeline::with_capacity(ops.len());
    let mut waiting = Vec::with_capacity(ops.len());
    for op in ops {
        pipeline.add_command(op.command);
        waiting.push(op.done);
    }
    let mut connection = live.connection.clone();
    match connection.send_packed_commands(&pipeline, 0, waiting.len()).await {
        Ok(answers) => {
            for (done, answer) in waiting.into_iter().zip(answers) {
                done(answer.extract_error().map_err(|error| link.failed(live.generation, &error)));
            }
        }
        Err(error) => {
            let error = link.failed(live.generation, &error);
            waiting.into_iter().for_each(|done| done(Err(error.clone())));
        }
    }
}
