//! The threads that serve the public port.

use std::io;

use tokio::runtime::Builder;
use tokio::runtime::Handle;
use tokio::runtime::Runtime;

/// How much lower their priority is. Who is there goes before who comes, where there is not enough for both.
const NICE: i32 = 5;

/// A runtime that may be dropped by a task of another one.
#[derive(Debug)]
pub(super) struct Threads(Option<Runtime>, Handle);

impl Threads {
    /// As many as there are cores.
    pub(super) fn start() -> io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().thread_name("connections").on_thread_start(step_back).enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok(Self(Some(runtime), handle))
    }

    pub(super) fn handle(&self) -> Handle {
        self.1.clone()
    }
}

/// Where that can't be, they are like the others. Elsewhere than on Linux a priority is the whole process's.
fn step_back() {
    if cfg!(target_os = "linux") {
        rustix::process::setpriority_process(None, NICE).unwrap_or_default();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}
