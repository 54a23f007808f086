//! Parts of a scenario as processes of their own, each on its core.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use crate::Failure;

/// The soft limit on open files is often 1,024; a stream is a file at either end.
const MANY_FILES: &str = r#"ulimit -n "$(ulimit -Hn)"; exec "$@""#;

const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";

/// Where a process may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Core {
    /// Where whoever starts it runs: the load has one core, all its processes together.
    Inherited,
    /// The same, whenever nobody else there has anything to do.
    Spare,
    /// The core of the server.
    Server,
    /// Anywhere.
    Any,
}

impl Core {
    fn list(self) -> Option<String> {
        match self {
            Self::Inherited | Self::Spare => None,
            Self::Server => Some(SERVER_CORE.to_owned()),
            Self::Any => Some(format!("0-{}", cores().saturating_sub(1))),
        }
    }
}

/// Whether there is a core for each side.
pub(crate) fn can_pin() -> bool {
    cores() >= 2
}

/// Of the machine, whatever this process is bound to.
fn cores() -> usize {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().filter(|line| line.starts_with("processor")).count()
}

/// Binds this process, and so all that it starts, to the second core.
pub(crate) fn take_load_core() -> Result<(), Failure> {
    bind(std::process::id(), LOAD_CORE)
}

/// Binds a process that somebody else has started, with all its threads.
pub(crate) fn bind_to_server_core(pid: u32) -> Result<(), Failure> {
    bind(pid, SERVER_CORE)
}

fn bind(pid: u32, core: &str) -> Result<(), Failure> {
    let bound = Command::new("taskset").args(["-acp", core, &pid.to_string()]).stdout(Stdio::null()).status();
    match bound {
        Ok(status) if status.success() => Ok(()),
        _ => Err("taskset is missing (apt-get install -y util-linux) or refused; --no-pin does without".into()),
    }
}

/// A command that may open as many files as the system allows, on that core.
pub(crate) fn command(core: Core, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = match core.list() {
        None if core == Core::Spare => {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0", "/bin/sh"]);
            command
        }
        Some(list) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &list, "/bin/sh"]);
            command
        }
        None => Command::new("/bin/sh"),
    };
    command.args(["-c", MANY_FILES, "sh"]).arg(program);
    command
}

/// This program again in another part, which speaks lines. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Part {
    child: Child,
    orders: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Part {
    pub(crate) fn start(core: Core, args: &[String]) -> Result<Self, Failure> {
        let mut command = command(core, std::env::current_exe()?);
        let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().ok_or("no pipe")?;
        let lines = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self { child, orders, lines })
    }

    /// What it says next. Waits, and blocks the thread: there is nothing else to do meanwhile.
    pub(crate) fn hear(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Err("a part of the scenario has ended early; see above".into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    pub(crate) fn tell(&mut self, order: &str) -> Result<(), Failure> {
        Ok(self.orders.write_all(format!("{order}\n").as_bytes())?)
    }

    pub(crate) fn ask(&mut self, order: &str) -> Result<Value, Failure> {
        self.tell(order)?;
        self.hear()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
