//! A private Redis, and what processes have used.

use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

/// Of `/proc`.
const TICKS_PER_S: f64 = 100.0;

pub(crate) struct Redis {
    pub(crate) url: String,
    child: Child,
}

impl Redis {
    /// On core 0, without files.
    pub(crate) async fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
        let child = Command::new("taskset")
            .args(["-c", "0", "redis-server", "--save", "", "--appendonly", "no", "--port", &port.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .expect("taskset and redis-server");
        tokio::time::sleep(Duration::from_millis(500)).await;
        Self { url: format!("redis://127.0.0.1:{port}"), child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Seconds of processor time of a process so far.
pub(crate) fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_S
}

/// Resident bytes of this process.
pub(crate) fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    kib * 1024
}

/// A usual update of one of so many jobs.
pub(crate) fn update(number: u64, jobs: u64) -> String {
    let (job, n) = (number % jobs, number / jobs + 1);
    format!(
        "{{\"jobId\":\"load-abcdef01-{job}\",\"status\":\"running\",\"progress\":{},\"message\":\"Slide {n}\",\
         \"data\":{{\"n\":{n},\"cold\":0,\"t\":1763630000000000}}}}",
        n % 100
    )
}
