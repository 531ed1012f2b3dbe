//! A Redis and a Postgres for a measurement, on free ports in temporary folders.

use crate::process::Process;
use anyhow::{Context, Result, bail};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// A running server.
pub struct Server {
    process: Process,
    folder: TempDir,
    /// Where it is.
    pub url: String,
}

impl Server {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A Redis that keeps nothing on disk.
    pub fn redis() -> Result<Self> {
        let (folder, port) = (tempfile::tempdir()?, free_tcp_port()?);
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(folder.path());
        Self::start(command, folder, port, format!("redis://127.0.0.1:{port}/0"))
    }

    /// A Postgres as it is installed, fsync and all, with an empty database.
    pub fn postgres() -> Result<Self> {
        let (folder, port) = (tempfile::tempdir()?, free_tcp_port()?);
        // Postgres doesn't run as root: its own user must get through to the data.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        let (uid, gid) = postgres_user()?;
        std::os::unix::fs::chown(&data, Some(uid), Some(gid))?;
        let mut initdb = as_user("initdb", uid, gid);
        initdb.args(["--auth=trust", "--username=nebula", "-D"]).arg(&data).stdout(Stdio::null());
        let made = initdb.status().context("initdb; `make bench` installs it")?;
        anyhow::ensure!(made.success(), "initdb ended with {made}");
        let mut command = as_user("postgres", uid, gid);
        command.args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-D"]).arg(&data);
        command.arg("-k").arg(&data);
        let url = format!("postgres://nebula@127.0.0.1:{port}/postgres");
        let server = Self::start(command, folder, port, url)?;
        let end = Instant::now() + START_DEADLINE;
        while !server.answers()? {
            anyhow::ensure!(Instant::now() < end, "Postgres does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    fn answers(&self) -> Result<bool> {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-c", "select 1", &self.url]).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(psql.status().context("psql; `make bench` installs it")?.success())
    }

    fn start(mut command: Command, folder: TempDir, port: u16, url: String) -> Result<Self> {
        let log = std::fs::File::create(folder.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let name = command.get_program().to_string_lossy().into_owned();
        let process = Process::spawn(command).with_context(|| format!("{name}; `make bench` installs it"))?;
        let end = Instant::now() + START_DEADLINE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > end {
                bail!("{name} does not come up: {}", std::fs::read_to_string(folder.path().join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { process, folder, url })
    }

    /// Where its files are.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

fn free_tcp_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Who runs Postgres: its own user, or we ourselves if we aren't root.
fn postgres_user() -> Result<(u32, u32)> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        return Ok((uid.as_raw(), gid.as_raw()));
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let ids = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    ids.context("no user postgres; `make bench` installs it")
}

/// The newest Postgres that is installed, as the user that owns its data.
fn as_user(program: &str, uid: u32, gid: u32) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(program)).collect();
    paths.sort();
    let path = paths.pop().unwrap_or_else(|| PathBuf::from(program));
    if !rustix::process::geteuid().is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]).arg(path);
    command
}
