//! The scenarios: what is started, published and asked, and in which order.

pub(crate) mod all;
pub(crate) mod fanout;
pub(crate) mod flood;
pub(crate) mod foreign;
pub(crate) mod growth;
pub(crate) mod idle;
mod kernel;
pub(crate) mod light;
pub(crate) mod own;
pub(crate) mod room;
pub(crate) mod soak;
pub(crate) mod storm;

use std::rc::Rc;

use serde_json::Map;
use serde_json::Value;

use crate::Failure;
use crate::field::Field;
use crate::field::Shape;
use crate::field::kept_up;
use crate::options::Server;
use crate::options::Setup;
use crate::options::Way;
use crate::postgres::Postgres;
use crate::processes;
use crate::report;

/// How often the gap between the last good rate and the first bad one is halved.
const REFINEMENTS: u32 = 2;
const SEARCH_WARMUP_S: f64 = 0.7;
const SEARCH_S: f64 = 2.0;
const STEPS_MAX: u32 = 24;

/// How the highest rate is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search {
    /// The first rate.
    pub(crate) from: f64,
    /// How many times the last good one the next is.
    pub(crate) step: f64,
    pub(crate) p99_us_max: u64,
}

/// What was found on the way.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) best: Option<Value>,
    pub(crate) steps: Vec<Value>,
}

/// What all scenarios of one run share.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) setup: Setup,
    postgres: Rc<Postgres>,
}

impl Bench {
    pub(crate) async fn new(mut setup: Setup) -> Result<Self, Failure> {
        setup.no_pin |= !processes::can_pin();
        if !setup.no_pin {
            processes::take_load_core()?;
        }
        Ok(Self { postgres: Rc::new(Postgres::start().await?), setup })
    }

    pub(crate) fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The same machine room with other wishes.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = self.setup.clone();
        change(&mut setup);
        Self { setup, postgres: Rc::clone(&self.postgres) }
    }

    /// Every server by every way; the bare ones right after the one that they are compared with, run by run.
    pub(crate) fn rounds(&self) -> impl Iterator<Item = (Server, Way)> + use<> {
        let Setup { servers, ways, repeat, .. } = self.setup.clone();
        let round = ways.into_iter().flat_map(move |way| servers.clone().into_iter().map(move |server| (server, way)));
        let round: Vec<(Server, Way)> = round.collect();
        let length = round.len();
        round.into_iter().cycle().take(length * repeat.max(1) as usize)
    }

    /// A server without any stream.
    pub(crate) async fn start(&self, server: Server, way: Way, shape: Shape) -> Result<Field, Failure> {
        Field::start(&self.setup, &self.postgres, server, way, shape).await
    }

    /// A server with all its streams.
    pub(crate) async fn open(&self, server: Server, way: Way, shape: Shape) -> Result<Field, Failure> {
        let mut field = self.start(server, way, shape).await?;
        field.open_all("open")?;
        Ok(field)
    }

    /// The highest rate at which all comes, with p99 below a bound: up by steps, then closer. A server that was overloaded
    /// is started anew, so that nothing of before waits in it.
    pub(crate) async fn search(
        &self,
        subject: (Server, Way),
        shape: &Shape,
        Search { from, step, p99_us_max }: Search,
    ) -> Result<Found, Failure> {
        let mut field = None;
        let (mut rate, mut best, mut bad, mut steps) = (from, None, f64::INFINITY, Vec::new());
        let (mut refinements, most) = (0, if self.setup.short { 1 } else { REFINEMENTS });
        for _ in 0..STEPS_MAX {
            let row = self.step(subject, shape, &mut field, (rate, p99_us_max)).await?;
            steps.push(row.clone());
            if kept_up(&row, p99_us_max) {
                best = Some(row);
            } else {
                bad = rate;
            }
            let good = best.as_ref().and_then(|row: &Value| row["rate"].as_f64());
            rate = match good {
                Some(good) if bad.is_infinite() => good * step,
                Some(_) if refinements == most => break,
                Some(good) => {
                    refinements += 1;
                    (good * bad).sqrt()
                }
                None => bad / step / step,
            }
            .round();
        }
        Ok(Found { best, steps })
    }

    /// One rate, and once more if it was too much: a hiccup of the machine is not the server's limit.
    async fn step(
        &self,
        (server, way): (Server, Way),
        shape: &Shape,
        field: &mut Option<Field>,
        (rate, p99_us_max): (f64, u64),
    ) -> Result<Value, Failure> {
        let (seconds, mut tries) = if self.setup.short { (SEARCH_S / 2.0, 1) } else { (SEARCH_S, 2) };
        loop {
            let mut opened = match field.take() {
                Some(field) => field,
                None => self.open(server, way, shape.clone()).await?,
            };
            let row = opened.publish(rate, SEARCH_WARMUP_S, seconds)?;
            tries -= 1;
            if kept_up(&row, p99_us_max) {
                *field = Some(opened);
                return Ok(row);
            }
            if tries == 0 {
                return Ok(row);
            }
        }
    }
}

/// Rows of the same thing from several runs, as medians, in the order of the first run.
pub(crate) fn medians(rows: Vec<Value>, keys: &[&str]) -> Vec<Value> {
    let mut groups: Vec<(Vec<Value>, Vec<Value>)> = Vec::new();
    for row in rows {
        let key: Vec<Value> = keys.iter().map(|key| row[*key].clone()).collect();
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, group)) => group.push(row),
            None => groups.push((key, vec![row])),
        }
    }
    groups.into_iter().map(|(_, group)| report::medians(&group)).collect()
}

/// Prints and keeps what one scenario has measured.
pub(crate) fn finish(setup: &Setup, name: &str, results: Vec<(&str, Vec<Value>)>) -> Result<bool, Failure> {
    let results: Map<String, Value> =
        results.into_iter().map(|(part, rows)| (part.to_owned(), Value::Array(rows))).collect();
    let good = results.values().all(|rows| rows.as_array().is_some_and(|rows| rows.iter().all(report::is_clean)));
    report::write(setup.json.as_deref(), &[(name.to_owned(), Value::Object(results))].into_iter().collect())?;
    Ok(good)
}
