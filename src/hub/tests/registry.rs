//! The registry against sets of pairs.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::event::Channel;
use crate::hub::registry::Registry;

fn channel(number: u8) -> Channel {
    Channel::parse(&format!("docs.{number}")).unwrap()
}

proptest! {
    /// Whoever comes and goes: a channel's subscribers are those who subscribed and are still there, keys of the gone find
    /// nobody, and channels without subscribers leave nothing behind.
    #[test]
    fn it_knows_who_listens(steps in proptest::collection::vec((0u8..3, proptest::collection::btree_set(0u8..6, 0..5), 0usize..64), 1..200)) {
        let mut registry = Registry::<u64>::default();
        let mut model: BTreeMap<u32, (crate::hub::wire::Key, u64, BTreeSet<u8>)> = BTreeMap::new();
        let mut gone = Vec::new();
        for (number, (step, channels, which)) in steps.into_iter().enumerate() {
            let slot = model.keys().nth(which % model.len().max(1)).copied();
            match (step, slot) {
                (0, Some(slot)) => {
                    let (key, value, _) = model.remove(&slot).unwrap();
                    prop_assert_eq!(registry.remove(slot), Some(value));
                    gone.push(key);
                }
                (1, Some(slot)) => {
                    let channels = std::mem::take(&mut model.get_mut(&slot).unwrap().2);
                    prop_assert_eq!(registry.unsubscribe(slot), channels.len());
                }
                _ => {
                    let names: Vec<Channel> = channels.iter().map(|number| channel(*number)).collect();
                    let value = number as u64;
                    let key = registry.insert(value, &names);
                    model.insert(key.slot, (key, value, channels));
                }
            }
            registry.shrink();
            for number in 0..6 {
                let mut found: Vec<u32> = registry.subscribers(&channel(number)).into_iter().flat_map(|(_, all)| all).map(|s| s.slot).collect();
                found.sort_unstable();
                let wanted: Vec<u32> =
                    model.iter().filter(|(_, (.., of))| of.contains(&number)).map(|(slot, _)| *slot).collect();
                prop_assert_eq!(found, wanted);
            }
            let listened: BTreeSet<u8> = model.values().flat_map(|(.., of)| of.iter().copied()).collect();
            prop_assert_eq!(registry.topics(), listened.len());
            prop_assert_eq!(registry.len(), model.len());
            prop_assert!(gone.iter().all(|key| registry.get(*key).is_none()));
            prop_assert!(model.values().all(|(key, value, _)| registry.get(*key).copied() == Some(*value)));
        }
    }
}
