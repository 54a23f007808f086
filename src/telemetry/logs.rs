//! Log lines: JSON for machines, text on a terminal. Both escape control characters, so that no input can forge a line.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::Config;
use crate::config::LogFormat;

/// Starts logging to stderr for the whole process. A second call does nothing.
///
/// # Errors
/// The filter in `LOG_LEVEL` can't be read.
pub fn init(config: &Config) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log_level).map_err(|e| format!("LOG_LEVEL: {e}"))?;
    let json = match config.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let base = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = if json {
        base.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        base.compact().with_target(false).try_init()
    };
    if done.is_ok() {
        // A panic becomes a line like every other.
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let message = info.payload_as_str().unwrap_or("");
            tracing::error!(panic.place = place, panic.message = message, "panicked");
        }));
    }
    Ok(())
}
