//! What all streams together have seen.

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::Failure;
use crate::options::ReaderRole;
use crate::report::quantiles;
use crate::report::us_histogram;

const COMPLAINTS_MAX: usize = 5;

/// Which numbers a stream must see.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// Each stream has so many jobs of its own.
    Own(u64),
    /// So many jobs are the streams' in turn, and each is heard by several.
    Groups(u64),
    /// All streams have the same channel.
    Shared,
}

#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) shape: Shape,
    /// Jobs of streams are so far from each other.
    spread: u64,
    /// Of so many streams only the first is looked at.
    sample: usize,
    /// Of the streams that are looked at, and of the others.
    pub(crate) bytes_read: u64,
    pub(crate) bytes_drained: u64,
    /// The last number of each job (or of each stream, where all have one job).
    last: Vec<u64>,
    /// The sum of those.
    pub(crate) reached: u64,
    /// The only phase of which latencies count.
    phase: u64,
    latency_us: Histogram<u64>,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) resets: u64,
    pub(crate) ends: u64,
    /// Cut by the server, or never opened.
    pub(crate) disconnected: u64,
    complaints: Vec<String>,
}

impl Tally {
    pub(crate) fn new(shape: Shape, streams: usize, role: &ReaderRole) -> Result<Self, Failure> {
        let (spread, sample) = (role.spread, role.sample);
        let jobs = match shape {
            Shape::Own(each) => streams * usize::try_from(each)?,
            Shape::Groups(_) => streams,
            Shape::Shared => streams.div_ceil(sample),
        };
        let (reached, phase, lost, repeated, out_of_order) = (0, 0, 0, 0, 0);
        let (resets, ends, disconnected, complaints) = (0, 0, 0, Vec::new());
        let (last, latency_us) = (vec![0; jobs], us_histogram());
        Ok(Self {
            shape,
            spread,
            sample,
            bytes_read: 0,
            bytes_drained: 0,
            last,
            reached,
            phase,
            latency_us,
            lost,
            repeated,
            out_of_order,
            resets,
            ends,
            disconnected,
            complaints,
        })
    }

    pub(crate) fn hear(&mut self, stream: usize, stamp: super::sse::Stamp, now_us: u64) {
        let slot = match self.shape {
            Shape::Own(_) => usize::try_from(stamp.job / self.spread).unwrap_or(usize::MAX),
            Shape::Groups(_) => stream,
            Shape::Shared => stream / self.sample,
        };
        let Some(last) = self.last.get_mut(slot) else { return };
        match stamp.n {
            n if n > *last => {
                self.lost += n - *last - 1;
                self.reached += n - *last;
                *last = n;
            }
            n if n == *last => self.repeated += 1,
            _ => self.out_of_order += 1,
        }
        if stamp.phase == self.phase && self.phase > 0 {
            self.latency_us.saturating_record(now_us.saturating_sub(stamp.sent_us).max(1));
        }
    }

    pub(crate) fn complain(&mut self, why: &str) {
        self.disconnected += 1;
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(why.to_owned());
        }
    }

    /// From now on only this phase is measured. The faults of before are told by then.
    pub(crate) fn begin(&mut self, phase: u64) {
        self.phase = phase;
        self.latency_us.reset();
        (self.lost, self.repeated, self.out_of_order) = (0, 0, 0);
        (self.resets, self.ends, self.disconnected) = (0, 0, 0);
        (self.bytes_read, self.bytes_drained) = (0, 0);
        self.complaints.clear();
    }

    /// Streams begin anew without cursors: what came meanwhile is not theirs. `sent` updates went to `jobs` in turn.
    pub(crate) fn skip_to(&mut self, sent: u64, jobs: u64) {
        let (shape, spread) = (self.shape, self.spread);
        for (slot, last) in self.last.iter_mut().enumerate() {
            *last = due(shape, slot, spread, sent, jobs);
        }
        self.reached = self.last.iter().sum();
    }

    /// What `reached` will be when everything has come.
    pub(crate) fn expected(&self, sent: u64, jobs: u64) -> u64 {
        (0..self.last.len()).map(|slot| due(self.shape, slot, self.spread, sent, jobs)).sum()
    }

    /// Whether the streams that are only drained have been sent as much as the others, but for a heartbeat.
    pub(crate) fn is_level(&self, streams: usize) -> bool {
        let looked_at = streams.div_ceil(self.sample);
        let each = self.bytes_read / looked_at.max(1) as u64;
        self.bytes_drained >= (each * (streams - looked_at) as u64) / 100 * 99
    }

    /// Counts what has not come as lost.
    pub(crate) fn close(&mut self, sent: u64, jobs: u64) {
        let (shape, spread) = (self.shape, self.spread);
        let missing = |(slot, last): (usize, &u64)| due(shape, slot, spread, sent, jobs).saturating_sub(*last);
        self.lost += self.last.iter().enumerate().map(missing).sum::<u64>();
    }

    pub(crate) fn to_json(&self) -> Value {
        serde_json::json!({
            "delivered": self.latency_us.len(),
            "bytesRead": self.bytes_read,
            "bytesDrained": self.bytes_drained,
            "lost": self.lost,
            "repeated": self.repeated,
            "outOfOrder": self.out_of_order,
            "resets": self.resets,
            "ends": self.ends,
            "disconnected": self.disconnected,
            "complaints": self.complaints,
            "latencyUs": quantiles(&self.latency_us),
        })
    }
}

/// How many of `sent` updates, which went to `jobs` jobs in turn, were for this slot.
fn due(shape: Shape, slot: usize, spread: u64, sent: u64, jobs: u64) -> u64 {
    let job = match shape {
        Shape::Own(_) => slot as u64 * spread,
        Shape::Groups(each) => slot as u64 % each.max(1),
        Shape::Shared => 0,
    };
    if job < jobs { (sent + jobs - 1 - job) / jobs } else { 0 }
}
