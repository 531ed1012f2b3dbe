//! Hostile input against the live system while calls are up. Whatever comes, nobody else's call suffers: every packet of
//! it arrives with its content, the edge answers OPTIONS quickly, memory stays bounded, nothing dies.

use nebula_tests::load::Load;
use nebula_tests::system::System;
use nebula_tests::{testdata, wait_for};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// What an edge under attack may take to answer OPTIONS.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// What any of these attacks may cost in memory for good.
const GROWTH_KIB_MAX: u64 = 96 * 1024;

/// Seeded: a failing run is repeated exactly.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// A socket of an attacker: an address of loopback that no phone uses.
fn attacker() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 66, 6, 6), 0)).expect("an address of loopback");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    socket
}

fn request(method: &str, user: &str, local: SocketAddr, n: u64, more: &str) -> String {
    format!(
        "{method} sip:{user}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{n:x};rport\r\n\
         From: <sip:1000@127.0.0.1>;tag=t{n:x}\r\nTo: <sip:{user}@127.0.0.1>\r\nCall-ID: {n:x}@attack\r\n\
         CSeq: 1 {method}\r\nMax-Forwards: 70\r\nContact: <sip:x@{local}>\r\n{more}Content-Length: 0\r\n\r\n"
    )
}

/// How long the edge takes to answer an OPTIONS, repeated as a phone would.
fn options_answered(system: &System) -> Duration {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let local = socket.local_addr().expect("bound");
    let (begin, mut buffer) = (Instant::now(), [0; 2048]);
    let text = request("OPTIONS", "nebula", local, u64::from(local.port()), "");
    wait_for("an answer to OPTIONS", Duration::from_secs(10), || {
        socket.send_to(text.as_bytes(), system.sip()).expect("sent");
        let (length, _) = socket.recv_from(&mut buffer).ok()?;
        buffer[..length].starts_with(b"SIP/2.0 200").then_some(())
    });
    begin.elapsed()
}

/// Runs an attack while two calls with checked audio are up. It may take as long as they last.
fn under(attack: impl FnOnce(&System)) {
    let system = System::start();
    let load = Load::start(&system, "--calls 2 --rate 10 --duration-s 6");
    system.wait_for_talking(2);
    let before = [resident_kib(system.pid()), resident_kib(system.dataplane_pid())];
    attack(&system);
    let answered = options_answered(&system);
    assert!(answered < ANSWER_DEADLINE, "OPTIONS took {answered:?}");
    let after = [resident_kib(system.pid()), resident_kib(system.dataplane_pid())];
    for (before, after) in before.iter().zip(after) {
        assert!(after < before + GROWTH_KIB_MAX, "grew from {before} to {after} KiB");
    }
    let report = load.report();
    // All that was said was heard, and nothing else.
    assert_eq!(report["established"], 2, "{report:#}");
    for nothing in ["packets_lost", "packets_wrong", "packets_duplicated", "crossed"] {
        assert_eq!(report[nothing], 0, "{nothing}: {report:#}");
    }
    let cdrs = system.wait_for_cdrs(2, Duration::from_secs(10));
    for cdr in cdrs.iter().filter(|cdr| !cdr["answered_unix_ms"].is_null()) {
        assert_eq!((cdr["cause"].as_str(), cdr["ended_by"].as_str()), (Some("normal"), Some("caller")), "{cdr:#}");
    }
}

#[test]
fn mutated_messages_over_udp() {
    let Some(folder) = testdata::find("rfc4475") else { return };
    let corpus = corpus(&folder);
    under(|system| {
        let (socket, mut random) = (attacker(), Random(4475));
        for n in 0..8000 {
            let message = mutated(&corpus[n % corpus.len()], &mut random);
            // Some are larger than a datagram can be.
            let _ = socket.send_to(&message[..message.len().min(60_000)], system.sip());
            paced(n);
        }
    });
}

