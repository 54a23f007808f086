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

use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use mio::Interest;
use mio::Registry;
use mio::Token;
use mio::unix::SourceFd;
use serde_json::Value;

use crate::Failure;
use crate::now_us;
use crate::reader::Reader;
use crate::report::quantiles;

/// How long opening all of them may take.
const OPEN_MAX_US: u64 = 60_000_000;

/// An order that is not answered yet.
#[derive(Debug, Clone, Copy)]
enum Pending {
    Open { since_us: u64 },
    Report { until_us: u64, sent: u64, jobs: u64, expected: u64 },
}

#[derive(Debug)]
pub(crate) struct Orders {
    unread: Vec<u8>,
    pending: Option<Pending>,
}

impl Orders {
    pub(crate) fn new(registry: &Registry, token: Token) -> Result<Self, Failure> {
        registry.register(&mut SourceFd(&std::io::stdin().as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { unread: Vec::new(), pending: None })
    }

    /// Reads what there is: a line is shorter than a pipe, and written at once. `false`: whoever started us is gone.
    pub(crate) fn hear(&mut self) -> Result<bool, Failure> {
        let mut some = [0; 4096];
        let read = std::io::stdin().read(&mut some)?;
        self.unread.extend_from_slice(&some[..read]);
        Ok(read > 0)
    }

    /// Does what was ordered, one order after the other, and answers what has come about.
    pub(crate) fn look(&mut self, reader: &mut Reader) -> Result<(), Failure> {
        if let Some(pending) = self.pending {
            let Some(answer) = answer(pending, reader) else { return Ok(()) };
            self.pending = None;
            say(&answer)?;
        }
        while self.pending.is_none()
            && let Some(end) = self.unread.iter().position(|byte| *byte == b'\n')
        {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            self.obey(&String::from_utf8(line)?, reader)?;
        }
        Ok(())
    }

    fn obey(&mut self, line: &str, reader: &mut Reader) -> Result<(), Failure> {
        let mut words = line.split_whitespace();
        let order = words.next().unwrap_or_default();
        let numbers: Vec<f64> = words.map(str::parse).collect::<Result<_, _>>()?;
        let number = |at: usize| crate::number::to_u64(numbers.get(at).copied().unwrap_or_default());
        match order {
            "open" => reader.open_all(),
            "cut" => {
                reader.close_all();
                reader.open_all();
            }
            "close" => reader.close_all(),
            "phase" => reader.tally.begin(number(0)),
            "skip" => {
                reader.tally.skip_to(number(0), number(1));
                reader.streams.iter_mut().for_each(super::Stream::forget_cursor);
            }
            "churn" => reader.churn = numbers.first().copied().unwrap_or_default(),
            "report" | "seen" => {}
            unknown => return Err(format!("unknown order {unknown:?}").into()),
        }
        match order {
            "open" | "cut" => self.pending = Some(Pending::Open { since_us: now_us() }),
            "report" => {
                let (sent, jobs) = (number(0), number(1));
                let until_us = now_us() + number(2) * 1_000_000;
                let expected = reader.tally.expected(sent, jobs);
                self.pending = Some(Pending::Report { until_us, sent, jobs, expected });
            }
            "seen" => say(&reader.tally.to_json())?,
            _ => say(&serde_json::json!({ "done": order }))?,
        }
        Ok(())
    }
}

fn answer(pending: Pending, reader: &mut Reader) -> Option<Value> {
    let now = now_us();
    match pending {
        Pending::Open { since_us } => {
            let done = reader.waiting.is_empty() && reader.opening == 0;
            (done || now > since_us + OPEN_MAX_US).then(|| {
                serde_json::json!({
                    "open": reader.open,
                    "seconds": (now - since_us) as f64 / 1e6,
                    "openedUs": quantiles(&reader.opened_us),
                    "seen": reader.tally.to_json(),
                })
            })
        }
        Pending::Report { until_us, sent, jobs, expected } => {
            let all = reader.tally.reached >= expected && reader.tally.is_level(reader.streams.len());
            (all || now > until_us).then(|| {
                reader.tally.close(sent, jobs);
                reader.tally.to_json()
            })
        }
    }
}

fn say(line: &Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
