//! Commands and events as bytes on the ring: little-endian fields in the order written here, behind a kind byte.
//!
//! Every decode checks everything, to the last byte: the other side may be of another mind, or have crashed mid-write.

use crate::command::{Command, Mode, PayloadType, PayloadTypes, StreamConfig, StreamId};
use crate::event::{Event, Reason};
use crate::srtp::{MASTER_KEY_BYTES_MAX, MASTER_SALT_BYTES_MAX, MKI_BYTES_MAX, MasterKey, Mki, SrtpConfig, Suite};
use crate::table::StreamRecord;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use zerocopy::IntoBytes;

/// The longest encoding of a command or event: `ResumeStream`, five slots. `CreateStream` and `UpdateStream` with keys take
/// two, every other one.
pub const ENCODED_BYTES_MAX: usize = 1120;
const _: () = assert!(ENCODED_BYTES_MAX <= crate::spsc::MESSAGE_BYTES_MAX);
const _: () = assert!(8 + 1 + 8 + CONFIG_BYTES_MAX + RECORD_BYTES <= ENCODED_BYTES_MAX);
const _: () = assert!(8 + 8 + 1 + 8 + CONFIG_BYTES_MAX - 2 * MASTER_BYTES_MAX <= crate::spsc::SLOT_WORDS * 8);
const _: () = assert!(8 + 8 + 1 + 8 + CONFIG_BYTES_MAX <= 2 * crate::spsc::SLOT_WORDS * 8);
/// The longest event: `StreamUp`.
pub const EVENT_BYTES_MAX: usize = 1 + 8 + 19;
const RECORD_BYTES: usize = size_of::<StreamRecord>();
/// Serial, suite, key, salt and identifier at their longest.
const MASTER_BYTES_MAX: usize = 4 + 1 + MASTER_KEY_BYTES_MAX + MASTER_SALT_BYTES_MAX + 1 + MKI_BYTES_MAX;
/// Addresses, timers, flags, keys and payload types at their longest.
const CONFIG_BYTES_MAX: usize = (17 + 4)
    + 2 * 19
    + (1 + 4 + 17 + 4 + 1 + 1 + 1 + 4 + 4)
    + 1
    + 2 * (1 + MASTER_BYTES_MAX)
    + 1
    + crate::command::PAYLOAD_TYPES_MAX * 6;

/// What did not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message on the ring does not parse")]
pub struct Malformed;

/// An encoded message.
#[derive(Debug, Clone, Copy)]
pub struct Encoded {
    bytes: [u8; ENCODED_BYTES_MAX],
    len: usize,
}

impl Encoded {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Writes a command with its correlation id.
pub fn encode_command(correlation: u64, command: &Command) -> Encoded {
    let mut out = Writer::new();
    out.u64(correlation);
    match command {
        Command::CreateStream { id, config } => out.u8(1).u64(id.0).config(config),
        Command::UpdateStream { id, config } => out.u8(2).u64(id.0).config(config),
        Command::DestroyStream { id } => out.u8(3).u64(id.0),
        Command::CreateBridge { a, b } => out.u8(4).u64(a.0).u64(b.0),
        Command::DestroyBridge { a, b } => out.u8(5).u64(a.0).u64(b.0),
        Command::MigrateStream { id, worker } => out.u8(7).u64(id.0).u32(*worker),
        Command::ResumeStream { id, config, record } => out.u8(6).u64(id.0).config(config).bytes(record.as_bytes()),
    };
    out.done()
}

/// Reads a command. The correlation id is returned even if the rest is malformed, so that it can be answered.
pub fn decode_command(bytes: &[u8]) -> (Option<u64>, Result<Command, Malformed>) {
    let mut input = Reader(bytes);
    let correlation = input.u64();
    let command = (|| {
        let kind = input.u8()?;
        let id = input.stream_id()?;
        let command = match kind {
            1 => Command::CreateStream { id, config: input.config()? },
            2 => Command::UpdateStream { id, config: input.config()? },
            3 => Command::DestroyStream { id },
            4 => Command::CreateBridge { a: id, b: input.stream_id()? },
            5 => Command::DestroyBridge { a: id, b: input.stream_id()? },
            7 => Command::MigrateStream { id, worker: input.u32()? },
            6 => Command::ResumeStream { id, config: input.config()?, record: input.record()? },
            _ => return Err(Malformed),
        };
        input.end().map(|()| command)
    })();
    (correlation.ok(), command)
}

/// Writes an event.
pub fn encode_event(event: &Event) -> Encoded {
    let mut out = Writer::new();
    match event {
        Event::Done { correlation } => out.u8(1).u64(*correlation),
        Event::Failed { correlation, reason } => out.u8(2).u64(*correlation).reason(*reason),
        Event::StreamUp { id, remote } => out.u8(3).u64(id.0).address(Some(*remote)),
        Event::RtpTimeout { id } => out.u8(4).u64(id.0),
        Event::Overload { on } => out.u8(5).u8((*on).into()),
    };
    out.done()
}

/// Reads an event.
pub fn decode_event(bytes: &[u8]) -> Result<Event, Malformed> {
    let mut input = Reader(bytes);
    let event = match input.u8()? {
        1 => Event::Done { correlation: input.u64()? },
        2 => Event::Failed { correlation: input.u64()?, reason: input.reason()? },
        3 => Event::StreamUp { id: input.stream_id()?, remote: input.address()?.ok_or(Malformed)? },
        4 => Event::RtpTimeout { id: input.stream_id()? },
        5 => Event::Overload { on: input.bool()? },
        _ => return Err(Malformed),
    };
    input.end().map(|()| event)
}

/// Appends fields. `ENCODED_BYTES_MAX` is asserted above to hold the longest message.
struct Writer(Encoded);

impl Writer {
    fn new() -> Self {
        Self(Encoded { bytes: [0; ENCODED_BYTES_MAX], len: 0 })
    }

