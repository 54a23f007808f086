//! What processes cost.

use serde_json::Value;

use crate::now_us;

/// Run time of all threads that a process has now, in microseconds.
///
/// `schedstat` counts nanoseconds, where `stat` counts hundredths of a second.
pub(crate) fn cpu_us(pid: u32) -> Option<f64> {
    let mut sum = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // A thread may end while we look.
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default();
    }
    Some(sum / 1000.0)
}

/// Of a process and its children, as Postgres has them.
fn cpu_with_children_us(pid: u32) -> Option<f64> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| cpu_us(child.parse().ok()?));
    Some(cpu_us(pid)? + children.sum::<f64>())
}

/// Resident and proportional memory in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) rss_kib: f64,
    pub(crate) pss_kib: f64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Self { rss_kib: field("Rss:").unwrap_or_default(), pss_kib: field("Pss:").unwrap_or_default() }
    }
}

/// Named processes, and what they had used at one moment.
#[derive(Debug)]
pub(crate) struct Meter {
    at_us: u64,
    processes: Vec<(&'static str, u32, f64)>,
}

impl Meter {
    pub(crate) fn start(processes: impl IntoIterator<Item = (&'static str, u32)>) -> Self {
        let read = |(name, pid)| Some((name, pid, cpu_with_children_us(pid)?));
        Self { at_us: now_us(), processes: processes.into_iter().filter_map(read).collect() }
    }

    /// Microseconds of CPU since, by process.
    pub(crate) fn read(&self) -> Used {
        let used = |(name, pid, earlier): &(&'static str, u32, f64)| {
            Some((*name, (cpu_with_children_us(*pid)? - earlier).max(0.0)))
        };
        Used {
            wall_us: now_us().saturating_sub(self.at_us) as f64,
            cpu_us: self.processes.iter().filter_map(used).collect(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Used {
    pub(crate) wall_us: f64,
    cpu_us: Vec<(&'static str, f64)>,
}

impl Used {
    pub(crate) fn server_us(&self) -> f64 {
        self.cpu_us.iter().find(|(name, _)| *name == "server").map_or(0.0, |(_, us)| *us)
    }

    /// Share of a core that each used, in percent.
    pub(crate) fn to_json(&self) -> Value {
        let percent = |us: f64| (us / self.wall_us.max(1.0) * 1000.0).round() / 10.0;
        Value::Object(self.cpu_us.iter().map(|(name, us)| ((*name).to_owned(), percent(*us).into())).collect())
    }
}
