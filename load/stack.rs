//! What is under test: a server with its Redis and its Postgres, given or started here.

use std::io::BufRead as _;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::PgConnection;

use crate::Failure;
use crate::options::Scenario;
use crate::processes::with_many_files;
use crate::support::child::Guarded;
use crate::support::child::TempDir;
use crate::support::child::free_port;
use crate::support::eventually;
use crate::support::http;
use crate::support::redis::RedisOptions;
use crate::support::redis::RedisServer;

const START_MAX: Duration = Duration::from_secs(30);

/// Addresses, and the processes that end with this value.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) url: SocketAddr,
    pub(crate) redis_url: String,
    database_url: String,
    server_pid: Option<u32>,
    started: Option<Started>,
}

/// In the order in which they are stopped.
#[derive(Debug)]
struct Started {
    server: Guarded,
    redis: RedisServer,
    _postgres: Postgres,
    _directory: TempDir,
}

impl Stack {
    /// Takes what the options name, or starts everything.
    pub(crate) async fn new(scenario: &Scenario) -> Result<Self, Failure> {
        match (scenario.url, &scenario.redis_url, &scenario.database_url) {
            (Some(url), Some(redis_url), Some(database_url)) => Ok(Self {
                url,
                redis_url: redis_url.clone(),
                database_url: database_url.clone(),
                server_pid: scenario.server_pid,
                started: None,
            }),
            _ => Self::start(scenario).await,
        }
    }

    async fn start(scenario: &Scenario) -> Result<Self, Failure> {
        let binary = scenario.tidings.canonicalize();
        let binary =
            binary.map_err(|_| "no server to start: cargo build --release --bin tidings, or give --tidings")?;
        let postgres = Postgres::start().await?;
        let redis = RedisServer::start(RedisOptions { aof: true, port: None }).await;
        let directory = TempDir::new("load");
        let environment = [
            ("BIND", "127.0.0.1".to_owned()),
            ("REALTIME_PORT", "0".to_owned()),
            ("METRICS_PORT", "0".to_owned()),
            ("REDIS_URL", redis.url()),
            ("DATABASE_URL", postgres.url.clone()),
            ("DATA_DIR", directory.path().display().to_string()),
            ("JWT_SECRET", scenario.jwt_secret.clone()),
            ("API_KEYS", scenario.api_key.clone()),
            ("MAX_CONNECTIONS", "1000000".to_owned()),
            ("RATE_LIMIT_CONNECTIONS_PER_IP", "1000000".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ];
        let mut migrate = Command::new(&binary);
        let migrated = migrate.arg("migrate").envs(environment.clone()).output()?;
        if !migrated.status.success() {
            return Err(format!("tidings migrate: {}", String::from_utf8_lossy(&migrated.stderr)).into());
        }
        let mut serve = with_many_files(&binary);
        serve.arg("serve").envs(environment).current_dir(directory.path());
        let (server, stderr) = Guarded::spawn_heard(&serve, &directory);
        let url = listening(stderr)?;
        is_ready(url).await;
        let (redis_url, database_url) = (redis.url(), postgres.url.clone());
        let server_pid = Some(server.pid());
        let started = Some(Started { server, redis, _postgres: postgres, _directory: directory });
        Ok(Self { url, redis_url, database_url, server_pid, started })
    }

    /// Whose cost is measured.
    pub(crate) fn processes(&self) -> Vec<(&'static str, u32)> {
        let server = self.server_pid.map(|pid| ("server", pid));
        let redis = self.started.as_ref().map(|started| ("redis", started.redis.pid()));
        server.into_iter().chain(redis).collect()
    }

    /// Whether the server is still there, if it was started here.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.started.as_mut().is_none_or(|started| started.server.try_wait().is_none())
    }

    /// A user with a job for each stream, and a document that all of them may see.
    pub(crate) async fn seed(&self, run: &str, streams: u64) -> Result<(), Failure> {
        let mut database = PgConnection::connect(&self.database_url).await?;
        let count = i64::try_from(streams)?;
        let statements = [
            "INSERT INTO tidings.users (id, name)
             SELECT 'load-' || $1 || '-' || i, 'Reader ' || i FROM generate_series(0, $2 - 1) AS i",
            "INSERT INTO tidings.jobs (id, user_id, status)
             SELECT 'load-' || $1 || '-' || i, 'load-' || $1 || '-' || i, 'queued' FROM generate_series(0, $2 - 1) AS i",
            "INSERT INTO tidings.documents (id, owner_id, title)
             SELECT 'load-' || $1, 'load-' || $1 || '-0', 'Load' WHERE $2 > 0",
            "INSERT INTO tidings.document_permissions (document_id, user_id, role)
             SELECT 'load-' || $1, 'load-' || $1 || '-' || i, 'viewer' FROM generate_series(1, $2 - 1) AS i",
        ];
        for statement in statements {
            sqlx::query(statement).bind(run).bind(count).execute(&mut database).await?;
        }
        Ok(database.close().await?)
    }
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

/// A private Postgres with its own defaults, durable as in production.
#[derive(Debug)]
struct Postgres {
    url: String,
    _process: Guarded,
    _directory: TempDir,
}

impl Postgres {
    async fn start() -> Result<Self, Failure> {
        let directory = TempDir::new("postgres");
        let data = directory.path().join("data");
        give_away(directory.path())?;
        let mut initdb = as_owner(&program("initdb")?);
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"]);
        let made = initdb.arg(&data).output()?;
        if !made.status.success() {
            return Err(format!("initdb: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
        let port = free_port();
        let mut serve = as_owner(&program("postgres")?);
        serve.arg("-D").arg(&data).args(["-c", "listen_addresses=127.0.0.1", "-c", &format!("port={port}")]);
        serve.arg("-c").arg(format!("unix_socket_directories={}", directory.path().display()));
        let process = Guarded::spawn_in(&serve, &directory);
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        eventually("Postgres answers", START_MAX, async || PgConnection::connect(&url).await.ok()).await;
        Ok(Self { url, _process: process, _directory: directory })
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}

/// Postgres refuses to run as root.
fn as_owner(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program).current_dir("/");
    command
}

fn give_away(directory: &Path) -> Result<(), Failure> {
    if is_root() && !Command::new("chown").arg("postgres").arg(directory).status()?.success() {
        return Err("there is no user postgres: apt-get install -y postgresql".into());
    }
    Ok(())
}

/// From PATH, or the newest of Debian's directories.
fn program(name: &str) -> Result<PathBuf, Failure> {
    let script = r#"command -v "$1" || ls -d /usr/lib/postgresql/*/bin/"$1" 2>/dev/null | sort -V | tail -n 1"#;
    let found = Command::new("/bin/sh").args(["-c", script, "sh", name]).output()?;
    let path = String::from_utf8(found.stdout)?.trim().to_owned();
    if path.is_empty() {
        Err(format!("{name} is missing: apt-get install -y postgresql").into())
    } else {
        Ok(path.into())
    }
}
