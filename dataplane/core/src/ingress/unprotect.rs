//! SRTP becomes RTP, SRTCP becomes RTCP, in place, before anything is learned from a packet: not its source, not its
//! sequence number, not that somebody is there. Called for each packet of a stream that is protected, between `latch`'s
//! first look and the parsing.

use crate::driver::{Datagram, StreamIndex};
use crate::srtp::Foreseen;
use crate::table::Table;
use crate::time::Nanos;
use nebula_ring::drops::DropReason;

/// RTP; its tag may have been computed ahead. A stream without protection passes as it is.
#[inline]
pub(crate) fn rtp(
    table: &mut Table,
    now: Nanos,
    index: StreamIndex,
    packet: &mut Datagram<'_>,
    foreseen: Option<&Foreseen>,
) -> Result<(), DropReason> {
    let Some(safe) = table[index].safe else { return Ok(()) };
    Ok(table.vault.keys_mut(safe).read_rtp(now, packet, foreseen)?)
}

/// RTCP. A stream without protection passes as it is.
pub(crate) fn rtcp(
    table: &mut Table,
    now: Nanos,
    index: StreamIndex,
    packet: &mut Datagram<'_>,
) -> Result<(), DropReason> {
    let Some(safe) = table[index].safe else { return Ok(()) };
    Ok(table.vault.keys_mut(safe).read_rtcp(now, packet)?)
}