#[test]
fn mutated_messages_and_bad_manners_over_tcp() {
    let Some(folder) = testdata::find("rfc4475") else { return };
    let corpus = corpus(&folder);
    under(|system| {
        let mut random = Random(5118);
        // Half-open, slow to write and slow to read: they stay all the while.
        let idle: Vec<TcpStream> = (0..200).filter_map(|_| TcpStream::connect(system.sip()).ok()).collect();
        let mut slow = TcpStream::connect(system.sip()).expect("connected");
        let deaf = TcpStream::connect(system.sip()).expect("connected");
        deaf.set_nonblocking(true).expect("non-blocking");
        let local = deaf.local_addr().expect("bound");
        for n in 0..400 {
            slow.write_all(&b"OPTIONS sip:a@b SIP/2.0\r\nSubject: "[n % 34..=n % 34]).ok();
            (&deaf).write_all(request("OPTIONS", "x", local, n as u64, "").replace("/UDP", "/TCP").as_bytes()).ok();
            let Ok(mut stream) = TcpStream::connect(system.sip()) else { continue };
            stream.set_nonblocking(true).expect("non-blocking");
            for _ in 0..5 {
                stream.write_all(&mutated(&corpus[random.below(corpus.len())], &mut random)).ok();
            }
        }
        drop(idle);
    });
}

#[test]
fn bombs() {
    under(|system| {
        let socket = attacker();
        let local = socket.local_addr().expect("bound");
        let bombs = [
            "X-Header: x\r\n".repeat(4000),
            format!("Contact: {}\r\n", ["<sip:a@b>"; 5000].join(",")),
            format!("Route: {}\r\n", ["<sip:a@b;lr>"; 4000].join(",")),
            format!("Subject: {}\r\n", "\"\\\"".repeat(15_000)),
            format!("Via: {}\r\n", ["SIP/2.0/UDP a;branch=z9hG4bKx"; 1500].join(",")),
            format!("Warning: {}\r\n", "(".repeat(50_000)),
            format!("Authorization: Digest {}\r\n", ["a=\"b\""; 8000].join(",")),
            format!("Require: {}\r\n", ["x"; 20_000].join(",")),
            format!("Subject: x{}\r\n", "\r\n ".repeat(15_000)),
            format!("Max-Forwards: {}\r\n", "9".repeat(50_000)),
        ];
        for n in 0..400u64 {
            let bomb = &bombs[n as usize % bombs.len()];
            let method = ["OPTIONS", "INVITE", "REGISTER"][n as usize % 3];
            let _ = socket.send_to(request(method, "1001", local, n, bomb).as_bytes(), system.sip());
            paced(n as usize * 16);
        }
        // A body that never ends, over TCP, and one that says it is longer than anything.
        for length in ["99999999", "4294967297", "-1"] {
            let mut stream = TcpStream::connect(system.sip()).expect("connected");
            stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a timeout");
            let text = request("INVITE", "1001", local, 7, "").replace("/UDP", "/TCP");
            stream.write_all(text.replace("Length: 0", &format!("Length: {length}")).as_bytes()).ok();
            for _ in 0..64 {
                if stream.write_all(&[b'x'; 65_536]).is_err() {
                    break;
                }
            }
        }
    });
}

