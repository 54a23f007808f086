//! `tidings tail`: channels in a terminal, resumed across interruptions like a browser would.

use std::io::Write as _;
use std::time::Duration;

use clap::Args;

use crate::auth;
use crate::cli::Failure;
use crate::cli::client;
use crate::cli::serve;
use crate::clock;
use crate::config::Config;
use crate::event::Id;

/// A stream that is silent for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(45);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// jobs.42, docs.d7, user.me, …
    #[arg(required = true)]
    channels: Vec<String>,
    /// The service; default: this machine
    #[arg(long)]
    url: Option<String>,
    /// A token; default: one made with `JWT_SECRET` for --user
    #[arg(long)]
    token: Option<String>,
    /// Whose eyes to look through
    #[arg(long, required_unless_present = "token")]
    user: Option<String>,
    /// Continue after this cursor
    #[arg(long)]
    cursor: Option<String>,
    /// Each event as a JSON object on a line: `cursor` (where the stream is after it), `event`, `data`
    #[arg(long)]
    json: bool,
}

/// What a line-oriented reader has to remember of a stream.
#[derive(Debug, Default)]
struct Reader {
    line: Vec<u8>,
    event: String,
    data: String,
    id: Option<String>,
    json: bool,
    finished: bool,
}

pub(super) async fn run(config: Config, options: Options) -> Result<(), Failure> {
    let token = match (&options.token, &options.user) {
        (Some(token), _) => token.clone(),
        (None, Some(user)) => mint(&config, user)?,
        (None, None) => return Err(Failure::settings("--user or --token is needed")),
    };
    let base = client::base_url(&config, options.url.as_deref());
    let url = format!("{base}/v1/events?channels={}", options.channels.join(","));
    let http = client::http()?;
    let mut reader = Reader { id: options.cursor.clone(), json: options.json, ..Reader::default() };
    loop {
        let mut request = http.get(&url).bearer_auth(&token).header("x-tidings-client", "tail");
        if let Some(id) = &reader.id {
            request = request.header("last-event-id", id);
        }
        match request.send().await {
            Ok(answer) if answer.status().is_success() => follow(answer, &mut reader).await,
            Ok(answer) if answer.status().is_client_error() => {
                return Err(Failure { line: answer.text().await.unwrap_or_default(), code: 1 });
            }
            Ok(answer) => eprintln!("tidings: {}; trying again", answer.status()),
            Err(error) => eprintln!("tidings: {error}; trying again"),
        }
        if reader.finished {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn mint(config: &Config, user: &str) -> Result<String, Failure> {
    if config.jwt_secret.expose().is_empty() {
        return Err(Failure::settings(serve::NO_KEY));
    }
    let user = Id::parse(user).map_err(|_| Failure::settings("--user: not an id"))?;
    Ok(auth::mint(&config.jwt_secret, &user, auth::Scopes::default(), clock::now_s(), 12 * 3600))
}

async fn follow(mut answer: reqwest::Response, reader: &mut Reader) {
    // Heartbeats come at least every 15 s: what is silent for longer is gone, whatever TCP says.
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(SILENCE_MAX, answer.chunk()).await {
        for byte in chunk {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&std::mem::take(&mut reader.line)).into_owned();
                reader.take(&line);
            } else {
                reader.line.push(byte);
            }
        }
    }
    reader.line.clear();
    (reader.event, reader.data) = (String::new(), String::new());
}

impl Reader {
    fn take(&mut self, line: &str) {
        if line.is_empty() {
            self.print();
        } else if let Some(id) = line.strip_prefix("id: ") {
            self.id = Some(id.to_owned());
        } else if let Some(event) = line.strip_prefix("event: ") {
            event.clone_into(&mut self.event);
        } else if let Some(data) = line.strip_prefix("data: ") {
            data.clone_into(&mut self.data);
        }
    }

    fn line_of_event(&self) -> String {
        if !self.json {
            return format!("{} {}", self.event, self.data);
        }
        let text = |text: Option<&str>| serde_json::to_string(&text).unwrap_or_default();
        let (cursor, event) = (text(self.id.as_deref()), text(Some(&self.event)));
        format!("{{\"cursor\":{cursor},\"event\":{event},\"data\":{}}}", self.data)
    }

    fn print(&mut self) {
        if self.event.is_empty() {
            return;
        }
        if self.event != "heartbeat" {
            let printed = writeln!(std::io::stdout(), "{}", self.line_of_event());
            // Whoever read us has gone (`| head`).
            self.finished |= printed.is_err();
        }
        self.finished |= self.event == "end" && self.data.contains("\"reconnect\":false");
        (self.event, self.data) = (String::new(), String::new());
    }
}
