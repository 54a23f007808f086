//! The queue of raw updates: several nodes against one judge, with deaths at any moment.

use std::collections::HashMap;
use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use crate::broker::Standing;
use crate::event::Id;
use crate::event::LogId;
use crate::event::RawName;
use crate::ingest::Elders;
use crate::ingest::Members;
use crate::ingest::raw::Fate;
use crate::ingest::raw::HOLD;
use crate::ingest::raw::Held;
use crate::ingest::raw::RawQueue;
use crate::jobs::JobUpdate;

pub(super) fn update(job: u8, n: usize) -> JobUpdate {
    JobUpdate::parse(format!("{{\"jobId\":\"{job}\",\"status\":\"running\",\"data\":{{\"n\":{n}}}}}").as_bytes(), None)
        .unwrap()
}

/// The append script's part: judges each name once, in order, and writes down what it judged.
#[derive(Default)]
struct Judge {
    last: HashMap<Id, RawName>,
    late: HashSet<(Id, RawName)>,
    log: Vec<(Id, RawName, JobUpdate)>,
}

impl Judge {
    fn end(&self) -> LogId {
        LogId { ms: self.log.len() as u64, seq: 0 }
    }

    /// A batch's updates of one job: what is behind is not overtaken.
    fn judge_all(&mut self, batch: &[Held]) -> Vec<(RawName, Fate)> {
        let mut waits = false;
        let judge = |held: &Held| {
            let fate = if waits { Fate::Unknown } else { self.judge(held) };
            waits |= matches!(fate, Fate::Behind(_));
            (held.name, fate)
        };
        batch.iter().map(judge).collect()
    }

    fn judge(&mut self, held: &Held) -> Fate {
        let job = held.update.job.clone();
        if held.late {
            if !self.late.insert((job.clone(), held.name)) {
                return Fate::Judged;
            }
        } else if self.last.get(&job).is_some_and(|last| held.name <= *last) {
            return Fate::Behind(self.end());
        } else {
            self.last.insert(job.clone(), held.name);
        }
        self.log.push((job, held.name, held.update.as_ref().clone()));
        Fate::Judged
    }
}

pub(super) struct Node {
    pub(super) queue: RawQueue,
    read: usize,
    /// Messages that have come to it.
    heard: usize,
    alive: bool,
    under_way: Vec<Vec<Held>>,
}

/// What a node appends now.
pub(super) fn take(queue: &mut RawQueue, now: Instant) -> Vec<Held> {
    queue.look(|_| true, now);
    queue.next_batch(|_| true, now)
}

/// The same of one update.
pub(super) fn take_one(queue: &mut RawQueue, now: Instant) -> Option<Held> {
    let mut batch = take(queue, now);
    assert!(batch.len() <= 1, "{batch:?}");
    batch.pop()
}

impl Node {
    pub(super) fn new(now: Instant, alone: bool) -> Self {
        let mut queue = RawQueue::default();
        queue.subscribed(alone, now);
        queue.mark(1, now);
        queue.catch_up(|_, _| Elders { named: false, judged: true }, now + Duration::from_secs(2));
        Self { queue, read: 0, heard: 0, alive: true, under_way: Vec::new() }
    }

    fn read_on(&mut self, judge: &Judge) {
        for (at, (job, name, _)) in judge.log.iter().enumerate().skip(self.read) {
            self.queue.judged(job, *name);
            self.queue.seen(LogId { ms: at as u64 + 1, seq: 0 });
        }
        self.read = judge.log.len();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u8),
    Mark,
    /// A node's next message comes, or all that were sent: the log may have shown before what became of it.
    Hear(usize),
    HearAll(usize),
    /// A node takes what it may, and leaves it under way.
    Take(usize),
    /// A node's oldest append reaches the judge.
    Append(usize),
    /// It reached the judge, but the answer was lost.
    AppendUnheard(usize),
    Read(usize),
    Kill(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = 0usize..3;
    proptest::collection::vec(
        prop_oneof![
            6 => (0u8..3).prop_map(Step::Publish),
            1 => Just(Step::Mark),
            4 => node.clone().prop_map(Step::Hear),
            4 => node.clone().prop_map(Step::HearAll),
            5 => node.clone().prop_map(Step::Take),
            5 => node.clone().prop_map(Step::Append),
            1 => node.clone().prop_map(Step::AppendUnheard),
            3 => node.clone().prop_map(Step::Read),
            1 => (0usize..2).prop_map(Step::Kill),
            2 => (1u64..400).prop_map(Step::Wait),
        ],
        1..150,
    )
}

struct World {
    nodes: Vec<Node>,
    judge: Judge,
    now: Instant,
    mark: u64,
    sent: Vec<(Id, usize)>,
    /// What came over the subscription, to everybody in this order; `Err` is a mark.
    messages: Vec<Result<JobUpdate, u64>>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let nodes = (0..3).map(|_| Node::new(now, false)).collect();
        let mut world = Self { nodes, judge: Judge::default(), now, mark: 100, sent: Vec::new(), messages: Vec::new() };
        world.set_mark();
        (0..3).for_each(|at| world.hear(at, 1));
        world
    }

