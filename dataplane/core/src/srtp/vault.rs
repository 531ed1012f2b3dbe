//! The keys of all streams of a worker, apart from the streams: some 4 KiB for a stream that has any, nothing for the others.
//! Memory for all of them is set aside at the start and touched when it is needed.

use super::{Error, Foreseen, Owed, Receiver, Sender, Signing};
use crate::driver::Datagram;
use crate::limits::KEY_OVERLAP_MS;
use crate::time::Nanos;
use nebula_ring::srtp::SrtpConfig;
use nebula_ring::table::StreamRecord;
use nebula_simd::Kernels;

/// A stream's place in the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Safe(u32);

#[derive(Debug)]
pub(crate) struct Vault {
    kernels: Kernels,
    safes: Vec<Keys>,
    free: Vec<Safe>,
}

/// The keys of one stream, with what was heard and used up under each. They move from engine to engine as they are.
#[derive(Debug, Default)]
pub struct Keys {
    /// What the peer protects with, once it has said so.
    pub receive: Option<Receiver>,
    /// The key before, for packets that were in flight when it was changed, and until when.
    former: Option<(Receiver, Nanos)>,
    /// What we protect with.
    pub send: Option<Sender>,
}

impl Vault {
    /// For as many streams as a worker has.
    pub fn new(streams_max: u32) -> Self {
        let streams_max = streams_max as usize;
        Self {
            kernels: Kernels::detect(),
            safes: Vec::with_capacity(streams_max),
            free: Vec::with_capacity(streams_max),
        }
    }

    /// Brings a stream's keys in line with its configuration; those that stay keep all they know. Returns its place from
    /// then on.
    pub fn keep(&mut self, now: Nanos, safe: Option<Safe>, config: Option<&SrtpConfig>) -> Option<Safe> {
        let Some(config) = config else {
            self.empty(safe);
            return None;
        };
        let safe = safe.unwrap_or_else(|| self.open());
        let kernels = self.kernels;
        let keys = &mut self.safes[safe.0 as usize];
        match &config.receive {
            Some(master) if keys.receive.as_ref().is_some_and(|now| now.serial() == master.serial) => {}
            master => {
                let until = now.plus_millis(KEY_OVERLAP_MS);
                let former = std::mem::replace(&mut keys.receive, master.as_ref().map(|it| Receiver::new(kernels, it)));
                keys.former = former.filter(|_| master.is_some()).map(|former| (former, until));
            }
        }
        match &config.send {
            Some(master) if keys.send.as_ref().is_some_and(|now| now.serial() == master.serial) => {}
            master => keys.send = master.as_ref().map(|it| Sender::new(kernels, it)),
        }
        Some(safe)
    }

    /// Takes a stream's keys out, with all that is known of each.
    pub fn take(&mut self, safe: Safe) -> Keys {
        self.free.push(safe);
        std::mem::take(&mut self.safes[safe.0 as usize])
    }

    /// Destroys a stream's keys.
    pub fn empty(&mut self, safe: Option<Safe>) {
        if let Some(safe) = safe {
            self.take(safe);
        }
    }

    /// A stream's keys.
    pub fn keys(&self, safe: Safe) -> &Keys {
        &self.safes[safe.0 as usize]
    }

    /// The same, to be used.
    #[inline]
    pub fn keys_mut(&mut self, safe: Safe) -> &mut Keys {
        &mut self.safes[safe.0 as usize]
    }

    /// Whether no stream has keys.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.safes.len()
    }

    /// The kernels of all keys.
    #[inline]
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// What a tag that is owed to a packet is to be computed from.
    #[inline]
    pub fn signing<'a>(&'a self, safe: Safe, owed: &Owed, packet: &'a Datagram<'_>) -> Option<Signing<'a>> {
        self.keys(safe).send.as_ref()?.signing(owed, packet.as_ref())
    }

    /// There are as many places as streams, so one is free.
    fn open(&mut self) -> Safe {
        self.free.pop().unwrap_or_else(|| {
            self.safes.push(Keys::default());
            Safe(self.safes.len() as u32 - 1)
        })
    }
}

impl Keys {
    /// Goes on where another dataplane left off, as far as it had the same keys.
    pub fn resume(&mut self, record: &StreamRecord) {
        if let Some(receiver) = self.receive.as_mut().filter(|it| it.serial() == record.srtp_key_in) {
            receiver.resume(record);
        }
        if let Some(sender) = &mut self.send {
            sender.rename(record.srtp_rename_out);
            if sender.serial() == record.srtp_key_out {
                sender.resume(record);
            }
        }
    }

    /// What the stream table shows: how far they are, and never they themselves.
    pub fn show(&self, record: &mut StreamRecord) {
        if let Some(receiver) = &self.receive {
            receiver.show(record);
        }
        if let Some(sender) = &self.send {
            sender.show(record);
        }
    }

    /// The stream table is about to be written.
    pub fn renew(&mut self) {
        if let Some(sender) = &mut self.send {
            sender.renew();
        }
    }

    /// Reads an SRTP packet, whose tag under the key that holds may have been computed ahead.
    #[inline]
    pub fn read_rtp(
        &mut self,
        now: Nanos,
        packet: &mut Datagram<'_>,
        foreseen: Option<&Foreseen>,
    ) -> Result<(), Error> {
        self.read(now, |receiver| receiver.read_rtp_foreseen(packet, foreseen))
    }

    /// Reads an SRTCP packet.
    pub fn read_rtcp(&mut self, now: Nanos, packet: &mut Datagram<'_>) -> Result<(), Error> {
        self.read(now, |receiver| receiver.read_rtcp(packet))
    }

    /// With the key that holds, and for a while after a change with the one before: the peer changes when it hears of it.
    #[inline]
    fn read(&mut self, now: Nanos, mut read: impl FnMut(&mut Receiver) -> Result<(), Error>) -> Result<(), Error> {
        let receiver = self.receive.as_mut().ok_or(Error::NoKey)?;
        let refused = match read(receiver) {
            Err(error @ (Error::BadTag | Error::OtherKey | Error::Short)) if self.former.is_some() => error,
            result => return result,
        };
        self.former.take_if(|(_, until)| *until < now);
        let former = self.former.as_mut().ok_or(refused)?;
        // What one key calls a replay or another's may be a plain bad tag to the other: the new key's word counts.
        read(&mut former.0).map_err(|error| if error == Error::Replay { error } else { refused })
    }
}
