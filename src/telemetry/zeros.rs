//! Series that are there from the start, at zero. A rate is a difference, so it shows nothing of the first event of a series that
//! appears with it; and the first is what one looks for: a question that timed out, a stream that was told to leave.
//!
//! Left out are labels that come by the dozen and of which most never occur: what is sent, what is asked, why input was dropped. Of
//! the last, those are in that say something of this instance and not of whoever sent it.

use prometheus::IntCounterVec;

use super::CHANNEL_KINDS;
use super::MetricSet;

const REASONS_OF_ENDS: [&str; 19] = [
    "done",
    "slow",
    "drain",
    "token_expired",
    "revoked",
    "gone",
    "disabled",
    "overloaded",
    "shutdown",
    "client_gone",
    "cut",
    "problem",
    "bad_frame",
    "bad_kind",
    "bad_text",
    "too_big",
    "too_much",
    "closed",
    "superseded",
];
const QUERIES: [&str; 9] =
    ["users", "job_owners", "document_roles", "jobs", "existing", "write_back", "ping", "probe", "put"];
const SOURCES: [&str; 6] = ["redis", "inbox", "http", "publish", "channel_events", "database"];

/// The same with these series; whoever counts finds them.
pub(super) fn with(metrics: MetricSet) -> MetricSet {
    each(&metrics.ended, &REASONS_OF_ENDS);
    each(&metrics.conflated, &CHANNEL_KINDS);
    each(&metrics.resumes, &["live", "resumed", "reset"]);
    each(&metrics.broker_restarts, &["commands", "tail", "subscription", "calls", "rosters"]);
    each(&metrics.writeback, &["written", "failed", "overflow"]);
    each(&metrics.grants_cached, &["cache", "database", "stale", "unavailable"]);
    each(&metrics.tls_handshakes, &["done", "failed", "timeout"]);
    each(&metrics.tls_reloads, &["loaded", "failed"]);
    each(&metrics.spans, &["exported", "failed", "dropped"]);
    each(&metrics.inspector_forgotten, &["open", "ended"]);
    pairs(&metrics.connections, &["sse", "ws", "poll"], &["accepted", "denied", "limited", "error"]);
    pairs(&metrics.appends, &SOURCES, &["applied", "rejected", "behind", "done", "unknown", "failed"]);
    pairs(&metrics.store_queries, &QUERIES, &["ok", "timeout", "unreachable", "error"]);
    pairs(&metrics.rejected, &["redis", "channel_events"], &["overflow"]);
    pairs(&metrics.rejected, &["log", "rosters"], &["unreadable"]);
    pairs(&metrics.rejected, &["stream"], &["per_ip", "per_user", "connections_max", "admission"]);
    pairs(&metrics.rejected, &["connection"], &["per_ip", "connections_max", "silent"]);
    metrics
}

fn each(counter: &IntCounterVec, values: &[&str]) {
    for value in values {
        counter.with_label_values(&[value]);
    }
}

fn pairs(counter: &IntCounterVec, values: &[&str], seconds: &[&str]) {
    for value in values {
        for second in seconds {
            counter.with_label_values(&[value, second]);
        }
    }
}
