//! The limit of open files, of which every connection is one.

use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

use crate::config::Config;

/// Beside streams: connections that are no streams (`limits::Connections` keeps 1,000 for them), lanes, Redis, the database, logs.
const OTHERS: u64 = 1_256;

/// Raises the soft limit to what the settings need, as far as the hard one allows. A container often begins with 1,024 of 524,288, low
/// for the sake of programs that call `select`; an image without a shell has nobody else who could raise it.
pub(super) fn raise(config: &Config) {
    let wanted = config.max_connections as u64 + OTHERS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` is no limit.
    let Some(soft) = current.filter(|soft| *soft < wanted) else { return };
    let allowed = maximum.map_or(wanted, |hard| hard.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum });
    let reached = if raised.is_ok() { allowed } else { soft };
    if reached < wanted {
        tracing::warn!(
            reached,
            wanted,
            "fewer open files are allowed than MAX_CONNECTIONS needs; raise the hard limit"
        );
    }
}
