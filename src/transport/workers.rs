//! Where the tasks of connections run, and who waits for them.

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// The threads of a listener's connections. Cheap to clone.
///
/// Those of the public port are not the ones that carry updates from the log to the lanes: what comes in crowds waits for the rest
/// of the crowd, and an update for none of it.
#[derive(Debug, Clone)]
pub struct Workers {
    tasks: TaskTracker,
    runtime: Handle,
}

impl Workers {
    /// Tasks of `tasks`, on the threads of `runtime`.
    #[must_use]
    pub fn new(tasks: TaskTracker, runtime: Handle) -> Self {
        Self { tasks, runtime }
    }

    /// Starts a task, from any thread.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(self.tasks.spawn_on(task, &self.runtime));
    }
}
