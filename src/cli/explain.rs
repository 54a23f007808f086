//! `tidings explain`: what became of an event for a user, asked of every instance.

use std::io::Write as _;

use clap::Args;
use serde::Deserialize;

use crate::cli::Failure;
use crate::cli::client;
use crate::cli::table::plain;
use crate::cli::table::size;
use crate::cli::table::table;
use crate::clock;
use crate::config::Config;
use crate::inspect::Account;
use crate::inspect::Explanation;
use crate::inspect::Finding;
use crate::inspect::LifeView;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Who did not get it
    #[arg(long)]
    user: String,
    /// The channel; without one, the user's streams are listed
    #[arg(long)]
    channel: Option<String>,
    /// The event, by its cursor or its position; default: the newest ones of the channel
    #[arg(long, requires = "channel")]
    event: Option<String>,
    /// The metrics port of any instance; default: this machine
    #[arg(long)]
    url: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Streams {
    instances: Vec<Account>,
    complete: bool,
}

pub(super) async fn run(config: Config, options: Options) -> Result<(), Failure> {
    let base = client::inspector_url(&config, options.url.as_deref());
    let (channel, event) = (options.channel.as_deref(), options.event.as_deref());
    let query: Vec<(&str, &str)> = std::iter::once(("user", options.user.as_str()))
        .chain(channel.map(|channel| ("channel", channel)))
        .chain(event.map(|event| ("event", event)))
        .collect();
    let path = if channel.is_some() { "explain" } else { "streams" };
    let text = client::inspect(&base, path, &query).await?;
    let told = if options.json {
        text + "\n"
    } else if channel.is_some() {
        explanation(&client::read(&text)?)
    } else {
        let streams: Streams = client::read(&text)?;
        let accounts: String = streams.instances.iter().map(account).collect();
        if streams.complete { accounts } else { accounts + "\nnot every instance has answered\n" }
    };
    // Whoever reads us may have gone (`| head`).
    drop(std::io::stdout().write_all(told.as_bytes()));
    Ok(())
}

fn explanation(explanation: &Explanation) -> String {
    let mut text: String = explanation.says.iter().map(|line| format!("{}\n", plain(line))).collect();
    if explanation.permission == "granted" {
        let Explanation { user, channel, .. } = explanation;
        text.push_str(&format!("the database grants {} to {}\n", plain(channel), plain(user)));
    }
    if !explanation.events.is_empty() {
        let titles = ["POSITION", "LOG", "EVENT", "SIZE", "ACCEPTED", "CURSOR"];
        text.push('\n');
        text.push_str(&table(&titles, &explanation.events.iter().map(event).collect::<Vec<_>>()));
    }
    text.extend(explanation.instances.iter().map(account));
    text
}

fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn or_none(value: Option<String>) -> String {
    value.unwrap_or_else(|| "–".to_owned())
}

fn time(ms: u64) -> String {
    clock::rfc3339(ms.saturating_mul(1000))
}

fn event(event: &Finding) -> Vec<String> {
    vec![
        event.at.clone(),
        word(&event.logged),
        or_none(event.event.clone()),
        or_none(event.bytes.map(size)),
        or_none(event.accepted_ms.map(time)),
        or_none(event.cursor.clone()),
    ]
}

fn account(account: &Account) -> String {
    let mut text = format!("\ninstance {}", plain(&account.node));
    if !account.inspector {
        return text + ": INSPECTOR is off\n";
    }
    let (head, since) = (plain(&account.head), time(account.since_ms));
    text.push_str(&format!(": its log has come to {head}; remembers since {since}\n"));
    if account.lives.is_empty() {
        text.push_str("  no stream of this user\n");
    }
    account.lives.iter().for_each(|one| text.push_str(&life(one)));
    if account.more > 0 {
        text.push_str(&format!("  and {} streams more\n", account.more));
    }
    for dropped in &account.rejections {
        text.push_str(&format!("  update dropped {}: {}\n", time(dropped.at_ms), plain(&dropped.what)));
    }
    for refusal in &account.refusals {
        let (at, code, channels) = (time(refusal.at_ms), plain(&refusal.what), plain(&refusal.channels));
        text.push_str(&format!("  refused {at}: {code} for {channels}\n"));
    }
    text
}

fn life(life: &LifeView) -> String {
    let (connection, transport, verdict) = (plain(&life.connection), plain(&life.transport), plain(&life.verdict));
    let mut text = format!("  stream {connection} ({transport}): opened {}, {verdict}", time(life.opened_ms));
    let mut add = |part: String| text.push_str(&plain(&part));
    life.reset.iter().for_each(|reason| add(format!(" ({reason})")));
    life.resumed_from.iter().for_each(|from| add(format!(" from {from}")));
    life.session.iter().for_each(|session| add(format!(", session {session}")));
    if life.connections > 1 {
        add(format!(", {} polls", life.connections));
    }
    match (&life.ended, life.ended_ms) {
        (Some(reason), Some(at)) => add(format!(", ended {} ({reason})", time(at))),
        _ if life.joined.is_none() => add(", catching up".to_owned()),
        _ => add(", open".to_owned()),
    }
    if life.superseded + life.dropped > 0 {
        add(format!(", {} superseded, {} dropped", life.superseded, life.dropped));
    }
    life.waiting.iter().for_each(|waits| add(format!(", {} events wait ({})", waits.events, size(waits.bytes))));
    text.push('\n');
    let more = if life.more_channels > 0 { format!(" and {} more", life.more_channels) } else { String::new() };
    text.push_str(&format!("    carries {}{more}\n", plain(&life.channels.join(" "))));
    for (channel, code) in &life.denied {
        text.push_str(&format!("    denied {}: {}\n", plain(channel), plain(code)));
    }
    for fate in &life.fates {
        text.push_str(&format!("    {} {}: {}\n", plain(&fate.at), word(&fate.outcome), plain(&fate.says)));
    }
    text
}