#[test]
fn floods_of_requests_and_of_responses() {
    under(|system| {
        let (socket, mut random) = (attacker(), Random(401));
        let local = socket.local_addr().expect("bound");
        let forged = "Authorization: Digest username=\"1000\", realm=\"nebula\", nonce=\"00000000ffffffff\", \
                      uri=\"sip:127.0.0.1\", response=\"00000000000000000000000000000000\", qop=auth, nc=00000001, \
                      cnonce=\"x\", algorithm=MD5\r\n";
        let mut challenges = 0;
        let mut buffer = [0; 4096];
        socket.set_nonblocking(true).expect("non-blocking");
        for n in 0..9000u64 {
            let text = match n % 3 {
                0 => request("INVITE", "1001", local, n + 1, forged),
                1 => request("REGISTER", "1000", local, n + 1, forged),
                _ => {
                    let branch = random.next();
                    let head = format!("SIP/2.0 {} Guessed\r\n", [200, 180, 486, 401][random.below(4)]);
                    let rest = request("INVITE", "1001", system.sip(), branch, "");
                    head + rest.split_once("\r\n").expect("two lines").1
                }
            };
            let _ = socket.send_to(text.as_bytes(), system.sip());
            while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                assert!(!text.starts_with("SIP/2.0 2"), "let in: {text}");
                challenges += u32::from(text.starts_with("SIP/2.0 401"));
            }
            paced(n as usize);
        }
        assert!(challenges > 0, "forged credentials are challenged");
    });
}

#[test]
fn requests_forged_into_live_calls() {
    under(|system| {
        let (socket, mut random) = (attacker(), Random(481));
        let local = socket.local_addr().expect("bound");
        let mut buffer = [0; 4096];
        for n in 0..400u64 {
            let method = ["BYE", "CANCEL", "INVITE", "UPDATE", "INFO"][n as usize % 5];
            let tag = format!("nebula@127.0.0.1>;tag={:x}", random.next());
            // What an attacker cannot overhear it guesses: the tags of the dialogs, the branches of the transactions.
            let text = request(method, "nebula", local, n, "");
            let text = if method == "CANCEL" { text } else { text.replace("nebula@127.0.0.1>", &tag) };
            socket.send_to(text.as_bytes(), system.sip()).expect("sent");
            loop {
                let (length, _) = socket.recv_from(&mut buffer).expect("an answer");
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if text.contains(&format!("z9hG4bK{n:x};")) && !text.starts_with("SIP/2.0 100") {
                    assert!(text.starts_with("SIP/2.0 481"), "{method}: {text}");
                    break;
                }
            }
        }
    });
}

#[test]
fn foreign_rtp_on_every_media_port() {
    under(|system| {
        let socket = attacker();
        let ports: Vec<u16> = (10_000..20_000).collect();
        let mut packet = [0x80, 0, 0, 1, 0, 0, 0, 160, 0xde, 0xad, 0xbe, 0xef].to_vec();
        packet.resize(172, 0x55);
        for round in 0..3u8 {
            for (n, port) in ports.iter().enumerate() {
                packet[3] = round;
                // Where nobody listens, ICMP says so to the next call.
                let _ = socket.send_to(&packet, SocketAddr::new(system.sip().ip(), *port));
                paced(n);
            }
        }
        assert!(socket.recv_from(&mut [0; 2048]).is_err(), "an attacker is sent nothing");
    });
}

fn corpus(folder: &std::path::Path) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().filter(|file| file.is_file()).map(|file| std::fs::read(file).expect("readable")).collect()
}

/// A few bytes flipped, cut out, doubled or repeated many times.
fn mutated(message: &[u8], random: &mut Random) -> Vec<u8> {
    let mut message = message.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(message.len());
        let until = (at + random.below(40)).min(message.len());
        match random.below(6) {
            0 if at < message.len() => message[at] = random.next() as u8,
            1 => drop(message.drain(at..until)),
            2 => {
                let part = message[at..until].to_vec();
                message.splice(at..at, part.repeat(1 + random.below(50)));
            }
            3 => message.truncate(at),
            4 => drop(message.splice(at..at, b"\r\n".iter().copied())),
            _ => {
                drop(message.splice(at..until, (0..random.below(30)).map(|_| random.next() as u8).collect::<Vec<_>>()))
            }
        }
    }
    message
}

/// Keeps the attack from losing to its own socket's buffer: a breath every so often.
fn paced(n: usize) {
    if n.is_multiple_of(64) {
        std::thread::sleep(Duration::from_millis(2));
    }
}
