//! An nginx in front of several instances, with the settings that docs/operations.md recommends.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::support::child::Guarded;
use crate::support::child::TempDir;
use crate::support::child::free_port;
use crate::support::eventually;
use crate::support::postgres;

const START_MAX: Duration = Duration::from_secs(15);
/// Connections of one of its workers: each stream is two.
const CONNECTIONS_MAX: usize = 16_384;

/// A running proxy. Dropping it kills it.
#[derive(Debug)]
pub struct Nginx {
    _process: Guarded,
    port: u16,
    directory: TempDir,
}

impl Nginx {
    /// In front of these instances, and of a page at `/page.html` on every address of the host itself.
    ///
    /// # Panics
    /// When it is not installed.
    pub async fn start(instances: &[SocketAddr], page: &str) -> Self {
        let program = postgres::find("nginx", &["/usr/sbin"]);
        let program = program.expect("nginx is installed: apt-get install -y nginx");
        let (directory, port) = (TempDir::new("nginx"), free_port());
        std::fs::write(directory.path().join("page.html"), page).expect("the directory is ours");
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, settings(directory.path(), port, instances)).expect("the directory is ours");
        let mut command = Command::new(program);
        command.arg("-p").arg(directory.path()).arg("-c").arg(&file).args(["-g", "daemon off;"]);
        let process = Guarded::spawn_in(&command, &directory);
        let this = Self { _process: process, port, directory };
        eventually("nginx answers", START_MAX, async || TcpStream::connect(this.addr()).await.ok().map(drop)).await;
        this
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.on(1)
    }

    /// What it has complained of.
    pub fn complaints(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }

    /// The same by another address of this host: a browser has six connections for each.
    pub fn on(&self, host: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, host], self.port))
    }
}

fn settings(directory: &Path, port: u16, instances: &[SocketAddr]) -> String {
    let directory = directory.display();
    let [upstream, location] = documented();
    let server = upstream.lines().find(|line| line.trim_start().starts_with("server ")).expect("it shows an instance");
    let servers: String = instances.iter().map(|addr| server.replace("10.0.0.1:3001", &addr.to_string())).collect();
    let upstream = upstream.replace(server, &servers);
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {directory}/{kind};"))
        .concat();
    // As root its workers would be another user's, to whom our directory is closed.
    let user = if postgres::is_root() { "user root;" } else { "" };
    format!(
        "{user} pid {directory}/pid; error_log {directory}/error.log; worker_processes 1; worker_rlimit_nofile {limit};
         events {{ worker_connections {CONNECTIONS_MAX}; }}
         http {{
           access_log off; default_type text/html; {temporary}
           {upstream}
           server {{
             listen 0.0.0.0:{port} backlog=4096;
             location = /page.html {{ root {directory}; }}
             {location}
           }}
         }}",
        limit = CONNECTIONS_MAX * 2,
    )
}

/// The blocks of docs/operations.md, word by word: the instances, and how they are asked.
fn documented() -> [String; 2] {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).expect("it is there");
    let mut blocks = text.split("```nginx\n").skip(1).filter_map(|rest| rest.split("```").next());
    std::array::from_fn(|_| blocks.next().expect("docs/operations.md shows two blocks for nginx").to_owned())
}
