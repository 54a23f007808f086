//! A PgBouncer in transaction mode, where one is installed.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::support::child::Guarded;
use crate::support::child::TempDir;
use crate::support::child::free_port;
use crate::support::eventually;
use crate::support::postgres;

const START_MAX: Duration = Duration::from_secs(15);
/// Connections to the server: fewer than an instance has to the pooler, so that they change hands.
const POOL: usize = 4;

/// A running pooler. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    _process: Guarded,
    port: u16,
    _directory: TempDir,
}

impl PgBouncer {
    /// In front of the server at this port of 127.0.0.1. `None`, and a line that says so: it is not installed.
    pub(crate) async fn start(server: u16) -> Option<Self> {
        let Some(program) = postgres::find("pgbouncer", &["/usr/sbin"]) else {
            println!("skipped: pgbouncer is not installed: apt-get install -y pgbouncer");
            return None;
        };
        let (directory, port) = (TempDir::new("pgbouncer"), free_port());
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = {POOL}\n"
        );
        let file = directory.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).expect("the directory is ours");
        let mut command = postgres::as_owner(program);
        command.arg("--quiet").arg(file);
        let process = Guarded::spawn_in(&command, &directory);
        let this = Self { _process: process, port, _directory: directory };
        eventually("pgbouncer answers", START_MAX, async || {
            TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)
        })
        .await;
        Some(this)
    }

    /// The URL of a database through it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The same of a URL to the server itself.
    pub(crate) fn url_of(&self, direct: &str) -> String {
        self.url(direct.rsplit('/').next().unwrap_or_default())
    }
}
