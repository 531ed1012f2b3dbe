//! Ethernet frames from the wire, as AF_XDP hands them over.

use nebula_io::xdp::checksum::{add, finish};
use nebula_io::xdp::frame::{ETHERNET_BYTES, HEADERS_BYTES_MAX, Headers, VLAN_BYTES, parse};
use nebula_io::xdp::header::Template;

/// Reads a frame, as it is and with its checksums made good; what can be read is answered, and the answer is read.
pub fn frame(bytes: &[u8]) {
    answered(bytes);
    // Hardly any mutation keeps the checksums, and behind them lies the rest.
    let mut mended = bytes.to_vec();
    for tags in 0..3 {
        let ip = ETHERNET_BYTES + tags * VLAN_BYTES;
        if let Some(header) = mended.get_mut(ip..ip + 20)
            && header[0] == 0x45
        {
            header[10..12].fill(0);
            let sum = finish(add(0, header));
            header[10..12].copy_from_slice(&sum);
            if let Some(sum) = mended.get_mut(ip + 26..ip + 28) {
                sum.fill(0);
            }
            return answered(&mended);
        }
    }
}

fn answered(bytes: &[u8]) {
    let Ok(headers) = parse(bytes) else { return };
    let Headers { link_bytes, source, destination, payload_start, payload_bytes } = headers;
    assert!(payload_start + payload_bytes <= bytes.len() && link_bytes < payload_start);
    assert_eq!(source.is_ipv4(), destination.is_ipv4());
    let Some(template) = Template::answering(bytes, &headers) else {
        assert_eq!(bytes[6] & 1, 1, "only a group's MAC cannot be answered");
        return;
    };
    assert!(template.answers(bytes, &headers) && template.peer() == source);
    assert_eq!(template.headers_bytes(), payload_start);

    // In place: headers of the same length, whatever the frame had in front and behind.
    let mut buffer = [&[0xee; HEADERS_BYTES_MAX][..], bytes].concat();
    let start = HEADERS_BYTES_MAX + payload_start;
    let begin = template.write(&mut buffer, start, payload_bytes).expect("there is room");
    assert_eq!(begin, HEADERS_BYTES_MAX);
    let end = start + payload_bytes;
    let answer = parse(&buffer[begin..end]).expect("what we write we can read");
    let payload = (payload_start, payload_bytes);
    assert_eq!((answer.source, answer.destination), (destination, source));
    assert_eq!((answer.link_bytes, (answer.payload_start, answer.payload_bytes)), (link_bytes, payload));
    assert_eq!(buffer[start..end], bytes[payload_start..payload_start + payload_bytes]);
    assert_eq!(buffer[end..], bytes[payload_start + payload_bytes..]);
    assert_eq!(template.write(&mut buffer, payload_start - 1, payload_bytes), None, "no room");
}