    fn done(self) -> Encoded {
        self.0
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.0.len + bytes.len();
        self.0.bytes[self.0.len..end].copy_from_slice(bytes);
        self.0.len = end;
        self
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn ip(&mut self, ip: IpAddr) -> &mut Self {
        match ip {
            IpAddr::V4(ip) => self.u8(4).bytes(&ip.octets()),
            IpAddr::V6(ip) => self.u8(6).bytes(&ip.octets()),
        }
    }

    /// Flow labels and scopes are not carried: they are nothing that SDP can say.
    fn address(&mut self, address: Option<SocketAddr>) -> &mut Self {
        match address {
            None => self.u8(0),
            Some(address) => self.ip(address.ip()).u16(address.port()),
        }
    }

    fn config(&mut self, config: &StreamConfig) -> &mut Self {
        self.ip(config.local_ip).u16(config.rtp_port).u16(config.rtcp_port);
        self.address(config.remote_rtp).address(config.remote_rtcp);
        self.u8(config.nat_expected.into()).u32(config.learning_window_ms);
        match config.learn_from {
            None => self.u8(0),
            Some(ip) => self.ip(ip),
        };
        self.u32(config.relatch_interval_ms);
        self.u8(config.receive.into()).u8(config.send.into());
        self.u8(match config.mode {
            Mode::Bridge => 0,
            Mode::Echo => 1,
        });
        self.u32(config.rtp_timeout_ms).u32(config.ssrc);
        match &config.srtp {
            None => self.u8(0),
            Some(srtp) => self.u8(1).master(srtp.receive.as_ref()).master(srtp.send.as_ref()),
        };
        let payload_types = config.payload_types.as_slice();
        self.u8(payload_types.len() as u8);
        for it in payload_types {
            self.u8(it.number).u8(it.forward_as).u32(it.clock_rate_hz);
        }
        self
    }

    fn master(&mut self, master: Option<&MasterKey>) -> &mut Self {
        let Some(master) = master else { return self.u8(0) };
        let place = Suite::ALL.iter().position(|suite| *suite == master.suite).map_or(0, |place| place as u8 + 1);
        let mki = master.mki.as_bytes();
        self.u8(place).u32(master.serial).bytes(master.key()).bytes(master.salt()).u8(mki.len() as u8).bytes(mki)
    }

    fn reason(&mut self, reason: Reason) -> &mut Self {
        match reason {
            Reason::UnknownStream => self.u8(1),
            Reason::StreamExists => self.u8(2),
            Reason::TableFull => self.u8(3),
            Reason::PortInUse => self.u8(4),
            Reason::AddressNotAvailable => self.u8(5),
            Reason::NoFileDescriptor => self.u8(6),
            Reason::System { errno } => self.u8(7).u32(errno as u32),
            Reason::Invalid => self.u8(8),
        }
    }
}

/// Takes fields off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn slice(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (first, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(first)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn stream_id(&mut self) -> Result<StreamId, Malformed> {
        match self.u64()? {
            0 => Err(Malformed),
            id => Ok(StreamId(id)),
        }
    }

