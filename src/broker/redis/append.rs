//! The calls of the scripts that append: as much of a batch as one call takes.

use crate::broker::EventAppend;
use crate::broker::JobAppend;
use crate::broker::Once;
use crate::broker::redis::Shared;
use crate::broker::redis::codec;
use crate::broker::redis::pack::Packed;
use crate::event::Fingerprint;

/// How long an `updateId` or the name of an append is remembered.
const ONCE_KEPT_MS: u64 = 600_000;
/// The same for the name of one request, which only this node asks for again, within seconds.
const ASKED_AGAIN_MS: u64 = 60_000;
/// Updates and bytes of one call of the append script, which nothing else in Redis runs beside. One update always fits.
const CALL_UPDATES_MAX: usize = 256;
const CALL_BYTES_MAX: usize = 512 * 1024;
/// What the buffer for packing keeps of its size.
const PACKED_BYTES_KEPT: usize = 128 * 1024;

impl Shared {
    /// The first arguments of the scripts that append.
    pub(super) fn push_limits(&self, call: &mut redis::Cmd) {
        let retention_ms = u64::try_from(self.settings.retention.as_millis()).unwrap_or(u64::MAX);
        call.arg(retention_ms).arg(self.settings.entries_max).arg(if self.trims() { "1" } else { "" });
    }

    /// The call of `publish.lua` for the first of these events, as many as one call takes, and their number.
    pub(super) fn publish_call(&self, batch: &[EventAppend<'_>]) -> (redis::Cmd, usize) {
        let (mut bytes, mut count) = (0, 0);
        for append in batch.iter().take(CALL_UPDATES_MAX) {
            bytes += append.event.data.len();
            if count > 0 && bytes > CALL_BYTES_MAX {
                break;
            }
            count += 1;
        }
        let mut call = redis::cmd("EVALSHA");
        call.arg(self.scripts.publish.get_hash()).arg(3 + count);
        call.arg(&self.keys.log).arg(&self.keys.meta).arg(&self.keys.milestones);
        let batch = batch.iter().take(count);
        for append in batch.clone() {
            call.arg(self.once_key(append.once.name()));
        }
        self.push_limits(&mut call);
        let mut head = Packed::default();
        for append in batch {
            let kept_ms = if append.once.may_come_again() { ONCE_KEPT_MS } else { ASKED_AGAIN_MS };
            head.truncate(0);
            let heard = append.once.raw().map(|raw| (append.event.channel.id(), Some(raw)));
            head.head(Fingerprint::random(), append.event.accepted_us, heard, append.trace);
            call.arg(kept_ms).arg(head.as_bytes()).arg(codec::event_text(append.event));
        }
        (call, count)
    }

    /// The call of `append.lua` for the first of these updates, as many as one call takes, and their fingerprints.
    pub(super) fn append_call(&self, batch: &[JobAppend<'_>]) -> (redis::Cmd, Vec<Fingerprint>) {
        // The buffer is kept: allocating and growing it costs more than filling it.
        let mut packed = self.packed.lock();
        packed.truncate(0);
        let room = batch.len().min(CALL_UPDATES_MAX);
        let (mut ends, mut prints) = (Vec::with_capacity(room), Vec::with_capacity(room));
        for append in batch.iter().take(CALL_UPDATES_MAX) {
            let before = packed.as_bytes().len();
            let print = packed.update(append, &self.terminal);
            if !ends.is_empty() && packed.as_bytes().len() > CALL_BYTES_MAX {
                packed.truncate(before);
                break;
            }
            ends.push(packed.as_bytes().len());
            prints.push(print);
        }
        let batch = batch.get(..ends.len()).unwrap_or_default();
        let named: Vec<String> = batch.iter().flat_map(|append| self.names(append)).collect();
        let mut call =
            redis::Cmd::with_capacity(batch.len() * 2 + 16, packed.as_bytes().len() + batch.len() * 64 + 256);
        call.arg("EVALSHA").arg(self.scripts.append.get_hash()).arg(4 + batch.len() + named.len());
        call.arg(&self.keys.log).arg(&self.keys.meta).arg(&self.keys.milestones).arg(&self.keys.inbox);
        let mut key = format!("{}:state:", self.settings.prefix);
        let stem = key.len();
        for append in batch {
            key.truncate(stem);
            key.push_str(append.update.job.as_str());
            call.arg(&key);
        }
        call.arg(named.as_slice());
        self.push_limits(&mut call);
        call.arg(ONCE_KEPT_MS);
        let mut from = 0;
        for end in ends {
            call.arg(packed.as_bytes().get(from..end).unwrap_or_default());
            from = end;
        }
        packed.shrink(PACKED_BYTES_KEPT);
        (call, prints)
    }

    /// The keys that an update has beside its job's: of its `updateId`, and of the append's own name.
    fn names(&self, append: &JobAppend<'_>) -> impl Iterator<Item = String> {
        let job = &append.update.job;
        let update = append.update.update_id.as_ref().map(|id| format!("{}:u:{job}:{id}", self.settings.prefix));
        let name = match &append.once {
            Once::Named(name) => Some(self.once_key(name)),
            Once::LateRaw(raw) => Some(self.once_key(&format!("late:{job}:{:020}-{:020}", raw.mark, raw.offset))),
            Once::Raw(_) | Once::Source(_) => None,
        };
        update.into_iter().chain(name)
    }
}
