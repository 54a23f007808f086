//! Redis servers of our own, to publish through and to break.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::support::child::Guarded;
use crate::support::child::TempDir;
use crate::support::child::free_port;
use crate::support::child::require;
use crate::support::eventually;

/// How long a server may take to answer after its start, on a machine that is busy with other tests.
const START_MAX: Duration = Duration::from_secs(15);
/// How long anything asked of it may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How many ports are tried when others take them first.
const PORTS_MAX: u32 = 5;

/// How a server is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct RedisOptions {
    /// Whether it writes an append-only file, synced every second, and so survives a SIGKILL.
    pub aof: bool,
    /// A given port, or any that is free.
    pub port: Option<u16>,
}

/// A private redis-server. Dropping it kills it.
#[derive(Debug)]
pub struct RedisServer {
    process: Guarded,
    options: RedisOptions,
    port: u16,
    directory: TempDir,
}

impl RedisServer {
    /// The one server that tests share which don't break it; keep apart by `REDIS_PREFIX` and channel names.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<RedisServer>> = OnceCell::const_new();
        let start = async || Arc::new(Self::start(RedisOptions::default()).await);
        Arc::clone(SHARED.get_or_init(start).await)
    }

    /// A server for one test alone.
    pub async fn start(options: RedisOptions) -> Self {
        require("redis-server", "redis-server");
        let mut directory = TempDir::new("redis");
        for _ in 0..PORTS_MAX {
            let port = options.port.unwrap_or_else(free_port);
            let process = launch(options, port, &directory);
            let mut this = Self { process, options, port, directory };
            if this.answers().await {
                return this;
            }
            directory = this.directory;
        }
        panic!("redis-server doesn't start on {PORTS_MAX} ports");
    }

    /// For `REDIS_URL`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, as a target of a proxy.
    pub fn addr(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// SIGKILL: whatever is not in the append-only file is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, and waits: it leaves in good order.
    pub async fn terminate(&mut self) {
        self.process.signal("TERM");
        self.process.wait(ANSWER_MAX).await;
    }

    /// Starts it again on the same port with the same files, whether it still runs or not, and waits until it answers.
    pub async fn start_again(&mut self) {
        self.process.kill();
        for _ in 0..PORTS_MAX {
            self.process = launch(self.options, self.port, &self.directory);
            if self.answers().await {
                return;
            }
        }
        panic!("redis-server doesn't start again on port {}", self.port);
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn freeze(&mut self) {
        self.process.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        self.process.signal("CONT");
    }

    /// A fresh connection.
    pub async fn client(&self) -> redis::aio::MultiplexedConnection {
        self.try_client().await.expect("a running redis-server takes connections")
    }

    /// A fresh connection, if it takes any.
    pub async fn try_client(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        // The crate's own limits are too short for a machine that runs many tests at once.
        let limits = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_MAX))
            .set_response_timeout(Some(ANSWER_MAX));
        redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&limits).await
    }

    /// Any command, `&["CONFIG", "SET", "maxmemory", "1mb"]`, and its answer.
    pub async fn cli(&self, args: &[&str]) -> redis::RedisResult<redis::Value> {
        let (name, rest) = args.split_first().expect("a command has a name");
        let mut client = self.try_client().await?;
        let mut command = redis::cmd(name);
        command.arg(rest);
        tokio::time::timeout(ANSWER_MAX, command.query_async(&mut client)).await.expect("redis-server answers")
    }

    /// PUBLISH; answers how many heard it.
    pub async fn publish(&self, channel: &str, payload: impl AsRef<[u8]>) -> i64 {
        let mut client = self.client().await;
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel).arg(payload.as_ref());
        command.query_async(&mut client).await.expect("PUBLISH is answered")
    }

    /// XADD of one entry with the field `data`; answers its id.
    pub async fn xadd(&self, stream: &str, payload: impl AsRef<[u8]>) -> String {
        let mut client = self.client().await;
        let mut command = redis::cmd("XADD");
        command.arg(stream).arg("*").arg("data").arg(payload.as_ref());
        command.query_async(&mut client).await.expect("XADD is answered")
    }

    /// Whether this very process answers on its port: after losing a race for the port another one would.
    async fn answers(&mut self) -> bool {
        eventually("redis-server answers or ends", START_MAX, async || {
            if self.process.try_wait().is_some() {
                return Some(false);
            }
            let mut client = self.try_client().await.ok()?;
            let info: String = redis::cmd("INFO").query_async(&mut client).await.ok()?;
            let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            // It says who it is also while it still reads its files, and nothing else.
            let is_ours = value("process_id:") == Some(&self.process.pid().to_string());
            (is_ours && value("loading:") == Some("0")).then_some(true)
        })
        .await
    }
}

fn launch(options: RedisOptions, port: u16, directory: &TempDir) -> Guarded {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendfsync", "everysec", "--port"]).arg(port.to_string());
    command.args(["--appendonly", if options.aof { "yes" } else { "no" }]);
    // Tests use DEBUG to make it slow; newer servers refuse that unless told otherwise.
    command.args(["--enable-debug-command", "local", "--logfile", "redis.log", "--dir"]).arg(directory.path());
    Guarded::spawn_in(&command, directory)
}
