//! The worker's streams: dense by index, found by id, with a list of those that changed. All memory is taken by `new`;
//! a place is first touched when its first stream comes.

use crate::driver::{Generation, Socket, StreamIndex};
use crate::engine::EventSink;
use crate::ids::Ids;
use crate::limits::{Limits, REUSE_DISTANCE, STREAMS_MAX};
use crate::srtp::Vault;
use crate::stream::Stream;
use crate::time::Nanos;
use crate::timers::Wheel;
use crate::view::StreamView;
use nebula_ring::command::StreamId;
use std::collections::VecDeque;
use std::ops::{Index, IndexMut};

#[derive(Debug)]
pub(crate) struct Table {
    streams: Vec<Stream>,
    streams_max: u32,
    ids: Ids,
    /// Places that are free again, the longest free first.
    free: VecDeque<StreamIndex>,
    dirty: Vec<StreamIndex>,
    generation: Generation,
    pub wheel: Wheel,
    pub vault: Vault,
}

impl Table {
    pub fn new(limits: Limits) -> Self {
        let Limits { streams_max } = limits;
        assert!((1..=STREAMS_MAX).contains(&streams_max), "streams_max is {streams_max}, of 1 to {STREAMS_MAX}");
        Self {
            streams: Vec::with_capacity(streams_max as usize),
            streams_max,
            ids: Ids::new(streams_max),
            free: VecDeque::with_capacity(streams_max as usize),
            dirty: Vec::with_capacity(streams_max as usize),
            generation: Generation(0),
            wheel: Wheel::new(streams_max),
            vault: Vault::new(streams_max),
        }
    }

    /// Whose socket it is, unless that stream is gone.
    #[inline]
    pub fn owner(&self, socket: Socket) -> Option<&Stream> {
        let stream = self.streams.get(socket.stream.0 as usize)?;
        (stream.open && stream.generation == socket.generation).then_some(stream)
    }

    pub fn find(&self, id: StreamId) -> Option<StreamIndex> {
        self.ids.get(id)
    }

    /// A free place. Places are reused as late as memory allows.
    pub fn vacant(&self) -> Option<StreamIndex> {
        let fresh = self.streams.len() as u32;
        match self.free.front() {
            Some(&index) if self.free.len() > REUSE_DISTANCE || fresh == self.streams_max => Some(index),
            _ if fresh < self.streams_max => Some(StreamIndex(fresh)),
            _ => None,
        }
    }

    /// A generation for the next attempt to create a stream. One whose ports could not be opened has used its own up:
    /// packets may have come in on the first of them.
    pub fn next_generation(&mut self) -> Generation {
        self.generation = Generation(self.generation.0.wrapping_add(1));
        self.generation
    }

    /// Puts a stream into the place that `vacant` named.
    pub fn occupy(&mut self, index: StreamIndex, mut stream: Stream) {
        self.ids.insert(stream.id, index);
        match self.streams.get_mut(index.0 as usize) {
            Some(place) => {
                self.free.pop_front();
                stream.dirty = place.dirty;
                *place = stream;
            }
            None => self.streams.push(stream),
        }
        self.touch(index);
    }

    /// Closes a stream; its last state stays to be shown once.
    pub fn release(&mut self, index: StreamIndex) {
        let stream = &mut self[index];
        stream.open = false;
        let id = stream.id;
        self.ids.remove(id);
        self.wheel.cancel(index);
        self.free.push_back(index);
        self.touch(index);
    }

    /// Puts a stream on the list of those that changed.
    #[inline]
    pub fn touch(&mut self, index: StreamIndex) {
        let stream = &mut self[index];
        if !stream.dirty {
            stream.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Has the stream table show a stream at once: SRTP indices that a successor must not use again, before the packet that
    /// uses them is handed to the driver.
    #[cold]
    pub fn show(&self, index: StreamIndex, events: &mut impl EventSink) {
        events.show(index, &self.view(index));
    }

    /// Sets a stream's timer to what it now needs.
    pub fn rearm(&mut self, now: Nanos, index: StreamIndex) {
        match self[index].next_due() {
            Some(due) => self.wheel.set(now, index, due),
            None => self.wheel.cancel(index),
        }
    }

    pub fn for_each_dirty(&mut self, mut visit: impl FnMut(StreamIndex, &StreamView<'_>)) {
        for index in self.dirty.drain(..) {
            let stream = &mut self.streams[index.0 as usize];
            stream.dirty = false;
            let keys = stream.safe.map(|safe| {
                let keys = self.vault.keys_mut(safe);
                keys.renew();
                &*keys
            });
            visit(index, &stream.view(keys));
        }
    }

    pub fn view(&self, index: StreamIndex) -> StreamView<'_> {
        let stream = &self[index];
        stream.view(stream.safe.map(|safe| self.vault.keys(safe)))
    }

    pub fn open(&self) -> impl Iterator<Item = (StreamIndex, StreamView<'_>)> {
        let open = (0..).map(StreamIndex).zip(&self.streams).filter(|(_, s)| s.open);
        open.map(|(i, s)| (i, s.view(s.safe.map(|safe| self.vault.keys(safe)))))
    }
}

impl Index<StreamIndex> for Table {
    type Output = Stream;

    fn index(&self, index: StreamIndex) -> &Stream {
        &self.streams[index.0 as usize]
    }
}

impl IndexMut<StreamIndex> for Table {
    fn index_mut(&mut self, index: StreamIndex) -> &mut Stream {
        &mut self.streams[index.0 as usize]
    }
}