    fn set_mark(&mut self) {
        self.mark += 1;
        self.messages.push(Err(self.mark));
    }

    fn hear(&mut self, at: usize, count: usize) {
        let Some(node) = self.nodes.get_mut(at).filter(|node| node.alive) else { return };
        for message in self.messages.iter().skip(node.heard).take(count) {
            node.heard += 1;
            match message {
                Ok(update) => assert!(node.queue.hear(update.clone(), 0, 1, self.now)),
                Err(mark) => node.queue.mark(*mark, self.now),
            }
        }
    }

    fn take(&mut self, at: usize) {
        // Two nodes that both think that they own a job do no harm: here everybody thinks so.
        let Some(node) = self.nodes.get_mut(at).filter(|node| node.alive) else { return };
        let batch = take(&mut node.queue, self.now);
        node.under_way.extend(batch.chunk_by(|a, b| a.update.job == b.update.job).map(<[Held]>::to_vec));
    }

    fn append(&mut self, at: usize, heard: bool) {
        let node = &mut self.nodes[at];
        if !node.alive || node.under_way.is_empty() {
            return;
        }
        let batch = node.under_way.remove(0);
        let judged = self.judge.judge_all(&batch);
        let fates = judged.into_iter().map(|(name, fate)| (name, if heard { fate } else { Fate::Failed }));
        assert!(!node.queue.done(&batch[0].update.job, fates, self.now), "nothing is unknown here");
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish(job) => {
                let n = self.sent.len();
                let update = update(*job, n);
                self.sent.push((update.job.clone(), n));
                self.messages.push(Ok(update));
            }
            Step::Mark => self.set_mark(),
            Step::Hear(at) => self.hear(*at, 1),
            Step::HearAll(at) => self.hear(*at, usize::MAX),
            Step::Take(at) => self.take(*at),
            Step::Append(at) => self.append(*at, true),
            Step::AppendUnheard(at) => self.append(*at, false),
            Step::Read(at) => self.nodes[*at].read_on(&self.judge),
            Step::Kill(at) => self.nodes[*at].alive = false,
            Step::Wait(ms) => self.now += Duration::from_millis(*ms),
        }
    }

    /// Lets the survivors come to rest.
    fn settle(&mut self) {
        (0..3).for_each(|at| self.hear(at, usize::MAX));
        for _ in 0..1000 {
            self.now += HOLD * 3;
            for at in 0..3 {
                self.nodes[at].read_on(&self.judge);
                self.take(at);
                while self.nodes[at].alive && !self.nodes[at].under_way.is_empty() {
                    self.append(at, true);
                }
            }
            if self.nodes.iter().all(|node| !node.alive || node.queue.held() == 0) {
                return;
            }
        }
        panic!("the survivors still hold something");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Every update that a survivor heard is judged exactly once and, per job, in the order of publication: also when the
    /// others die between hearing, appending and being answered.
    #[test]
    fn every_update_is_judged_once_and_in_order(steps in steps()) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.settle();
        let mut by_job: HashMap<Id, Vec<usize>> = HashMap::new();
        for (job, _, update) in &world.judge.log {
            let crate::jobs::Field::Set(data) = &update.data else { panic!("data") };
            let n = serde_json::from_str::<serde_json::Value>(data).unwrap()["n"].as_u64().unwrap();
            let n = usize::try_from(n).unwrap();
            by_job.entry(job.clone()).or_default().push(n);
        }
        let mut expected: HashMap<Id, Vec<usize>> = HashMap::new();
        for (job, n) in &world.sent {
            expected.entry(job.clone()).or_default().push(*n);
        }
        prop_assert_eq!(by_job, expected);
    }
}

#[test]
fn a_node_that_was_passed_over_appends_late_and_once() {
    let now = Instant::now();
    let (mut slow, mut fast) = (Node::new(now, false), Node::new(now, false));
    let mut judge = Judge::default();
    for node in [&mut slow, &mut fast] {
        node.queue.mark(7, now);
    }
    assert!(slow.queue.hear(update(1, 0), 0, 1, now));
    // The fast node never heard the first: it was not subscribed yet. Its second has the next number.
    fast.queue.skip();
    for node in [&mut slow, &mut fast] {
        assert!(node.queue.hear(update(1, 1), 0, 1, now));
    }
    let job = Id::parse("1").unwrap();
    let later = now + HOLD * 3;
    let held = take_one(&mut fast.queue, later).expect("its turn");
    assert_eq!(judge.judge(&held), Fate::Judged);
    let batch = take(&mut slow.queue, later);
    let fates = judge.judge_all(&batch);
    assert_eq!(fates.iter().map(|(_, fate)| *fate).collect::<Vec<_>>(), [Fate::Behind(judge.end()), Fate::Unknown]);
    assert!(!slow.queue.done(&job, fates.into_iter(), later));
    assert!(take(&mut slow.queue, later).is_empty(), "not before the log was read that far");
    slow.read_on(&judge);
    let held = take_one(&mut slow.queue, later).expect("passed over");
    assert!(held.late);
    assert_eq!(judge.judge(&held), Fate::Judged);
    assert_eq!(judge.log.len(), 2);
}

