//! A private Postgres, for who may see what.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::PgConnection;

use crate::Failure;
use crate::support::child::Guarded;
use crate::support::child::TempDir;
use crate::support::child::free_port;
use crate::support::eventually;

const START_MAX: Duration = Duration::from_secs(30);

/// A private Postgres with its own defaults, durable as in production.
#[derive(Debug)]
pub(crate) struct Postgres {
    pub(crate) url: String,
    process: Guarded,
    _directory: TempDir,
}

impl Postgres {
    pub(crate) async fn start() -> Result<Self, Failure> {
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
        Ok(Self { url, process, _directory: directory })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A user for each stream, and `jobs` jobs and documents in all: the first `each` are the first user's, and so on in turn.
    pub(crate) async fn seed(&self, run: &str, streams: u64, each: u64, jobs: u64) -> Result<(), Failure> {
        let mut database = PgConnection::connect(&self.url).await?;
        let [streams, each, jobs] = [streams, each.max(1), jobs].map(i64::try_from);
        let statements = [
            "INSERT INTO tidings.users (id, name)
             SELECT 'load-' || $1 || '-' || i, 'Reader ' || i FROM generate_series(0, $2 - 1) AS i
             WHERE $3 > 0 AND $4 > 0",
            "INSERT INTO tidings.jobs (id, user_id, status)
             SELECT 'load-' || $1 || '-' || i, 'load-' || $1 || '-' || (i / $3) % $4, 'queued'
             FROM generate_series(0, $2 - 1) AS i",
            "INSERT INTO tidings.documents (id, owner_id, title)
             SELECT 'load-' || $1 || '-' || i, 'load-' || $1 || '-' || (i / $3) % $4, 'Load'
             FROM generate_series(0, $2 - 1) AS i",
        ];
        let (streams, each, jobs) = (streams?, each?, jobs?);
        for (statement, count) in statements.into_iter().zip([streams, jobs, jobs]) {
            sqlx::query(statement).bind(run).bind(count).bind(each).bind(streams).execute(&mut database).await?;
        }
        // As the server's own housekeeping would have done long ago.
        sqlx::query("ANALYZE").execute(&mut database).await?;
        Ok(database.close().await?)
    }
}

impl Postgres {
    /// The first document is open to everybody.
    pub(crate) async fn share(&self, run: &str, people: u64) -> Result<(), Failure> {
        let mut database = PgConnection::connect(&self.url).await?;
        let statement = "INSERT INTO tidings.document_permissions (document_id, user_id, role)
             SELECT 'load-' || $1 || '-0', 'load-' || $1 || '-' || i, 'editor' FROM generate_series(1, $2 - 1) AS i";
        sqlx::query(statement).bind(run).bind(i64::try_from(people)?).execute(&mut database).await?;
        Ok(database.close().await?)
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
