//! Real Redis servers for tests: each on a free port, in a folder of its own, gone with its value.
#![allow(dead_code, missing_docs)]

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nebula_bus::redis::Options;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// One server process.
pub struct Server {
    pub port: u16,
    pub folder: TempDir,
    args: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// An empty server without persistence.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same with more of its configuration, as on its command line.
    pub async fn with(args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let folder = tempfile::tempdir().expect("a folder");
        // A port may be taken by somebody else between finding and binding it.
        for _ in 0..10 {
            let mut server = Self {
                port: free_port(),
                folder: tempfile::tempdir().expect("a folder"),
                args: Clone::clone(&args),
                child: None,
            };
            if server.try_run().await {
                return server;
            }
        }
        panic!("redis-server does not start in {}", folder.path().display());
    }

    /// Starts it again on its port, empty.
    pub async fn run(&mut self) {
        assert!(self.try_run().await, "redis-server does not start again on port {}", self.port);
    }

    async fn try_run(&mut self) -> bool {
        assert!(self.child.is_none(), "it runs");
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]).arg(self.folder.path());
        if !self.args.iter().any(|arg| arg == "--port") {
            command.args(["--port", &self.port.to_string()]);
        }
        let port = self.port.to_string();
        command.args(self.args.iter().map(|arg| arg.replace("PORT", &port)));
        let log_path = self.folder.path().join("log");
        let log = std::fs::File::create(&log_path).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn();
        let mut child = child.expect("redis-server is installed: scripts/install test");
        for _ in 0..500 {
            if child.try_wait().expect("its state").is_some() {
                return false;
            }
            // Its own word: another process may have taken the port and would answer a connection, too.
            let said = std::fs::read_to_string(&log_path).unwrap_or_default();
            if said.contains("Ready to accept connections") || said.contains("Sentinel ID is") {
                self.child = Some(child);
                return true;
            }
            sleep(Duration::from_millis(10)).await;
        }
        let _ = child.kill();
        false
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().and_then(|()| child.wait()).expect("killed");
        }
    }

    /// SIGSTOP and SIGCONT: it is there and says nothing.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn options(&self) -> Options {
        Options::parse(&self.url()).expect("its URL")
    }

    /// Asks it something as `redis-cli` would, without a client library: arguments by blanks; the raw answer.
    pub async fn ask(&self, command: &str) -> String {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.ask_words(&words).await
    }

    pub async fn ask_words(&self, words: &[&[u8]]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens");
        let mut request = Vec::new();
        write!(request, "*{}\r\n", words.len()).expect("memory");
        for word in words {
            write!(request, "${}\r\n", word.len()).expect("memory");
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request).await.expect("written");
        let mut answer = vec![0; 1 << 16];
        let count = timeout(Duration::from_secs(5), stream.read(&mut answer)).await.expect("in time").expect("read");
        String::from_utf8_lossy(&answer[..count]).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until something is so; panics with `what` when it takes too long.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// A certificate authority and a server's certificate for 127.0.0.1, by `openssl`.
pub fn certificates(folder: &Path) {
    let openssl = |args: &str| {
        let done = Command::new("openssl").args(args.split(' ')).current_dir(folder).stderr(Stdio::null()).status();
        assert!(done.expect("openssl is installed").success(), "{args}");
    };
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("written");
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=Test -keyout ca.key -out ca.crt",
    );
    openssl("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=redis -keyout redis.key -out redis.csr");
    openssl("x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out redis.crt");
}

/// A sentinel that watches one master, alone and impatient.
pub async fn sentinel(master: &Server) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let config = format!(
        "port {port}\nbind 127.0.0.1\nsentinel monitor calls 127.0.0.1 {} 1\n\
         sentinel down-after-milliseconds calls 500\nsentinel failover-timeout calls 3000\n",
        master.port
    );
    let path = folder.path().join("sentinel.conf");
    std::fs::write(&path, config).expect("written");
    let log_path = folder.path().join("log");
    let log = std::fs::File::create(&log_path).expect("a log");
    let mut command = Command::new("redis-server");
    command.arg(&path).arg("--sentinel").stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    let child = command.spawn().expect("redis-server is installed: scripts/install test");
    let server = Server { port, folder, args: vec![], child: Some(child) };
    let ready = async || std::fs::read_to_string(&log_path).ok()?.contains("+monitor master").then_some(());
    until("the sentinel watches", ready).await;
    server
}

/// A replica of a master, in step with it.
pub async fn replica(master: &Server) -> Server {
    let port = master.port.to_string();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &port]).await;
    let in_step = async || replica.ask("INFO replication").await.contains("master_link_status:up").then_some(());
    until("the replica is in step", in_step).await;
    replica
}

/// A cluster of three masters.
pub async fn cluster() -> Vec<Server> {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let port = free_port().to_string();
        let args =
            ["--cluster-enabled", "yes", "--cluster-port", &port, "--cluster-node-timeout", "2000"].map(str::to_owned);
        nodes.push(Server::with(&args.each_ref().map(String::as_str)).await);
    }
    let mut command = Command::new("redis-cli");
    command.args(["--cluster", "create"]).args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
    let made = command.arg("--cluster-yes").output().expect("redis-cli is installed: scripts/install test");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    for node in &nodes {
        let whole = async || node.ask("CLUSTER INFO").await.contains("cluster_state:ok").then_some(());
        until("the cluster is whole", whole).await;
    }
    nodes
}
