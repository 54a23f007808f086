//! Parts of a scenario as processes of their own, and what processes cost.

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

/// A command that may open as many files as the system allows.
pub(crate) fn with_many_files(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", MANY_FILES, "sh"]).arg(program);
    command
}

/// This program again in another part, which speaks JSON lines. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Part {
    child: Child,
    orders: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Part {
    pub(crate) fn start(args: &[&str]) -> Result<Self, Failure> {
        let mut command = with_many_files(std::env::current_exe()?);
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
        Ok(writeln!(self.orders, "{order}")?)
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

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    cpu_s: f64,
    rss_kib: u64,
}

impl Usage {
    /// Of a process with all its threads; nothing if it is gone.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain anything; utime and stime are the 14th and 15th field of proc(5).
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let rss_kib = rss.trim().trim_end_matches(" kB").parse().ok()?;
        // USER_HZ is 100 on every architecture that we run on.
        Some(Self { cpu_s: (ticks(11)? + ticks(12)?) / 100.0, rss_kib })
    }

    /// Seconds of CPU since an earlier moment, and memory now.
    pub(crate) fn since(self, earlier: Self) -> Value {
        let cpu_s = ((self.cpu_s - earlier.cpu_s) * 100.0).round() / 100.0;
        serde_json::json!({ "cpuSeconds": cpu_s, "rssMiB": self.rss_kib / 1024 })
    }
}

/// Named processes at one moment.
#[derive(Debug)]
pub(crate) struct Meter(Vec<(&'static str, u32, Option<Usage>)>);

impl Meter {
    pub(crate) fn start(processes: impl IntoIterator<Item = (&'static str, u32)>) -> Self {
        Self(processes.into_iter().map(|(name, pid)| (name, pid, Usage::of(pid))).collect())
    }

    /// What each has used since.
    pub(crate) fn read(&self) -> Value {
        let used = self
            .0
            .iter()
            .filter_map(|(name, pid, earlier)| Some(((*name).to_owned(), Usage::of(*pid)?.since((*earlier)?))));
        Value::Object(used.collect())
    }
}
