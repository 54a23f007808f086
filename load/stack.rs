//! What is under test: a server with its private Redis, or somebody else's.

use std::io::BufRead as _;
use std::io::BufReader;
use std::net::SocketAddr;
use std::net::ToSocketAddrs as _;
use std::process::Command;
use std::time::Duration;

use crate::Failure;
use crate::options::Server;
use crate::options::Setup;
use crate::options::Way;
use crate::postgres::Postgres;
use crate::processes;
use crate::processes::Core;
use crate::processes::Part;
use crate::processes::command;
use crate::support::child::Guarded;
use crate::support::child::TempDir;
use crate::support::child::free_port;
use crate::support::eventually;
use crate::support::http;
use crate::support::redis::RedisOptions;
use crate::support::redis::RedisServer;
use crate::support::tokens;

const START_MAX: Duration = Duration::from_secs(30);
pub(crate) const API_KEY: &str = "an-api-key-of-the-load-program";

/// All streams come from few addresses, and many are of one user.
const NO_LIMITS: [(&str, &str); 4] = [
    ("MAX_CONNECTIONS", "1000000"),
    ("RATE_LIMIT_CONNECTIONS_PER_IP", "0"),
    ("RATE_LIMIT_CONNECTIONS_PER_USER", "0"),
    ("ADMISSION_PER_SECOND", "0"),
];

/// Addresses, and the processes that end with this value: the server first.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) url: SocketAddr,
    /// Where `GET /metrics` is.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) server_pid: Option<u32>,
    _server: Running,
    pub(crate) redis: Option<RedisServer>,
    _directory: TempDir,
}

#[derive(Debug)]
enum Running {
    Tidings { _process: Guarded },
    Raw { _process: Part },
    Elsewhere,
}

impl Stack {
    pub(crate) async fn start(setup: &Setup, server: Server, way: Way, postgres: &Postgres) -> Result<Self, Failure> {
        let directory = TempDir::new("load");
        let redis = match (server, way) {
            (Server::Other, _) | (_, Way::Embedded) => None,
            (_, Way::Durable) => Some(RedisServer::start(RedisOptions { aof: true, port: None }).await),
        };
        match server {
            Server::Tidings => {
                let redis_url = redis.as_ref().map(RedisServer::url).unwrap_or_default();
                Self::tidings(setup, (redis, redis_url), directory, postgres).await
            }
            Server::Raw | Server::RawCoal => Self::raw(setup, server == Server::RawCoal, redis, directory),
            Server::Other => Self::other(setup, directory),
        }
    }

    async fn tidings(
        setup: &Setup,
        (redis, redis_url): (Option<RedisServer>, String),
        directory: TempDir,
        postgres: &Postgres,
    ) -> Result<Self, Failure> {
        let binary = setup.tidings.canonicalize();
        let binary =
            binary.map_err(|_| "no server to start: cargo build --release --bin tidings, or give --tidings")?;
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let environment = environment(setup, redis_url, &directory, postgres, metrics)?;
        let mut migrate = Command::new(&binary);
        let migrated = migrate.arg("migrate").envs(environment.clone()).output()?;
        if !migrated.status.success() {
            return Err(format!("tidings migrate: {}", String::from_utf8_lossy(&migrated.stderr)).into());
        }
        let mut serve = command(core_of(setup), &binary);
        // As in the image.
        serve.arg("serve").env("MIMALLOC_PURGE_DELAY", "0").envs(environment).current_dir(directory.path());
        let (process, stderr) = Guarded::spawn_heard(&serve, &directory);
        let url = listening(stderr)?;
        is_ready(url).await;
        Ok(Self {
            url,
            metrics: Some(metrics),
            server_pid: Some(process.pid()),
            _server: Running::Tidings { _process: process },
            redis,
            _directory: directory,
        })
    }

    /// A second instance at the same Redis and Postgres.
    pub(crate) async fn beside(&self, setup: &Setup, postgres: &Postgres) -> Result<Self, Failure> {
        let redis_url = self.redis.as_ref().map(RedisServer::url).unwrap_or_default();
        Self::tidings(setup, (None, redis_url), TempDir::new("load"), postgres).await
    }

