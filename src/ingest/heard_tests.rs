//! The queue of heard events: several nodes, one log, deaths and lost answers at any moment. Each event once, in order.

use std::collections::HashMap;
use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use crate::event::Id;
use crate::event::RawName;
use crate::ingest::Publication;
use crate::ingest::heard::HELD_MAX;
use crate::ingest::heard::Heard;
use crate::ingest::heard::HeardQueue;
use crate::ingest::raw::HOLD;

fn publication(resource: u8, n: usize) -> Publication {
    Publication::parse(format!(r#"{{"channel":"docs.{resource}","data":{{"n":{n}}}}}"#).as_bytes(), 0).unwrap()
}

fn id(resource: u8) -> Id {
    Id::parse(&resource.to_string()).unwrap()
}

fn text(publication: &Publication) -> String {
    publication.event.data.to_string()
}

/// What the script does: takes a name once.
#[derive(Default)]
struct Log {
    names: HashSet<(Id, RawName)>,
    entries: Vec<(Id, RawName, String)>,
}

impl Log {
    fn append(&mut self, batch: &[Heard]) {
        for heard in batch {
            if self.names.insert((heard.resource.clone(), heard.name)) {
                self.entries.push((heard.resource.clone(), heard.name, text(&heard.publication)));
            }
        }
    }
}

#[derive(Default)]
struct Node {
    queue: HeardQueue,
    alive: bool,
    caught_up: bool,
    since: u64,
    mark: u64,
    read: usize,
    under_way: Vec<Heard>,
}

impl Node {
    fn floor(&self) -> u64 {
        self.queue.floor().unwrap_or(u64::MAX).min(self.mark)
    }

    fn read(&mut self, log: &Log) {
        for (resource, name, _) in &log.entries[self.read..] {
            self.queue.judged(resource, *name);
        }
        self.read = log.entries.len();
    }
}

struct World {
    nodes: Vec<Node>,
    log: Log,
    sent: HashMap<Id, Vec<String>>,
    marks: u64,
    now: Instant,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish(u8),
    Skip,
    Mark,
    Batch(usize),
    Answer(usize, bool, bool),
    Tail(usize),
    Wait(u64),
    Join,
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0_usize..5;
    prop_oneof![
        8 => (0_u8..3).prop_map(Step::Publish),
        1 => Just(Step::Skip),
        3 => Just(Step::Mark),
        6 => node.clone().prop_map(Step::Batch),
        6 => (node.clone(), any::<bool>(), any::<bool>()).prop_map(|(node, done, said)| Step::Answer(node, done, said)),
        4 => node.clone().prop_map(Step::Tail),
        3 => (1_u64..400).prop_map(Step::Wait),
        1 => Just(Step::Join),
        1 => node.prop_map(Step::Kill),
    ]
}

impl World {
    fn new() -> Self {
        let mut world =
            Self { nodes: Vec::new(), log: Log::default(), sent: HashMap::new(), marks: 0, now: Instant::now() };
        world.join();
        world.step(Step::Mark);
        world
    }

    fn alive(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.iter_mut().filter(|node| node.alive)
    }

    fn join(&mut self) {
        let mut node = Node { alive: true, read: self.log.entries.len(), ..Node::default() };
        node.queue.subscribed(!self.nodes.iter().any(|node| node.alive));
        self.nodes.push(node);
    }

    /// The node of the lowest number that has caught up owns the even resources, the last one the others.
    fn owner(&self, resource: &Id) -> usize {
        let mut able = (0..self.nodes.len()).filter(|at| self.nodes[*at].alive && self.nodes[*at].caught_up);
        let even = resource.as_str().parse::<u8>().unwrap().is_multiple_of(2);
        (if even { able.next() } else { able.next_back() }).unwrap_or(0)
    }

    fn look(&mut self) {
        for at in 0..self.nodes.len() {
            let others: Vec<(u64, u64)> = (0..self.nodes.len())
                .filter(|other| *other != at && self.nodes[*other].alive)
                .map(|other| (self.nodes[other].since, self.nodes[other].floor()))
                .collect();
            let node = &mut self.nodes[at];
            if node.alive && node.since > 0 && !node.caught_up {
                let older: Vec<_> = others.iter().filter(|(since, _)| *since < node.since).collect();
                let judged = older.iter().all(|(since, floor)| *since > 0 && *floor >= node.since);
                if judged {
                    node.caught_up = true;
                    node.queue.catch_up(true, !older.is_empty());
                }
            }
            assert_eq!(node.queue.look(self.now), 0);
        }
    }

    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Publish(resource) => {
                let sent = self.sent.entry(id(resource)).or_default();
                let n = sent.len();
                sent.push(text(&publication(resource, n)));
                self.alive().for_each(|node| assert!(node.queue.hear(id(resource), publication(resource, n), 10, now)));
            }
            Step::Skip => self.alive().for_each(|node| node.queue.skip()),
            Step::Mark => {
                self.marks += 1;
                let mark = self.marks;
                for node in self.alive() {
                    node.queue.mark(mark, now);
                    node.mark = mark;
                    node.since = if node.since == 0 { mark } else { node.since };
                }
                self.look();
            }
            Step::Batch(at) => {
                if !self.nodes.get(at).is_some_and(|node| node.alive && node.under_way.is_empty()) {
                    return;
                }
                let mut queue = std::mem::take(&mut self.nodes[at].queue);
                self.nodes[at].under_way = queue.next_batch(|resource| self.owner(resource) == at, now);
                self.nodes[at].queue = queue;
            }
            Step::Answer(at, done, said) => {
                let Some(node) = self.nodes.get_mut(at).filter(|node| !node.under_way.is_empty()) else { return };
                let batch = std::mem::take(&mut node.under_way);
                if done {
                    self.log.append(&batch);
                }
                node.queue.done(&batch, done && said, now);
            }
            Step::Tail(at) => {
                let log = &self.log;
                self.nodes.get_mut(at).into_iter().for_each(|node| node.read(log));
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                self.look();
            }
            Step::Join => {
                if self.nodes.len() < 5 {
                    self.join();
                }
            }
            // One that has heard everything stays.
            Step::Kill(at) => {
                let keeps = (0..self.nodes.len())
                    .any(|other| other != at && self.nodes[other].alive && self.nodes[other].caught_up);
                if let Some(node) = self.nodes.get_mut(at).filter(|_| keeps) {
                    node.alive = false;
                }
            }
        }
    }

    /// All is appended in the end, by whoever lives.
    fn settle(&mut self) {
        for _ in 0..50 {
            self.step(Step::Mark);
            self.step(Step::Wait(400));
            for at in 0..self.nodes.len() {
                self.step(Step::Batch(at));
                self.step(Step::Answer(at, self.nodes[at].alive, true));
                self.step(Step::Tail(at));
            }
        }
    }

    fn logged(&self, resource: &Id) -> Vec<String> {
        self.log.entries.iter().filter(|(id, ..)| id == resource).map(|(_, _, text)| text.clone()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn each_event_once_and_in_order(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
        for (resource, sent) in &world.sent {
            prop_assert_eq!(&world.logged(resource), sent);
        }
        for node in world.nodes.iter().filter(|node| node.alive) {
            prop_assert_eq!(node.queue.held(), 0);
        }
    }
}

#[test]
fn others_append_what_the_owner_does_not_and_only_then() {
    let (mut queue, now) = (HeardQueue::default(), Instant::now());
    queue.subscribed(true);
    queue.mark(7, now);
    queue.catch_up(true, false);
    assert!(queue.hear(id(1), publication(1, 0), 10, now));
    assert!(queue.next_batch(|_| false, now).is_empty());
    queue.look(now + HOLD - Duration::from_millis(1));
    assert!(queue.next_batch(|_| false, now + HOLD - Duration::from_millis(1)).is_empty());
    queue.look(now + HOLD);
    let batch = queue.next_batch(|_| false, now + HOLD);
    assert_eq!(batch.len(), 1);
    queue.done(&batch, false, now + HOLD);
    assert!(queue.next_batch(|_| true, now + HOLD).is_empty(), "what failed is tried again after a pause");
    assert_eq!(queue.next_batch(|_| true, now + HOLD * 2).len(), 1);
}

#[test]
fn what_is_held_is_bounded_in_number_bytes_and_age() {
    let (mut queue, now) = (HeardQueue::default(), Instant::now());
    queue.subscribed(true);
    queue.mark(7, now);
    for n in 0..HELD_MAX {
        assert!(queue.hear(id(1), publication(1, n), 10, now));
    }
    assert!(!queue.hear(id(2), publication(2, 0), 10, now));
    assert_eq!(queue.look(now + Duration::from_secs(539)), 0);
    assert_eq!(queue.look(now + Duration::from_secs(540)), HELD_MAX);
    assert_eq!(queue.held(), 0);
    assert!(!queue.hear(id(2), publication(2, 0), usize::MAX / 2, now));
    assert!(queue.hear(id(2), publication(2, 0), 10, now));
}

#[test]
fn publications_are_checked() {
    let parse = |text: &str| Publication::parse(text.as_bytes(), 1).map(|p| p.event.data.to_string());
    assert_eq!(
        parse("{\"channel\":\"docs.d1\",\"data\":{\"a\":\n1,\"channel\":\"user.eve\"}}"),
        Ok("{\"channel\":\"docs.d1\",\"a\":1}".to_owned())
    );
    let cases = [
        ("{\"channel\":\"jobs.1\",\"data\":{}}", "channel"),
        ("{\"channel\":\"presence.1\",\"data\":{}}", "channel"),
        ("{\"channel\":\"docs.*\",\"data\":{}}", "channel"),
        ("{\"channel\":\"docs.d1\",\"event\":\"ready\",\"data\":{}}", "event"),
        ("{\"channel\":\"docs.d1\",\"event\":\"a\\nb\",\"data\":{}}", "event"),
        ("{\"channel\":\"docs.d1\",\"data\":[]}", "data"),
        ("{\"channel\":\"docs.d1\"}", "body"),
        ("{\"channel\":\"docs.d1\",\"data\":{},\"idempotencyKey\":\"\"}", "idempotencyKey"),
        ("[]", "body"),
    ];
    for (text, field) in cases {
        assert_eq!(parse(text), Err(field), "{text}");
    }
    let keyed = |text: &str, by: &str| Publication::parse(text.as_bytes(), 1).unwrap().once(by);
    let (one, two) = (
        "{\"channel\":\"docs.a\",\"data\":{},\"idempotencyKey\":\"k\"}",
        "{\"channel\":\"docs.b\",\"data\":{},\"idempotencyKey\":\"k\"}",
    );
    assert_eq!(keyed(one, "u"), keyed(one, "u"));
    assert_ne!(keyed(one, "u"), keyed(one, "v"), "keys of two publishers never meet");
    assert_ne!(keyed(one, "u"), keyed(two, "u"));
}
