//! A Postgres server of the test's own: in a temporary folder, on a free port, gone with the test.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::time::sleep;

const BINARIES: &str = "/usr/lib/postgresql/15/bin";
const PASSWORD: &str = "s3cret";
const READY_BY: Duration = Duration::from_secs(60);

pub struct Server {
    folder: TempDir,
    port: u16,
    tls: bool,
    running: Option<Child>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(false).await
    }

    /// It takes no connection without TLS; its certificate is signed by [`Server::ca`] for `localhost`.
    pub async fn with_tls() -> Self {
        Self::with(true).await
    }

    async fn with(tls: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| folder.path().join(name);
        fs::write(place("password"), PASSWORD).unwrap();
        own(folder.path());
        own(&place("password"));
        run(as_postgres(&format!("{BINARIES}/initdb")).args(["--username=nebula", "--auth=scram-sha-256"]).args([
            format!("--pgdata={}", place("data").display()),
            format!("--pwfile={}", place("password").display()),
            "--encoding=UTF8".into(),
            "--locale=C".into(),
            "--no-sync".into(),
        ]));
        if tls {
            make_certificates(folder.path());
            fs::write(place("data/pg_hba.conf"), "hostssl all all all scram-sha-256\n").unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let mut server = Self { folder, port, tls, running: None };
        server.start_again().await;
        server
    }

    /// The server on its folder and port, after [`Server::kill`].
    pub async fn start_again(&mut self) {
        let by = Instant::now() + READY_BY;
        loop {
            let running = self.running.get_or_insert_with(|| spawn(&self.folder, self.port, self.tls));
            if let Some(status) = running.try_wait().unwrap() {
                // After a kill, until the last process of the killed server has gone.
                assert!(Instant::now() < by, "postgres ended with {status}; see above");
                self.running = None;
            } else if let Ok(connection) = PgConnection::connect(&self.url()).await {
                return drop(connection.close().await);
            }
            assert!(Instant::now() < by, "postgres is not ready");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// As a crash: its clients get no word.
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("a running server");
        running.kill().unwrap();
        running.wait().unwrap();
    }

    pub fn url(&self) -> String {
        let tls = if self.tls { "?sslmode=require" } else { "" };
        format!("postgres://nebula:{PASSWORD}@localhost:{}/postgres{tls}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Runs a statement beside the store.
    pub async fn execute(&self, sql: &'static str) {
        let mut connection = PgConnection::connect(&self.url()).await.expect("a connection");
        connection.execute(sql).await.expect("a statement");
        connection.close().await.expect("an end");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            // It was started here; nothing is to be done about one that is gone.
            let _ = running.kill();
            let _ = running.wait();
        }
    }
}

fn spawn(folder: &TempDir, port: u16, tls: bool) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log")).expect("a log");
    let place = |name: &str| folder.path().join(name).display().to_string();
    let mut command = as_postgres(&format!("{BINARIES}/postgres"));
    command.args(["-D", &place("data"), "-p", &port.to_string(), "-c", "listen_addresses=localhost"]);
    command.args(["-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=60"]);
    if tls {
        command.args(["-c", "ssl=on", "-c", &format!("ssl_cert_file={}", place("server.pem"))]);
        command.args(["-c", &format!("ssl_key_file={}", place("server.key"))]);
    }
    command.stdout(Stdio::null()).stderr(log).spawn().expect("postgres; run `scripts/install test`")
}

/// Postgres refuses to be run by root.
fn as_postgres(program: &str) -> Command {
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).unwrap() != 0 {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--", program]);
    command.current_dir("/");
    command
}

/// Gives a file to the user that runs Postgres.
fn own(path: &Path) {
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).unwrap() == 0 {
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
        let ids: Vec<u32> = line.split(':').skip(2).take(2).map(|id| id.parse().unwrap()).collect();
        chown(path, Some(ids[0]), Some(ids[1])).unwrap();
    }
}

/// An authority, and a certificate of it for localhost.
fn make_certificates(folder: &Path) {
    let openssl = |args: &str| run(Command::new("openssl").args(args.split(' ')).current_dir(folder));
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=test-ca"));
    let signed = "-CA ca.pem -CAkey ca.key -addext basicConstraints=critical,CA:FALSE";
    let names = "-addext subjectAltName=DNS:localhost";
    openssl(&format!("req -x509 {key} -keyout server.key -out server.pem -subj /CN=localhost {signed} {names}"));
    fs::set_permissions(folder.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
    for file in ["server.key", "server.pem"] {
        own(&folder.join(file));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run `scripts/install test`"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
