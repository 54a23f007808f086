//! Private Postgres servers for tests: on a free port, in a directory of their own, gone when the test process is gone.
//!
//! Each server is the child of a shell that waits for the end of its standard input. The test process holds the other
//! end of that pipe, so however it ends (also by SIGKILL) the shell wakes up and stops the server; another one, in the same
//! way, removes the directory.
//! Should the shell itself be killed, the kernel signals the server (`setpriv --pdeathsig`).

use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::Connection as _;
use sqlx::Executor as _;
use sqlx::PgConnection;
use tidings::config::Config;
use tidings::config::Secret;
use tidings::store::Store;
use tokio::sync::OnceCell;

const START_DEADLINE: Duration = Duration::from_secs(30);
const TEMPLATE: &str = "tidings_template";

/// $1 the directory, then the command of the server. The word `keep` stops it in an orderly way.
const WARDEN: &str = r#"
trap '' INT TERM HUP
directory=$1; shift
"$@" >>"$directory/log" 2>&1 </dev/null &
server=$!
read -r last
if [ "$last" = keep ]; then kill -INT $server; else kill -QUIT $server; fi
kill -CONT $server 2>/dev/null
wait $server
"#;

/// Removes the directory $1, once nothing writes there any more. Apart from the warden: a stopped server has none.
const JANITOR: &str = r#"
trap '' INT TERM HUP
read -r last
until rm -rf "$1"; do sleep 1; done
"#;

/// A server with its data directory.
pub(crate) struct Postgres {
    directory: PathBuf,
    port: u16,
    warden: Option<Child>,
    janitor: Child,
    names: AtomicU32,
}

impl Postgres {
    /// The server that all tests of this process share, with a migrated template database.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(Self::dedicated).await
    }

    /// A server of its own, for tests that stop it. Ends when dropped.
    pub(crate) async fn dedicated() -> Self {
        let directory = make_directory();
        let janitor = shell(JANITOR, &directory).spawn().expect("there is a shell");
        let mut server = Self { directory, port: 0, warden: None, janitor, names: AtomicU32::new(0) };
        server.start().await;
        server.execute("postgres", &format!("CREATE DATABASE {TEMPLATE}")).await;
        Store::migrate(&server.config(TEMPLATE)).await.expect("the migrations apply to an empty database");
        server
    }

    /// The URL of a fresh, migrated, empty database.
    pub(crate) async fn database(&self) -> String {
        self.create(&format!(" TEMPLATE {TEMPLATE}")).await
    }

    /// The URL of a fresh database without any table.
    pub(crate) async fn empty_database(&self) -> String {
        self.create("").await
    }

    async fn create(&self, how: &str) -> String {
        let name = format!("test_{}", self.names.fetch_add(1, Ordering::Relaxed));
        self.execute("postgres", &format!("CREATE DATABASE {name}{how}")).await;
        self.url(&name)
    }

    /// The URL of a database, whether it exists or not.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Where it listens: for a proxy in front.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn config(&self, database: &str) -> Config {
        let mut config = Config::defaults();
        config.database_url = Secret::new(self.url(database));
        config
    }

    async fn execute(&self, database: &str, sql: &str) {
        let mut connection = PgConnection::connect(&self.url(database)).await.expect("the test server answers");
        connection.execute(AssertSqlSafe(sql)).await.expect("the test's own SQL is right");
        connection.close().await.expect("the test server says goodbye");
    }

    /// Starts it again after `stop`, on the same port.
    pub(crate) async fn start(&mut self) {
        assert!(self.warden.is_none(), "it is running");
        for _ in 0..5 {
            let port = if self.port == 0 { free_port() } else { self.port };
            let mut warden = spawn(&self.directory, port);
            if answers(port, &warden).await {
                self.port = port;
                self.warden = Some(warden);
                return;
            }
            // Somebody took the port in between.
            drop(warden.stdin.as_mut().map(|pipe| pipe.write_all(b"keep\n")));
            warden.wait().expect("the warden ends");
        }
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        assert!(self.warden.is_some(), "Postgres doesn't start: {log}");
    }

    /// Stops it as an administrator does: open connections are told and closed. The data stay.
    pub(crate) fn stop(&mut self) {
        let mut warden = self.warden.take().expect("it is running");
        warden.stdin.take().expect("the pipe is ours").write_all(b"keep\n").expect("the warden listens");
        warden.wait().expect("the warden ends");
    }

    /// Stops all its processes in their tracks (SIGSTOP): connections stay open, nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Continues after `freeze`.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// The postmaster first when stopping, so that it makes no new process meanwhile.
    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.directory.join("data/postmaster.pid")).expect("it is running");
        let postmaster = pid.lines().next().expect("the first line is the process id").to_owned();
        run(Command::new("kill").args([&format!("-{signal}"), &postmaster]));
        for child in children(&postmaster) {
            // A back end may end meanwhile.
            drop(Command::new("kill").args([&format!("-{signal}"), &child]).stderr(Stdio::null()).status());
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut warden) = self.warden.take() {
            drop(warden.stdin.take());
            drop(warden.wait());
        }
        drop(self.janitor.stdin.take());
        drop(self.janitor.wait());
    }
}

