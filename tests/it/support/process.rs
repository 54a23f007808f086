//! The real binary, started as an operator would.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::process::Command;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;

use crate::support::child::Guarded;
use crate::support::child::TempDir;
use crate::support::child::free_port;
use crate::support::eventually;
use crate::support::http;
use crate::support::tokens;

/// How long a start may take, on a machine that is busy with other tests.
const START_MAX: Duration = Duration::from_secs(30);
/// Lines that are kept.
const LINES_MAX: usize = 100_000;

/// A running `tidings serve`. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    process: Guarded,
    lines: Arc<Mutex<Vec<String>>>,
    _directory: TempDir,
}

impl Server {
    /// Starts it with these settings over those of the tests (any free port, SQLite in a directory of its own, no Redis),
    /// and waits until it is ready.
    ///
    /// # Panics
    /// When it doesn't get ready, with its logs.
    pub async fn spawn(env: &[(&str, &str)]) -> Self {
        let mut tries = 0;
        loop {
            let mut this = Self::launch(&["serve"], env);
            tries += 1;
            match this.started().await {
                Ok(()) => return this,
                // Somebody took the port for the metrics in between.
                Err(why) => assert!(tries < 3 && why.contains("METRICS_PORT"), "{why}"),
            }
        }
    }

    /// Starts the binary with any arguments and doesn't wait, for starts that are to fail or to take long.
    pub fn launch(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::launch_by(&[], args, env)
    }

    /// The same by another program, which becomes it: `prlimit --nofile=64:128`.
    pub fn launch_by(program: &[&str], args: &[&str], env: &[(&str, &str)]) -> Self {
        let directory = TempDir::new("serve");
        let mut words = program.iter().chain([&env!("CARGO_BIN_EXE_tidings")]).chain(args);
        let mut command = Command::new(words.next().expect("there is a program"));
        // Run where no setting file lies about.
        command.args(words).current_dir(directory.path());
        for name in inherited() {
            command.env_remove(name);
        }
        let metrics_port = free_port().to_string();
        let defaults = [
            ("BIND", "127.0.0.1"),
            ("REALTIME_PORT", "0"),
            ("METRICS_PORT", metrics_port.as_str()), // 0 would turn them off
            ("JWT_SECRET", tokens::SECRET),
            ("LOG_FORMAT", "json"),
            ("RUST_BACKTRACE", "1"),
            ("MIMALLOC_PURGE_DELAY", "0"), // as in the image
        ];
        command.env("DATA_DIR", directory.path()).envs(defaults).envs(env.iter().copied());
        let (process, stderr) = Guarded::spawn_heard(&command, &directory);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&lines);
        // Ends by itself with the process, whose standard error closes then.
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut lines = written.lock();
                if lines.len() < LINES_MAX {
                    lines.push(line);
                }
            }
        });
        Self { process, lines, _directory: directory }
    }

    /// Waits until it answers that it can accept, read and append.
    ///
    /// # Panics
    /// When it ends before that or takes too long, with its logs.
    pub async fn ready(&mut self) {
        self.started().await.unwrap_or_else(|why| panic!("{why}"));
    }

    async fn started(&mut self) -> Result<(), String> {
        let ready = eventually("tidings is ready", START_MAX * 2, async || {
            if let Some(status) = self.process.try_wait() {
                return Some(Err(status));
            }
            let addr = self.announced("realtime.addr")?;
            let answer = http::try_raw(addr, b"GET /health/ready HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
            answer.await.ok().filter(|answer| answer.status == 200).map(|_| Ok(()))
        });
        let why = match tokio::time::timeout(START_MAX, ready).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(status)) => format!("tidings ended with {status}"),
            Err(_) => format!("tidings is not ready within {START_MAX:?}"),
        };
        Err(format!("{why}:\n{}", self.logs().join("\n")))
    }

    /// Where it serves.
    ///
    /// # Panics
    /// When it hasn't said yet.
    pub fn addr(&self) -> SocketAddr {
        self.announced("realtime.addr").unwrap_or_else(|| panic!("no address in its logs:\n{}", self.logs().join("\n")))
    }

    /// Where its metrics are.
    ///
    /// # Panics
    /// When it hasn't said yet.
    pub fn metrics_addr(&self) -> SocketAddr {
        self.announced("metrics.addr").unwrap_or_else(|| panic!("no metrics in its logs:\n{}", self.logs().join("\n")))
    }

    /// All metrics as text.
    pub async fn metrics_text(&self) -> String {
        http::request(self.metrics_addr(), "GET", "/metrics", &[], b"").await.text()
    }

    /// The value of one metric, written as in the text: `realtime_broker_up` or `realtime_resumes_total{verdict="live"}`.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.metrics_text().await;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// Every line of its log so far.
    pub fn logs(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Bytes of memory that it has, by the system's count.
    ///
    /// # Panics
    /// When it has ended.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kilobytes.unwrap().trim().parse::<usize>().unwrap() * 1024
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, and doesn't wait.
    pub fn terminate(&mut self) {
        self.process.signal("TERM");
    }

    /// SIGSTOP.
    pub fn freeze(&mut self) {
        self.process.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        self.process.signal("CONT");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `deadline`, with its logs.
    pub async fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let lines = Arc::clone(&self.lines);
        match tokio::time::timeout(deadline, self.process.wait(deadline * 2)).await {
            Ok(status) => status,
            Err(_) => panic!("tidings still runs after {deadline:?}:\n{}", lines.lock().join("\n")),
        }
    }

    fn announced(&self, field: &str) -> Option<SocketAddr> {
        let lines = self.lines.lock();
        lines.iter().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let listening = line["message"] == "listening" || line["fields"]["message"] == "listening";
            let value = line.get(field).or_else(|| line["fields"].get(field))?;
            listening.then(|| value.as_str()?.parse().ok()).flatten()
        })
    }
}

/// Instances of one service, each at a port of its own, to which it comes back.
#[derive(Debug)]
pub struct Processes {
    /// Settings of all of them.
    pub env: Vec<(&'static str, String)>,
    ports: Vec<u16>,
    /// Those that run.
    pub running: Vec<Option<Server>>,
}

impl Processes {
    /// Starts so many, and waits until they are ready.
    pub async fn start(env: Vec<(&'static str, String)>, count: usize) -> Self {
        let ports = (0..count).map(|_| free_port()).collect();
        let mut this = Self { env, ports, running: (0..count).map(|_| None).collect() };
        for at in 0..count {
            this.launch(at).await;
        }
        this
    }

    /// Starts one of them again.
    pub async fn launch(&mut self, at: usize) {
        let port = self.ports[at].to_string();
        let mut env: Vec<(&str, &str)> = self.env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        env.push(("REALTIME_PORT", &port));
        self.running[at] = Some(Server::spawn(&env).await);
    }

    /// Where they are, whether they run or not.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    }
}

/// Names of settings that the shell of whoever runs the tests may have set.
fn inherited() -> impl Iterator<Item = String> {
    let keep = ["PATH", "HOME", "TMPDIR", "LANG", "LLVM_PROFILE_FILE", "LD_LIBRARY_PATH"];
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(move |name| !keep.contains(&name.as_str()))
}
