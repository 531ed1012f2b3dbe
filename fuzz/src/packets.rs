//! RTP, RTCP, and what stands in the rings and the stream table.

use nebula_core::wire::rtcp::{Compound, Packet as Rtcp};
use nebula_core::wire::rtp::Packet as Rtp;
use nebula_ring::slot::{decode_command, decode_event, encode_command, encode_event};
use nebula_ring::table::{ENTRY_WORDS, StreamRecord};

/// Reads a packet and rewrites it; nothing but the rewritten fields changes.
pub fn rtp(bytes: &[u8]) {
    let Ok(packet) = Rtp::new_checked(bytes) else { return };
    assert_eq!(packet.len_bytes(), bytes.len());
    assert_eq!(packet.payload().len(), packet.payload_bytes());
    let csrcs: Vec<u32> = packet.csrcs().collect();
    let extension = packet.extension().map(|(profile, bytes)| (profile, bytes.to_vec()));
    let payload = packet.payload().to_vec();
    let mut copy = bytes.to_vec();
    let mut rewritten = Rtp::new_checked(copy.as_mut_slice()).expect("it was one");
    rewritten.set_payload_type(packet.payload_type() ^ 1);
    rewritten.set_marker(!packet.marker());
    rewritten.set_sequence(packet.sequence().wrapping_add(1));
    rewritten.set_timestamp(packet.timestamp().wrapping_add(1));
    rewritten.set_ssrc(packet.ssrc().wrapping_add(1));
    let again = Rtp::new_checked(copy.as_slice()).expect("it still is one");
    assert_eq!(again.payload_type(), packet.payload_type() ^ 1);
    assert_eq!(again.sequence(), packet.sequence().wrapping_add(1));
    assert_eq!((again.timestamp(), again.ssrc()), (packet.timestamp().wrapping_add(1), packet.ssrc().wrapping_add(1)));
    assert_eq!((again.csrcs().collect::<Vec<_>>(), again.payload()), (csrcs, payload.as_slice()));
    assert_eq!(again.extension().map(|(profile, bytes)| (profile, bytes.to_vec())), extension);
}

/// Reads a compound; every packet in it can be asked for everything.
pub fn rtcp(bytes: &[u8]) {
    let Ok(compound) = Compound::new_checked(bytes) else { return };
    let mut packets = 0;
    for packet in compound.packets() {
        packets += 1;
        match packet {
            Rtcp::SenderReport(report) => {
                let _ =
                    (report.ssrc(), report.ntp(), report.rtp_timestamp(), report.packet_count(), report.octet_count());
                assert!(report.blocks().count() <= 31);
            }
            Rtcp::ReceiverReport(report) => {
                let bytes: usize = report.blocks().map(|block| block.to_bytes().len()).sum();
                assert!(bytes <= 31 * 24);
            }
            Rtcp::SourceDescription(description) => assert!(description.items().count() <= bytes.len()),
            Rtcp::Bye(bye) => {
                assert!(bye.ssrcs().count() <= 31);
                let _ = bye.reason();
            }
            Rtcp::App { .. } | Rtcp::Other { .. } => {}
        }
    }
    assert!(packets > 0 && packets <= bytes.len() / 4, "{packets} packets in {} bytes", bytes.len());
}

/// Reads a command, an event and a stream record from garbage; what can be read is written and read the same.
pub fn ring(bytes: &[u8]) {
    if let (correlation, Ok(command)) = decode_command(bytes) {
        let written = encode_command(correlation.expect("a command that was read has one"), &command);
        let (again, read) = decode_command(written.as_bytes());
        assert_eq!((again, read), (correlation, Ok(command)));
    }
    if let Ok(event) = decode_event(bytes) {
        assert_eq!(decode_event(encode_event(&event).as_bytes()), Ok(event));
    }
    let mut words = [0; ENTRY_WORDS - 1];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    let record = StreamRecord::from_words(words);
    let _ = (record.stream(), record.local_rtp(), record.remote_rtp(), record.remote_rtcp(), record.drops());
    assert_eq!(record.words(), words);
}

/// Reads it as SRTP and as SRTCP of every suite: nothing that was not protected with the key is let through, and what is
/// refused stays as it was. Then protects it, and reads that.
pub fn srtp(bytes: &[u8]) {
    use nebula_core::driver::Datagram;
    use nebula_core::srtp::{Kernels, Receiver, Sender};
    use nebula_ring::srtp::{MasterKey, Mki, Suite};

    let bytes = &bytes[..bytes.len().min(1400)];
    let choice = bytes.iter().fold(0, |sum, byte| sum + usize::from(*byte));
    let suite = Suite::ALL[choice % Suite::ALL.len()];
    let mki: &[u8] = if choice % 7 < 3 { &[1, 2, 3, 4] } else { &[] };
    let key: Vec<u8> = (0..suite.key_bytes() + suite.salt_bytes()).map(|n| n as u8).collect();
    let master = MasterKey::new(1, suite, &key, Mki::new(mki).expect("short")).expect("as long as it says");
    let kernels = Kernels::detect();
    let (mut receiver, mut sender) = (Receiver::new(kernels, &master), Sender::new(kernels, &master));
    let mut buffer = bytes.to_vec();
    buffer.resize(bytes.len() + 48, 0);
    let read = |receiver: &mut Receiver, packet: &mut Datagram<'_>, rtcp| match rtcp {
        true => receiver.read_rtcp(packet),
        false => receiver.read_rtp(packet),
    };
    for rtcp in [false, true] {
        let mut packet = Datagram::new(&mut buffer, bytes.len());
        // A tag of 32 bits is guessed once in 2^32.
        assert!(read(&mut receiver, &mut packet, rtcp).is_err(), "{suite:?}");
        assert_eq!(packet.as_ref(), bytes);
    }
    for rtcp in [false, true] {
        buffer[..bytes.len()].copy_from_slice(bytes);
        let mut packet = Datagram::new(&mut buffer, bytes.len());
        let sent = if rtcp { sender.protect_rtcp(&mut packet) } else { sender.protect_rtp(&mut packet) };
        if sent.is_err() {
            continue;
        }
        assert!(packet.len() > bytes.len());
        assert_eq!((read(&mut receiver, &mut packet, rtcp), packet.len()), (Ok(()), bytes.len()), "{suite:?}");
        let clear = if rtcp { 8 } else { 12 };
        assert_eq!(packet.as_ref()[clear..], bytes[clear..]);
    }
}