/// A script that is told the directory, and hears from us by its standard input.
fn shell(script: &str, directory: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg("tidings-test").arg(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn make_directory() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("tidings-pg-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let directory = std::env::temp_dir().join(name);
    run(as_owner("mkdir").arg("-m").arg("700").arg(&directory));
    let initdb = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"];
    run(as_owner(program("initdb")).args(initdb).arg("--pgdata").arg(directory.join("data")));
    directory
}

fn spawn(directory: &Path, port: u16) -> Child {
    let settings = [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", directory.display()),
        "fsync=off".to_owned(),
        "synchronous_commit=off".to_owned(),
        "full_page_writes=off".to_owned(),
        "max_connections=200".to_owned(),
        "shared_buffers=32MB".to_owned(),
    ];
    let mut command = shell(WARDEN, directory);
    command.arg("setpriv").args(["--pdeathsig", "QUIT"]).args(owner_args()).arg(program("postgres"));
    command.arg("-D").arg(directory.join("data"));
    for setting in settings {
        command.arg("-c").arg(setting);
    }
    command.spawn().expect("there is a shell")
}

async fn answers(port: u16, warden: &Child) -> bool {
    let deadline = tokio::time::Instant::now() + START_DEADLINE;
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let mut again = tokio::time::interval(Duration::from_millis(50));
    again.tick().await;
    while tokio::time::Instant::now() < deadline {
        if let Ok(connection) = PgConnection::connect(&url).await {
            connection.close().await.expect("the test server says goodbye");
            return true;
        }
        // Before it looks whether the server ended: a moment ago it may not have been there yet.
        again.tick().await;
        if children(&warden.id().to_string()).is_empty() {
            return false;
        }
    }
    false
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}

/// Postgres refuses to run as root.
fn owner_args() -> Vec<&'static str> {
    if is_root() { vec!["--reuid=postgres", "--regid=postgres", "--clear-groups"] } else { vec![] }
}

pub(crate) fn as_owner(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(owner_args()).arg(program).current_dir("/");
    command
}

/// From PATH, or the newest of Debian's directories.
fn program(name: &str) -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().parse::<u32>().ok();
    let mut versions: Vec<(u32, PathBuf)> = debian.filter_map(|e| Some((version(&e)?, e.path().join("bin")))).collect();
    versions.sort();
    let places: Vec<PathBuf> = versions.into_iter().rev().map(|(_, path)| path).collect();
    let found = find(name, &places);
    assert!(found.is_some(), "{name} is not installed: apt-get install -y postgresql util-linux");
    found.unwrap_or_default()
}

/// A program in PATH, or at one of these places.
pub(crate) fn find(name: &str, more: &[impl AsRef<Path>]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(more.iter().map(|place| place.as_ref().to_owned()));
    places.map(|place| place.join(name)).find(|path| path.is_file())
}

fn run(command: &mut Command) {
    let output = command.output().expect("setpriv and kill are installed: apt-get install -y util-linux procps");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Processes whose parent this is.
fn children(parent: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("this is Linux").flatten() {
        let mut stat = String::new();
        let read = std::fs::File::open(entry.path().join("stat")).and_then(|mut file| file.read_to_string(&mut stat));
        // "pid (name) state ppid …"; the name may hold spaces and brackets.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if read.is_ok() && after_name.split_whitespace().nth(1) == Some(parent) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}
