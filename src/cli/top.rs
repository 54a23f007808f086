//! `tidings top`: every instance at a glance, anew each second.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::io::Write as _;
use std::time::Duration;

use clap::Args;

use crate::cli::Failure;
use crate::cli::client;
use crate::cli::table::plain;
use crate::cli::table::size;
use crate::cli::table::table;
use crate::clock;
use crate::config::Config;
use crate::inspect::Instances;
use crate::inspect::LaneView;
use crate::inspect::Overview;
use crate::telemetry::Totals;

/// How often everybody is asked.
const EVERY: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its first line (ECMA-48 ED and CUP).
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";
/// Busy channels that are shown.
const CHANNELS_SHOWN: usize = 12;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The metrics port of any instance; default: this machine
    #[arg(long)]
    url: Option<String>,
    /// Once, over one second; also when the output is no terminal
    #[arg(long)]
    once: bool,
    /// What the instances answer, one JSON object a line; ends with --once, or with whoever reads
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, options: Options) -> Result<(), Failure> {
    let base = client::inspector_url(&config, options.url.as_deref());
    let once = options.once || (!options.json && !std::io::stdout().is_terminal());
    let mut before = HashMap::new();
    loop {
        let text = client::inspect(&base, "instances", &[]).await;
        let shown = match &text {
            // Somebody who watches wants to see it come back.
            Err(failure) if !once && !before.is_empty() => format!("{CLEAR}{}; trying again\n", failure.line),
            Err(_) => return text.map(drop),
            Ok(text) if options.json => format!("{text}\n"),
            Ok(text) => {
                let told: Instances = client::read(text)?;
                let drawn = draw(&base, &told, &before);
                // A rate is the difference of two readings.
                let is_first = before.is_empty();
                before = told.instances.into_iter().map(|one| (one.node.clone(), one)).collect();
                match (is_first, once) {
                    (true, true) => String::new(),
                    (_, true) => drawn,
                    (_, false) => format!("{CLEAR}{drawn}"),
                }
            }
        };
        let done = once && !shown.is_empty();
        let mut out = std::io::stdout();
        let written = out.write_all(shown.as_bytes()).and_then(|()| out.flush());
        // Whoever read us has gone (`| head`).
        if done || written.is_err() {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn draw(base: &str, told: &Instances, before: &HashMap<String, Overview>) -> String {
    let titles = [
        "INSTANCE",
        "STATE",
        "SSE",
        "WS",
        "POLL",
        "IN/s",
        "OUT/s",
        "DELIVERY",
        "LAGGING",
        "BACKLOG",
        "REFUSED/s",
        "LOG",
    ];
    let rows: Vec<Vec<String>> = told.instances.iter().map(|now| row(now, before.get(&now.node))).collect();
    let now = clock::rfc3339(clock::now_us());
    let complete = if told.complete { "" } else { ", not all have answered" };
    let mut text = format!("tidings top  {}  {now}  {} instances{complete}\n\n", plain(base), rows.len());
    text.push_str(&table(&titles, &rows));
    let channels = channels(told);
    if !channels.is_empty() {
        text.push_str(&format!("\n{}\n", table(&["CHANNEL", "EVENTS/10s", "STREAMS"], &channels).trim_end()));
    }
    text
}

fn row(now: &Overview, before: Option<&Overview>) -> Vec<String> {
    let state = match (now.draining, now.ready) {
        (true, _) => "leaving",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    let rate = |pick: fn(&Totals) -> u64| per_second(now, before, pick);
    let sum = |pick: fn(&LaneView) -> usize| now.lanes.iter().map(pick).sum::<usize>();
    let [sse, ws, poll] = now.streams;
    let backlog = format!("{} / {}", sum(|lane| lane.waiting_events), size(sum(|lane| lane.waiting_bytes)));
    vec![
        now.node.clone(),
        state.to_owned(),
        sse.to_string(),
        ws.to_string(),
        poll.to_string(),
        rate(|totals| totals.appended),
        rate(|totals| totals.sent),
        delivery(now, before),
        sum(|lane| lane.lagging).to_string(),
        backlog,
        rate(|totals| totals.refused),
        now.log.head.clone(),
    ]
}

fn per_second(now: &Overview, before: Option<&Overview>, pick: fn(&Totals) -> u64) -> String {
    let Some(before) = before.filter(|before| before.at_ms < now.at_ms) else { return "–".to_owned() };
    let more = pick(&now.totals).saturating_sub(pick(&before.totals));
    (more.saturating_mul(1000) / (now.at_ms - before.at_ms)).to_string()
}

/// How long events of this interval took from their acceptance to the write, on average.
#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn delivery(now: &Overview, before: Option<&Overview>) -> String {
    let Some(before) = before else { return "–".to_owned() };
    let events = now.totals.delivered.saturating_sub(before.totals.delivered);
    if events == 0 {
        return "–".to_owned();
    }
    format!("{:.1} ms", (now.totals.delivery_seconds - before.totals.delivery_seconds) * 1000.0 / events as f64)
}

/// Every instance has the same log, so events are counted once and streams are summed.
fn channels(told: &Instances) -> Vec<Vec<String>> {
    let mut known: HashMap<&str, (usize, usize)> = HashMap::new();
    for busy in told.instances.iter().flat_map(|instance| &instance.channels) {
        let (events, streams) = known.entry(&busy.channel).or_default();
        (*events, *streams) = ((*events).max(busy.events), *streams + busy.streams);
    }
    let mut busiest: Vec<(&str, (usize, usize))> = known.into_iter().collect();
    busiest.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(other.0)));
    let rows = busiest.into_iter().take(CHANNELS_SHOWN);
    rows.map(|(name, (events, streams))| vec![name.to_owned(), events.to_string(), streams.to_string()]).collect()
}
