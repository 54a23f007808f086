//! Which nodes are alive, and which of them owns a job. By the marks that every node hears, without any lease or clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::broker::Standing;
use crate::event::Id;

/// A node whose marks stay away for so long owns nothing. Marks come twice a second.
const SILENT_AFTER: Duration = Duration::from_millis(1800);

/// What the live nodes that have heard more say of what was sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elders {
    /// One of them had names for it.
    pub named: bool,
    /// All of it is judged.
    pub judged: bool,
}

/// The live nodes as this one hears them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Members {
    me: u64,
    heard: Arc<Mutex<HashMap<u64, Member>>>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    at: Instant,
    standing: Standing,
}

impl Member {
    fn is_alive(&self) -> bool {
        self.at.elapsed() < SILENT_AFTER
    }
}

impl Members {
    /// Only this node, until others are heard.
    #[must_use]
    pub fn new(me: u64) -> Self {
        Self { me, heard: Arc::default() }
    }

    /// This node's own number.
    #[must_use]
    pub fn me(&self) -> u64 {
        self.me
    }

    /// A mark of a node was heard.
    pub fn hear(&self, node: u64, standing: Standing) {
        let mut heard = self.heard.lock();
        heard.insert(node, Member { at: Instant::now(), standing });
        heard.retain(|_, member| member.at.elapsed() < SILENT_AFTER * 8);
    }

    /// What was heard of others over an earlier subscription says nothing about this one.
    pub fn forget(&self) {
        self.heard.lock().clear();
    }

    /// What those who have heard more than a node that began with the mark `since`, after `before` messages, say of the past.
    #[must_use]
    pub fn elders(&self, since: u64, before: u64) -> Elders {
        let heard = self.heard.lock();
        let others = heard.iter().filter(|(node, member)| **node != self.me && member.is_alive());
        let mut elders = Elders { named: false, judged: true };
        for standing in others.map(|(_, member)| member.standing) {
            // Who has not said since when it hears may have been there all along.
            let older = standing.since < since || (standing.since == since && standing.before > before);
            elders.judged &= !older || (standing.since > 0 && standing.floor >= since);
            elders.named |= standing.since > 0 && standing.since < since;
        }
        elders
    }

    /// Whether this node owns the job: rendezvous hashing, so that a node's death moves only its own jobs.
    #[must_use]
    pub fn owns(&self, job: &Id) -> bool {
        let mine = weight(self.me, job);
        let heard = self.heard.lock();
        let others = heard.iter().filter(|(node, member)| **node != self.me && member.is_alive());
        let mut owners = others.filter(|(_, member)| member.standing.caught_up);
        owners.all(|(node, _)| weight(*node, job) < mine)
    }

    /// Nodes alive, this one included.
    #[must_use]
    pub fn count(&self) -> usize {
        let heard = self.heard.lock();
        1 + heard.iter().filter(|(node, member)| **node != self.me && member.is_alive()).count()
    }
}

/// FNV-1a with a finisher: the same on every node and in every version, unlike the standard library's hasher.
fn weight(node: u64, job: &Id) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in node.to_le_bytes().iter().chain(job.as_str().as_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