    fn ip_of(&mut self, family: u8) -> Result<IpAddr, Malformed> {
        match family {
            4 => self.array::<4>().map(|octets| Ipv4Addr::from(octets).into()),
            6 => self.array::<16>().map(|octets| Ipv6Addr::from(octets).into()),
            _ => Err(Malformed),
        }
    }

    fn optional_ip(&mut self) -> Result<Option<IpAddr>, Malformed> {
        match self.u8()? {
            0 => Ok(None),
            family => self.ip_of(family).map(Some),
        }
    }

    fn address(&mut self) -> Result<Option<SocketAddr>, Malformed> {
        match self.u8()? {
            0 => Ok(None),
            family => Ok(Some(SocketAddr::new(self.ip_of(family)?, self.u16()?))),
        }
    }

    fn config(&mut self) -> Result<StreamConfig, Malformed> {
        let family = self.u8()?;
        Ok(StreamConfig {
            local_ip: self.ip_of(family)?,
            rtp_port: self.u16()?,
            rtcp_port: self.u16()?,
            remote_rtp: self.address()?,
            remote_rtcp: self.address()?,
            nat_expected: self.bool()?,
            learning_window_ms: self.u32()?,
            learn_from: self.optional_ip()?,
            relatch_interval_ms: self.u32()?,
            receive: self.bool()?,
            send: self.bool()?,
            mode: match self.u8()? {
                0 => Mode::Bridge,
                1 => Mode::Echo,
                _ => return Err(Malformed),
            },
            rtp_timeout_ms: self.u32()?,
            ssrc: self.u32()?,
            srtp: match self.bool()? {
                false => None,
                true => Some(SrtpConfig { receive: self.master()?, send: self.master()? }),
            },
            payload_types: self.payload_types()?,
        })
    }

    fn payload_types(&mut self) -> Result<PayloadTypes, Malformed> {
        let mut all = PayloadTypes::default();
        for _ in 0..self.u8()? {
            let it = PayloadType { number: self.u8()?, forward_as: self.u8()?, clock_rate_hz: self.u32()? };
            if it.number > 127 || it.forward_as > 127 || it.clock_rate_hz == 0 || !all.push(it) {
                return Err(Malformed);
            }
        }
        Ok(all)
    }

    fn master(&mut self) -> Result<Option<MasterKey>, Malformed> {
        let Some(place) = usize::from(self.u8()?).checked_sub(1) else { return Ok(None) };
        let suite = *Suite::ALL.get(place).ok_or(Malformed)?;
        let serial = self.u32()?;
        let key_and_salt = self.slice(suite.key_bytes() + suite.salt_bytes())?;
        let mki_bytes = self.u8()?;
        let mki = Mki::new(self.slice(mki_bytes.into())?).ok_or(Malformed)?;
        MasterKey::new(serial, suite, key_and_salt, mki).map(Some).ok_or(Malformed)
    }

    /// Any bits are a record; what they say is checked where they are used.
    fn record(&mut self) -> Result<StreamRecord, Malformed> {
        self.array::<RECORD_BYTES>().map(|bytes| zerocopy::transmute!(bytes))
    }

