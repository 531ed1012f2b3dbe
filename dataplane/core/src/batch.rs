//! The tags of several packets at once: one message leaves most of a processor idle while SHA-1 depends on itself from round
//! to round, sixteen side by side do not (`nebula_simd::hmac`).
//!
//! Packets are still handled one after the other, each fully before the next. A tag is a function of a key, of the bytes and
//! of the rollover counter alone. So what the tags of packets that came in together should be is computed before the first
//! of them is handled, with the counter that each has if nothing unusual happens; a packet whose counter turned out to be
//! another, or whose key, is hashed by itself. And what packets that leave still lack is their tags alone: those are put in
//! when the last one was handled.

use crate::driver::{Datagram, Incoming};
use crate::ingress::classify::{Kind, classify};
use crate::srtp::{Foreseen, Owed, Receiver, Safe, Signing, Vault};
use crate::table::Table;
use nebula_simd::{Kernels, hmac};

/// Packets whose tags are computed at once: the lanes of the widest kernel.
pub const BATCH_MAX: usize = 16;

/// What is owed to a packet: by whose key.
pub(crate) type Debt = (Safe, Owed);

/// The tags that packets should have, where they are protected by HMAC and will be looked at as far as can be seen.
#[inline]
pub(crate) fn foresee(table: &Table, packets: &[Incoming<'_>]) -> [Option<Foreseen>; BATCH_MAX] {
    let mut foreseen = [None; BATCH_MAX];
    let mut tags = Tags::default();
    for (at, incoming) in packets.iter().enumerate() {
        if let Some(signing) = receiver(table, incoming).and_then(|it| it.signing(incoming.packet.as_ref())) {
            tags.add(at, signing);
        }
    }
    tags.compute(table.vault.kernels(), |at, signing, tag| foreseen[at] = Some(Foreseen::new(signing, tag)));
    foreseen
}

/// Puts in the tags that packets lack.
#[inline]
pub(crate) fn pay(vault: &Vault, packets: &mut [Incoming<'_>], debts: &[Option<Debt>; BATCH_MAX]) {
    let mut computed = [None; BATCH_MAX];
    let mut tags = Tags::default();
    for (at, (incoming, debt)) in packets.iter().zip(debts).enumerate() {
        if let Some(signing) = debt.as_ref().and_then(|(safe, owed)| vault.signing(*safe, owed, &incoming.packet)) {
            tags.add(at, signing);
        }
    }
    tags.compute(vault.kernels(), |at, _, tag| computed[at] = Some(tag));
    for ((incoming, debt), tag) in packets.iter_mut().zip(debts).zip(&computed) {
        if let (Some((_, owed)), Some(tag)) = (debt, tag) {
            owed.pay(&mut incoming.packet, tag);
        }
    }
}

/// Puts in the tag that one packet lacks.
pub(crate) fn pay_one(vault: &Vault, packet: &mut Datagram<'_>, (safe, owed): Debt) {
    if let Some(tag) = vault.signing(safe, &owed, packet).map(|signing| signing.tag(vault.kernels())) {
        owed.pay(packet, &tag);
    }
}

/// Whose key a packet should be under, if it is RTP that is not refused at sight.
#[inline]
fn receiver<'a>(table: &'a Table, incoming: &Incoming<'_>) -> Option<&'a Receiver> {
    let stream = table.owner(incoming.socket)?;
    let safe = stream.safe?;
    let kind = classify(incoming.socket.component, stream.muxed(), incoming.packet.as_ref());
    if kind != Ok(Kind::Rtp) || stream.latch.is_foreign(incoming.source) {
        return None;
    }
    table.vault.keys(safe).receive.as_ref()
}

/// What is to be hashed, and for which packets.
#[derive(Default)]
struct Tags<'a> {
    signings: [Option<(usize, Signing<'a>)>; BATCH_MAX],
    count: usize,
}

impl<'a> Tags<'a> {
    #[inline]
    fn add(&mut self, at: usize, signing: Signing<'a>) {
        if let Some(place) = self.signings.get_mut(self.count) {
            *place = Some((at, signing));
            self.count += 1;
        }
    }

    #[inline]
    fn compute(&self, kernels: Kernels, mut take: impl FnMut(usize, &Signing<'a>, [u8; hmac::TAG_BYTES])) {
        let Some((_, first)) = &self.signings[0] else { return };
        let mut jobs = [first.job(); BATCH_MAX];
        let signings = self.signings[..self.count].iter().flatten();
        for (job, (_, signing)) in jobs.iter_mut().zip(signings.clone()) {
            *job = signing.job();
        }
        let mut tags = [[0; hmac::TAG_BYTES]; BATCH_MAX];
        hmac::tag_many(kernels, &jobs[..self.count], &mut tags[..self.count]);
        for ((at, signing), tag) in signings.zip(tags) {
            take(*at, signing, tag);
        }
    }
}
