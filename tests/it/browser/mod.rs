//! A real Chromium: the page of the demo with its shared slide, a bare `EventSource`, and pages of another origin that edit their stream.

mod across;
mod bare;
mod demo;
mod http2;
mod slide;

use std::time::Duration;

/// How long something may take to show, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(40);
