//! The keys of streams, for `nebula capture --decrypt`: a Unix socket in the state folder of the process that has the media
//! agent. One small task a connection; nothing else waits for it.
//!
//! Who may is decided twice: by the socket's mode (its owner's alone, by the process's umask), and by what the kernel says of whoever
//! connects (SO_PEERCRED). Root may; so may the agent's own user, who can read the same keys in its snapshots. Each stream
//! whose keys are given out is a line in the log, with who asked.

use nebula_operate::capture::keys::{Answer, LINE_BYTES_MAX, SOCKET, WHO_MAY};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Captures at once that are decrypted; one more waits for one of them to end.
const CONNECTIONS_MAX: usize = 16;
/// Streams of one connection: a capture has two.
const STREAMS_MAX: usize = 64;
/// After a failed accept (no descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Root.
const ROOT: u32 = 0;
/// What `/proc/PID/loginuid` says of a process that nobody logged in for.
const NO_LOGIN: u32 = u32::MAX;

/// Serves until the process ends. A socket that cannot be made costs captures their keys and no call anything.
pub fn serve(folder: &Path, keys: nebula_media::Keys) {
    let path = folder.join(SOCKET);
    // The folder is ours alone: what is there was left by a process that is gone.
    let _ = std::fs::remove_file(&path);
    match UnixListener::bind(&path) {
        Ok(listener) => drop(tokio::spawn(accept(listener, keys))),
        Err(error) => tracing::warn!(%error, socket = %path.display(), "no capture can be decrypted"),
    }
}

async fn accept(listener: UnixListener, keys: nebula_media::Keys) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(seat) = seats.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let keys = keys.clone();
                tokio::spawn(async move {
                    // Who goes away in the middle is nobody's concern.
                    let _ = attend(stream, &keys).await;
                    drop(seat);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn attend(stream: UnixStream, keys: &nebula_media::Keys) -> std::io::Result<()> {
    let peer = stream.peer_cred()?;
    let mut stream = BufReader::new(stream);
    if !may(peer.uid(), rustix::process::geteuid().as_raw()) {
        tracing::warn!(uid = peer.uid(), pid = peer.pid(), "somebody who may not asked for SRTP keys");
        return say(&mut stream, &Answer::Refused(format!("user {} may not: {WHO_MAY}", peer.uid()))).await;
    }
    let mut told = HashSet::new();
    let mut line = String::new();
    while (&mut stream).take(LINE_BYTES_MAX).read_line(&mut line).await? > 0 {
        let id = u64::from_str_radix(line.trim(), 16).ok();
        let answer = match id.and_then(|id| Some((id, keys.of(id)?))) {
            Some((id, config)) if told.contains(&id) || told.len() < STREAMS_MAX => {
                if config.is_some() && told.insert(id) {
                    log(&peer, id);
                }
                Answer::of(config.as_ref())
            }
            Some(_) => Answer::Refused(format!("more than {STREAMS_MAX} streams of one capture")),
            None => Answer::Refused(format!("this media agent has no stream {:?}", line.trim())),
        };
        say(&mut stream, &answer).await?;
        line.clear();
    }
    Ok(())
}

fn may(uid: u32, own: u32) -> bool {
    uid == ROOT || uid == own
}

/// Who had which keys. The login survives `su` and `sudo`, so it names a person where the user is root.
fn log(peer: &UCred, id: u64) {
    let login = peer.pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok());
    let login_uid = login.and_then(|uid| uid.trim().parse::<u32>().ok()).filter(|uid| *uid != NO_LOGIN);
    let (uid, pid) = (peer.uid(), peer.pid());
    tracing::warn!(stream = format!("{id:016x}"), uid, login_uid, pid, "a stream is captured decrypted");
}

async fn say(stream: &mut BufReader<UnixStream>, answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_agents_own_user_may() {
        assert_eq!([may(0, 0), may(0, 7), may(7, 7)], [true; 3]);
        assert_eq!([may(7, 0), may(65_534, 7), may(u32::MAX, 0)], [false; 3]);
    }
}