    fn raw(setup: &Setup, coalesce: bool, redis: Option<RedisServer>, directory: TempDir) -> Result<Self, Failure> {
        let mut args = vec!["raw".to_owned()];
        args.extend(coalesce.then(|| "--coalesce".to_owned()));
        if let Some(redis) = &redis {
            args.extend(["--redis".to_owned(), redis.addr().to_string()]);
        }
        // One thread: there is nothing that a second core could do for it.
        let core = if setup.no_pin { Core::Inherited } else { Core::Server };
        let mut process = Part::start(core, &args)?;
        let url = process.hear()?["listening"].as_str().ok_or("raw doesn't say where it listens")?.parse()?;
        let server_pid = Some(process.pid());
        Ok(Self {
            url,
            metrics: None,
            server_pid,
            _server: Running::Raw { _process: process },
            redis,
            _directory: directory,
        })
    }

    fn other(setup: &Setup, directory: TempDir) -> Result<Self, Failure> {
        let template = setup.url_template.as_deref().ok_or("--servers other needs --url-template")?;
        let url = split_url(template)?.0;
        let server_pid = setup.server_pid;
        if let Some(pid) = server_pid.filter(|_| !setup.no_pin) {
            processes::bind_to_server_core(pid)?; // or it would be compared with servers that have a core to themselves
        }
        Ok(Self { url, metrics: None, server_pid, _server: Running::Elsewhere, redis: None, _directory: directory })
    }
}

/// The address and the path of `http://host:port/path`.
pub(crate) fn split_url(url: &str) -> Result<(SocketAddr, String), Failure> {
    let rest = url.strip_prefix("http://").ok_or("only http:// is spoken here")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let addr = host.to_socket_addrs()?.next().ok_or("the host has no address")?;
    Ok((addr, format!("/{path}")))
}

fn core_of(setup: &Setup) -> Core {
    match (setup.no_pin, setup.lanes) {
        (true, _) => Core::Inherited,
        (false, Some(2..)) => Core::Any,
        (false, _) if setup.server_anywhere => Core::Any,
        (false, _) => Core::Server,
    }
}

fn environment(
    setup: &Setup,
    redis_url: String,
    directory: &TempDir,
    postgres: &Postgres,
    metrics: SocketAddr,
) -> Result<Vec<(String, String)>, Failure> {
    let mut environment: Vec<(String, String)> = [
        ("BIND", "127.0.0.1".to_owned()),
        ("REALTIME_PORT", "0".to_owned()),
        ("METRICS_PORT", metrics.port().to_string()),
        ("REDIS_URL", redis_url),
        ("DATABASE_URL", postgres.url.clone()),
        ("DATA_DIR", directory.path().display().to_string()),
        ("JWT_SECRET", tokens::SECRET.to_owned()),
        ("API_KEYS", API_KEY.to_owned()),
        ("LOG_FORMAT", "json".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if !setup.default_limits {
        environment.extend(NO_LIMITS.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    environment.extend(setup.lanes.map(|lanes| ("LANES".to_owned(), lanes.to_string())));
    for setting in &setup.set {
        let (name, value) = setting.split_once('=').ok_or("--set takes NAME=VALUE")?;
        environment.push((name.to_owned(), value.to_owned()));
    }
    Ok(environment)
}

/// The address in the line that says so. Goes on reading, or the server would wait for a reader of its log.
fn listening(stderr: std::process::ChildStderr) -> Result<SocketAddr, Failure> {
    let mut lines = BufReader::new(stderr).lines();
    let mut seen = Vec::new();
    while let Some(line) = lines.next().transpose()? {
        let fields: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if fields["message"] == "listening" {
            let addr = fields["realtime.addr"].as_str().ok_or("no realtime.addr where it says listening")?.parse()?;
            std::thread::spawn(move || {
                lines.map_while(Result::ok).filter(|line| is_complaint(line)).for_each(|line| eprintln!("{line}"));
            });
            return Ok(addr);
        }
        seen.push(line);
    }
    Err(format!("the server doesn't start:\n{}", seen.join("\n")).into())
}

fn is_complaint(line: &str) -> bool {
    line.contains("\"ERROR\"") || line.contains("\"WARN\"")
}

async fn is_ready(url: SocketAddr) {
    eventually("the server is ready", START_MAX, async || {
        let answer = http::try_raw(url, b"GET /health/ready HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n").await;
        answer.ok().filter(|answer| answer.status == 200)
    })
    .await;
}
