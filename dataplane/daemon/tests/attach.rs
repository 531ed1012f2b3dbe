//! Attaching to the real process: takeover, refusal, death, and what may stand in the socket's place.

mod common;

use common::{Process, config, done, free_port, peer, wait_readable};
use nebula_ring::attach::{Dataplane, Error, Lost};
use nebula_ring::{ABI_VERSION, Command, SendError, StreamId};
use rustix::process::Signal;

fn destroy(id: u64) -> Command {
    Command::DestroyStream { id: StreamId(id) }
}

#[test]
fn the_newest_attach_takes_over_and_sees_the_streams() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--streams-max", "8"]);
    let mut first = process.attach();
    let create = Command::CreateStream { id: StreamId(1), config: config(free_port(), peer().local_addr().unwrap()) };
    done(&mut first.workers()[0], &create);
    assert_eq!((first.epoch(), first.connection.lost()), (1, None));

    let mut second = process.attach();
    wait_readable(&first.connection);
    assert_eq!((second.epoch(), first.connection.lost()), (2, Some(Lost::Superseded)));
    assert_eq!(first.workers()[0].send(1, &destroy(1)), Err(SendError::Superseded));
    let worker = &mut second.workers()[0];
    assert_eq!(worker.table().iter().map(|record| record.id).collect::<Vec<_>>(), [1]);
    done(worker, &destroy(1));
    assert_eq!(second.connection.lost(), None);
}

#[test]
fn another_abi_version_is_refused_by_name_and_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &[]);
    let current = process.attach();
    let error = Dataplane::attach_as(&process.socket, 99).unwrap_err();
    assert!(matches!(error, Error::Version { ours: 99, theirs: ABI_VERSION }), "{error}");
    let line = process.wait_for_line("refused");
    assert!(line.contains("abi_version=99"), "{line}");
    assert_eq!(current.connection.lost(), None);
}

#[test]
fn control_notices_the_death_of_the_dataplane_and_attaches_to_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &[]);
    let control = process.attach();
    process.signal(Signal::KILL);
    wait_readable(&control.connection);
    assert_eq!(control.connection.lost(), Some(Lost::Died));
    process.wait();
    assert!(matches!(Dataplane::attach(&process.socket), Err(Error::Unreachable { .. })));
    // The dead one's socket file is in the way, and is removed.
    let successor = Process::start(folder.path(), &[]);
    let started = |control: &nebula_ring::Attached| control.segment().started_at_unix_ms();
    let attached = successor.attach();
    assert_eq!(attached.epoch(), 1);
    assert!(started(&attached) > started(&control), "the old segment is still readable");
}

#[test]
fn a_second_dataplane_on_the_same_socket_says_so_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let first = Process::start(folder.path(), &[]);
    let control = first.attach();
    let mut second = Process::spawn(folder.path(), &[]);
    let line = second.wait_for_line("failed");
    assert!(line.contains("a dataplane is already running at"), "{line}");
    assert_eq!(second.wait().code(), Some(1));
    assert_eq!(control.connection.lost(), None);
    first.attach();
}

#[test]
fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dataplane.sock");
    std::fs::write(&path, "precious").unwrap();
    let mut process = Process::spawn(folder.path(), &[]);
    let line = process.wait_for_line("failed");
    assert!(line.contains("is no socket"), "{line}");
    assert_eq!(process.wait().code(), Some(1));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn sigterm_ends_it_cleanly_and_removes_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &[]);
    let control = process.attach();
    process.signal(Signal::TERM);
    process.wait_for_line("stopped");
    assert_eq!(process.wait().code(), Some(0));
    assert!(!process.socket.exists());
    assert_eq!(control.connection.lost(), Some(Lost::Died));
}

#[test]
fn two_pinned_workers_are_apart_and_a_missing_core_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--cores", "0,0"]);
    let mut control = process.attach();
    for (index, worker) in control.workers().iter_mut().enumerate() {
        let id = StreamId(index as u64 + 1);
        done(worker, &Command::CreateStream { id, config: config(free_port(), peer().local_addr().unwrap()) });
        assert_eq!(worker.table().iter().map(|record| record.id).collect::<Vec<_>>(), [id.0]);
    }
    drop(process);
    let mut process = Process::spawn(folder.path(), &["--cores", "1023"]);
    let line = process.wait_for_line("failed");
    assert!(line.contains("cannot pin to core 1023"), "{line}");
}

#[test]
fn clients_that_say_nothing_or_nonsense_do_not_keep_others_out() {
    use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType, connect, send, socket};
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    let address = SocketAddrUnix::new(&process.socket).unwrap();
    let client = || {
        let client = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        connect(&client, &address).unwrap();
        client
    };
    let _silent = client();
    send(client(), b"GET / HTTP/1.1\r\n\r\n", SendFlags::NOSIGNAL).unwrap();
    drop(client());
    assert_eq!(process.attach().epoch(), 1);
}

#[test]
fn too_few_files_for_the_streams_are_named_with_what_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let start =
        format!("ulimit -n 1000; exec {} --streams-max 501 --socket \"$0\"", env!("CARGO_BIN_EXE_nebula-dataplane"));
    let output =
        std::process::Command::new("sh").arg("-c").arg(start).arg(folder.path().join("socket")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.lines().count() == 1, "{said}");
    assert!(said.contains("needs 1002 open files") && said.contains("at most 500"), "{said}");
}
