//! Judgements that the log has shown before the subscription brought their messages. Both come from Redis, over two connections, and
//! either may be first; without this an update that is long judged would be taken for one that was passed over.

use std::collections::BTreeSet;

use crate::event::RawName;

/// Names kept at most: the log is ahead by milliseconds. What does not fit is held like any other update, and asked for again.
const AHEAD_MAX: usize = 20_000;

/// The names of what is judged and was not heard yet.
#[derive(Debug, Default)]
pub(super) struct Ahead(BTreeSet<RawName>);

impl Ahead {
    pub(super) fn add(&mut self, name: RawName) {
        if self.0.len() < AHEAD_MAX {
            self.0.insert(name);
        }
    }

    /// Whether it was judged; it is heard once.
    pub(super) fn take(&mut self, name: RawName) -> bool {
        self.0.remove(&name)
    }

    /// A mark was heard: whatever was sent before it has come, or never will.
    pub(super) fn mark(&mut self, number: u64) {
        if !self.0.is_empty() {
            self.0 = self.0.split_off(&RawName { mark: number, offset: 0 });
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[test]
fn names_are_forgotten_when_they_are_heard_or_passed() {
    let name = |mark, offset| RawName { mark, offset };
    let mut ahead = Ahead::default();
    [name(7, 1), name(7, 2), name(8, 1)].into_iter().for_each(|name| ahead.add(name));
    assert!(ahead.take(name(7, 2)) && !ahead.take(name(7, 2)));
    ahead.mark(8);
    assert!(!ahead.take(name(7, 1)) && ahead.take(name(8, 1)));
    (0..2 * AHEAD_MAX as u64).for_each(|at| ahead.add(name(9, at)));
    assert_eq!(ahead.0.len(), AHEAD_MAX);
}