fn standing(since: u64, before: u64, floor: u64) -> Standing {
    Standing { since, before, floor, caught_up: false }
}

/// A new subscriber appends nothing before those who have heard more have judged all that it can't know of, and leaves them
/// what it heard before its first mark.
#[test]
fn a_new_subscriber_waits_until_the_past_is_judged() {
    let now = Instant::now();
    let mut queue = RawQueue::default();
    queue.subscribed(false, now);
    assert!(queue.hear(update(1, 0), 0, 1, now));
    queue.mark(20, now);
    assert!(queue.hear(update(1, 1), 0, 1, now));
    let later = now + Duration::from_secs(60);
    let members = Members::new(1);
    members.hear(2, standing(5, 0, 19));
    members.hear(3, standing(25, 0, 0));
    queue.catch_up(|since, before| members.elders(since, before), later);
    assert_eq!(take_one(&mut queue, later), None, "node 2 still holds something from before");
    assert_eq!(queue.standing(), standing(20, 1, 19));
    members.hear(2, standing(5, 0, 20));
    queue.catch_up(|since, before| members.elders(since, before), now);
    assert_eq!(take_one(&mut queue, now), None, "it has not listened for long enough to know everybody");
    queue.catch_up(|since, before| members.elders(since, before), later);
    let held = take_one(&mut queue, later).expect("its turn");
    assert_eq!((held.name, queue.held()), (RawName { mark: 20, offset: 1 }, 1));
}

/// After a restart of Redis everybody is new: what came before the first mark has the same name for all who heard it, and
/// whoever has heard most appends first.
#[test]
fn what_came_before_the_first_mark_is_named_backwards() {
    let now = Instant::now();
    let (mut first, mut second) = (RawQueue::default(), RawQueue::default());
    first.subscribed(false, now);
    assert!(first.hear(update(1, 0), 0, 1, now));
    second.subscribed(false, now);
    for queue in [&mut first, &mut second] {
        assert!(queue.hear(update(1, 1), 0, 1, now));
        queue.mark(9, now);
    }
    let later = now + Duration::from_secs(2);
    let job = Id::parse("1").unwrap();
    let (of_first, of_second) = (Members::new(1), Members::new(2));
    of_first.hear(2, second.standing());
    of_second.hear(1, first.standing());
    first.catch_up(|since, before| of_first.elders(since, before), later);
    second.catch_up(|since, before| of_second.elders(since, before), later);
    assert_eq!(take_one(&mut second, later), None, "the first has heard more");
    let mut judge = Judge::default();
    let batch = take(&mut first, later);
    assert_eq!(batch.len(), 2, "its turn");
    assert!(!first.done(&job, judge.judge_all(&batch).into_iter(), later));
    for (job, name, _) in &judge.log {
        second.judged(job, *name);
    }
    assert_eq!((first.held(), second.held()), (0, 0), "the same names");
}

#[test]
fn who_is_alone_waits_for_nobody_and_keeps_what_it_heard() {
    let now = Instant::now();
    let mut queue = RawQueue::default();
    queue.subscribed(true, now);
    assert!(queue.hear(update(1, 0), 0, 1, now));
    queue.subscribed(true, now);
    queue.mark(9, now);
    assert!(take_one(&mut queue, now).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_loses_its_jobs_and_only_its_jobs() {
    let jobs: Vec<Id> = (0..1000).map(|n| Id::parse(&format!("job{n}")).unwrap()).collect();
    let (one, two) = (Members::new(1), Members::new(2));
    for members in [&one, &two] {
        [1, 2, 3]
            .into_iter()
            .for_each(|node| members.hear(node, Standing { since: 1, before: 0, floor: 1, caught_up: true }));
    }
    let before: Vec<bool> = jobs.iter().map(|job| one.owns(job)).collect();
    let share = before.iter().filter(|owned| **owned).count();
    assert!((200..470).contains(&share), "about a third: {share}");
    assert!(jobs.iter().all(|job| !(one.owns(job) && two.owns(job))), "one owner");
    tokio::time::advance(Duration::from_millis(1000)).await;
    [1, 2].into_iter().for_each(|node| one.hear(node, Standing { since: 1, before: 0, floor: 1, caught_up: true }));
    tokio::time::advance(Duration::from_millis(1000)).await;
    assert_eq!(one.count(), 2);
    assert!(jobs.iter().zip(&before).all(|(job, owned)| !owned || one.owns(job)), "nothing moves away");
    assert!(jobs.iter().filter(|job| one.owns(job)).count() > share);
}