    fn reason(&mut self) -> Result<Reason, Malformed> {
        Ok(match self.u8()? {
            1 => Reason::UnknownStream,
            2 => Reason::StreamExists,
            3 => Reason::TableFull,
            4 => Reason::PortInUse,
            5 => Reason::AddressNotAvailable,
            6 => Reason::NoFileDescriptor,
            7 => Reason::System { errno: self.u32()? as i32 },
            8 => Reason::Invalid,
            _ => return Err(Malformed),
        })
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        (ip(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    fn id() -> impl Strategy<Value = StreamId> {
        (1..=u64::MAX).prop_map(StreamId)
    }

    prop_compose! {
        fn payload_type()(number in 0u8..128, forward_as in 0u8..128, clock_rate_hz in 1u32..) -> PayloadType {
            PayloadType { number, forward_as, clock_rate_hz }
        }
    }

    fn master() -> impl Strategy<Value = MasterKey> {
        (
            1u32..,
            prop::sample::select(&Suite::ALL[..]),
            any::<[u8; 46]>(),
            any::<[u8; MKI_BYTES_MAX]>(),
            0..=MKI_BYTES_MAX,
        )
            .prop_map(|(serial, suite, bytes, mki, mki_len)| {
                let bytes = &bytes[..suite.key_bytes() + suite.salt_bytes()];
                MasterKey::new(serial, suite, bytes, Mki::new(&mki[..mki_len]).unwrap()).unwrap()
            })
    }

    fn srtp() -> impl Strategy<Value = SrtpConfig> {
        let either = || proptest::option::of(master());
        (either(), either()).prop_map(|(receive, send)| SrtpConfig { receive, send })
    }

    prop_compose! {
        fn config()(
            local_ip in ip(), rtp_port: u16, rtcp_port: u16,
            remote_rtp in proptest::option::of(address()), remote_rtcp in proptest::option::of(address()),
            (nat_expected, receive, send, echo) in any::<(bool, bool, bool, bool)>(),
            (learning_window_ms, relatch_interval_ms, rtp_timeout_ms, ssrc) in any::<(u32, u32, u32, u32)>(),
            learn_from in proptest::option::of(ip()),
            srtp in proptest::option::of(srtp()),
            payload_types in proptest::collection::vec(payload_type(), 0..=crate::command::PAYLOAD_TYPES_MAX),
        ) -> StreamConfig {
            StreamConfig {
                local_ip, rtp_port, rtcp_port, remote_rtp, remote_rtcp, nat_expected, learning_window_ms,
                learn_from, relatch_interval_ms, receive, send,
                mode: if echo { Mode::Echo } else { Mode::Bridge },
                rtp_timeout_ms, ssrc, srtp, payload_types: payload_types.into_iter().collect(),
            }
        }
    }

    fn command() -> impl Strategy<Value = Command> {
        prop_oneof![
            (id(), config()).prop_map(|(id, config)| Command::CreateStream { id, config }),
            (id(), config()).prop_map(|(id, config)| Command::UpdateStream { id, config }),
            id().prop_map(|id| Command::DestroyStream { id }),
            (id(), id()).prop_map(|(a, b)| Command::CreateBridge { a, b }),
            (id(), id()).prop_map(|(a, b)| Command::DestroyBridge { a, b }),
            (id(), any::<u32>()).prop_map(|(id, worker)| Command::MigrateStream { id, worker }),
            (id(), config(), any::<u32>(), any::<u64>()).prop_map(|(id, config, flags, packets_in)| {
                let record = StreamRecord { id: id.0, flags, packets_in, ..StreamRecord::default() };
                Command::ResumeStream { id, config, record }
            }),
        ]
    }

    fn event() -> impl Strategy<Value = Event> {
        let reason = prop_oneof![
            Just(Reason::UnknownStream),
            Just(Reason::StreamExists),
            Just(Reason::TableFull),
            Just(Reason::PortInUse),
            Just(Reason::AddressNotAvailable),
            Just(Reason::NoFileDescriptor),
            any::<i32>().prop_map(|errno| Reason::System { errno }),
            Just(Reason::Invalid),
        ];
        prop_oneof![
            any::<u64>().prop_map(|correlation| Event::Done { correlation }),
            (any::<u64>(), reason).prop_map(|(correlation, reason)| Event::Failed { correlation, reason }),
            (id(), address()).prop_map(|(id, remote)| Event::StreamUp { id, remote }),
            id().prop_map(|id| Event::RtpTimeout { id }),
            any::<bool>().prop_map(|on| Event::Overload { on }),
        ]
    }

    proptest! {
        #[test]
        fn commands_round_trip_and_no_prefix_of_one_decodes(correlation: u64, command in command(), cut: prop::sample::Index) {
            let encoded = encode_command(correlation, &command);
            prop_assert_eq!(decode_command(encoded.as_bytes()), (Some(correlation), Ok(command)));
            let cut = &encoded.as_bytes()[..cut.index(encoded.len)];
            prop_assert_eq!(decode_command(cut).1, Err(Malformed));
        }

        #[test]
        fn events_round_trip_and_no_prefix_of_one_decodes(event in event(), cut: prop::sample::Index) {
            let encoded = encode_event(&event);
            prop_assert_eq!(decode_event(encoded.as_bytes()), Ok(event));
            prop_assert_eq!(decode_event(&encoded.as_bytes()[..cut.index(encoded.len)]), Err(Malformed));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..1300), command_kind in 0u8..8, event_kind in 0u8..8
        ) {
            let _ = (decode_command(&bytes), decode_event(&bytes));
            bytes.iter_mut().skip(8).take(1).for_each(|kind| *kind = command_kind);
            let _ = decode_command(&bytes);
            bytes.iter_mut().take(1).for_each(|kind| *kind = event_kind);
            let _ = decode_event(&bytes);
        }
    }
}
