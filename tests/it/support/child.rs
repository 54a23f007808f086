//! Child processes that never outlive the test process, however it ends.
//!
//! Each child holds the reading end of a pipe of which only the test process has the other end. When that closes (exit, panic,
//! SIGKILL), a watcher beside the child kills it and deletes its directory. The kernel's parent-death signal would not do:
//! it comes when the *thread* that started the child ends, and every test is a thread.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStderr;
use std::process::ChildStdin;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::eventually;

/// First part of the name of every directory that may be deleted.
const DIRECTORY: &str = "tidings-test-";

/// `$$` is the shell's own process id, which `exec` hands on to the program; the watcher is detached by the double fork,
/// so that the program has no child that it doesn't know. A word on the pipe means: ended in good order, leave things alone.
const WATCHED: &str = r#"
directory=$1; shift
exec 3<&0
( (
    trap '' HUP INT TERM
    read -r word && exit
    kill -KILL $$
    case $directory in */tidings-test-*) rm -rf -- "$directory" ;; esac
) <&3 3<&- >/dev/null 2>&1 & )
exec "$@" </dev/null 3<&-
"#;

/// A running program that is killed with us.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    lifeline: Option<ChildStdin>,
    status: Option<ExitStatus>,
}

impl Guarded {
    /// Starts a program whose output nobody reads. Its standard streams, if set, are ignored.
    pub fn spawn(command: &Command) -> Self {
        Self::start(command, None, Stdio::null())
    }

    /// The same, with a directory that is deleted if the test process dies before the program.
    pub fn spawn_in(command: &Command, directory: &TempDir) -> Self {
        Self::start(command, Some(directory.path()), Stdio::null())
    }

    /// The same, with standard error to be taken and read.
    pub fn spawn_heard(command: &Command, directory: &TempDir) -> (Self, ChildStderr) {
        let mut this = Self::start(command, Some(directory.path()), Stdio::piped());
        let stderr = this.child.stderr.take().expect("asked for a pipe above");
        (this, stderr)
    }

    /// Lets the child see what it would see if this process were killed.
    pub fn cut_lifeline(&mut self) {
        self.lifeline = None;
    }

    fn start(command: &Command, directory: Option<&Path>, stderr: Stdio) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", WATCHED, "sh"]).arg(directory.unwrap_or(Path::new("")));
        shell.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            shell.current_dir(directory);
        }
        // A group of its own: Ctrl-C in a terminal ends the tests, and the lifeline ends the rest.
        shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr);
        let mut child = shell.spawn().expect("every system has /bin/sh");
        let lifeline = child.stdin.take();
        Self { child, lifeline, status: None }
    }

    /// The process id of the program itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name (`TERM`, `STOP`) unless the program has ended.
    pub fn signal(&mut self, name: &str) {
        if self.try_wait().is_none() {
            let pid = self.pid().to_string();
            let sent = Command::new("/bin/sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid]).status();
            assert!(sent.is_ok_and(|status| status.success()), "SIG{name} can't be sent");
        }
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("waiting for one's own child works");
        }
        self.status
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it is still running after `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        eventually("the end of a child process", deadline, async || self.try_wait()).await
    }

    /// SIGKILL, and waits for the end, which comes at once.
    pub fn kill(&mut self) -> ExitStatus {
        if let Some(status) = self.try_wait() {
            return status;
        }
        self.child.kill().expect("killing one's own child works");
        let status = self.child.wait().expect("waiting for one's own child works");
        *self.status.insert(status)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
        // The process id may be another's by the time that the watcher would use it.
        if let Some(lifeline) = &mut self.lifeline {
            lifeline.write_all(b"done\n").ok();
        }
    }
}

/// A directory that goes away with this value.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes a directory of which the name begins with `tidings-test-` and `what`.
    pub fn new(what: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{DIRECTORY}{what}-{}-{number}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("the directory for temporary files can be written");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Fails with the one command that helps when a program is not installed.
///
/// # Panics
/// When it is missing.
pub fn require(program: &str, package: &str) {
    let found = Command::new("/bin/sh").args(["-c", "command -v \"$1\" >/dev/null", "sh", program]).status();
    let found = found.is_ok_and(|status| status.success());
    assert!(found, "{program} is missing. Install it with: apt-get install -y {package}");
}

/// A port on 127.0.0.1 that nobody listens on. Below the range from which the system takes ports for connections, or one of
/// those might have it while a server is down that is to come back to it.
///
/// # Panics
/// When every port that is tried is taken.
pub fn free_port() -> u16 {
    let mut tries = (0..1000).map(|_| fastrand::u16(15_000..32_000));
    let free = tries.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.expect("one of a thousand ports is free")
}
