//! What the scenario tells the reader, a line each, and the answers, a line of JSON each.
//!
//! | order | answer |
//! |---|---|
//! | `open` | how many are ready, when all are or the time is over |
//! | `close` | when all are closed |
//! | `cut` | closes all at once and opens them again with their cursors; as `open` |
//! | `phase P` | only that phase counts from now on |
//! | `report SENT JOBS SECONDS` | what was seen, when all that was sent has come or the time is over |
//! | `seen` | what was seen so far |
//! | `skip SENT JOBS` | nothing that was sent so far is waited for; cursors are forgotten |
//! | `churn RATE` | streams come and go from now on, so many a second |

use std::io::Write as _;

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::Failure;
use crate::now_us;
use crate::reader::tally::Tally;
use crate::report::quantiles;

/// How long opening all of them may take.
const OPEN_MAX_US: u64 = 60_000_000;

/// What orders are about, whatever the streams run over.
pub(crate) trait Streams {
    fn count(&self) -> usize;
    /// How many are ready.
    fn open(&self) -> usize;
    /// Whether any waits to be opened, or is being opened.
    fn is_opening(&self) -> bool;
    /// How long each opening took, from connecting to `ready`.
    fn opened_us(&self) -> &Histogram<u64>;
    fn tally(&mut self) -> &mut Tally;
    fn open_all(&mut self);
    fn close_all(&mut self);
    fn forget_cursors(&mut self);
    /// So many a second come and go.
    fn churn(&mut self, rate: f64);
}

/// An order that is not answered yet.
#[derive(Debug, Clone, Copy)]
enum Pending {
    Open { since_us: u64 },
    Report { until_us: u64, sent: u64, jobs: u64, expected: u64 },
}

#[derive(Debug, Default)]
pub(crate) struct Orders {
    unread: Vec<u8>,
    pending: Option<Pending>,
}

impl Orders {
    /// Some bytes of the lines.
    pub(crate) fn give(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// Does what was ordered, one order after the other, and answers what has come about.
    pub(crate) fn look(&mut self, streams: &mut impl Streams) -> Result<(), Failure> {
        if let Some(pending) = self.pending {
            let Some(answer) = answer(pending, streams) else { return Ok(()) };
            self.pending = None;
            say(&answer)?;
        }
        while self.pending.is_none()
            && let Some(end) = self.unread.iter().position(|byte| *byte == b'\n')
        {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            self.obey(&String::from_utf8(line)?, streams)?;
        }
        Ok(())
    }

    fn obey(&mut self, line: &str, streams: &mut impl Streams) -> Result<(), Failure> {
        let mut words = line.split_whitespace();
        let order = words.next().unwrap_or_default();
        let numbers: Vec<f64> = words.map(str::parse).collect::<Result<_, _>>()?;
        let number = |at: usize| crate::number::to_u64(numbers.get(at).copied().unwrap_or_default());
        match order {
            "open" => streams.open_all(),
            "cut" => {
                streams.close_all();
                streams.open_all();
            }
            "close" => streams.close_all(),
            "phase" => streams.tally().begin(number(0)),
            "skip" => {
                streams.tally().skip_to(number(0), number(1));
                streams.forget_cursors();
            }
            "churn" => streams.churn(numbers.first().copied().unwrap_or_default()),
            "report" | "seen" => {}
            unknown => return Err(format!("unknown order {unknown:?}").into()),
        }
        match order {
            "open" | "cut" => self.pending = Some(Pending::Open { since_us: now_us() }),
            "report" => {
                let (sent, jobs) = (number(0), number(1));
                let until_us = now_us() + number(2) * 1_000_000;
                let expected = streams.tally().expected(sent, jobs);
                self.pending = Some(Pending::Report { until_us, sent, jobs, expected });
            }
            "seen" => say(&streams.tally().to_json())?,
            _ => say(&serde_json::json!({ "done": order }))?,
        }
        Ok(())
    }
}

fn answer(pending: Pending, streams: &mut impl Streams) -> Option<Value> {
    let now = now_us();
    match pending {
        Pending::Open { since_us } => {
            let done = !streams.is_opening();
            (done || now > since_us + OPEN_MAX_US).then(|| {
                serde_json::json!({
                    "open": streams.open(),
                    "seconds": (now - since_us) as f64 / 1e6,
                    "openedUs": quantiles(streams.opened_us()),
                    "seen": streams.tally().to_json(),
                })
            })
        }
        Pending::Report { until_us, sent, jobs, expected } => {
            let count = streams.count();
            let all = streams.tally().reached >= expected && streams.tally().is_level(count);
            (all || now > until_us).then(|| {
                streams.tally().close(sent, jobs);
                streams.tally().to_json()
            })
        }
    }
}

fn say(line: &Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
