use std::time::Duration;

use crate::hub::CloseReason;
use crate::hub::tests::bench::Bench;
use crate::hub::timers::TICK;

#[tokio::test(start_paused = true)]
async fn old_streams_are_asked_to_come_back_a_few_at_a_time_and_none_lives_longer_than_the_bound() {
    let mut bench = Bench::new(256); // its bound is 64 s
    let streams: Vec<_> = (0..400).map(|id| bench.connect(id, &[1], usize::MAX, false)).collect();
    let asked = || streams.iter().filter(|stream| stream.0.lock().ended == Some(CloseReason::Drain)).count();
    let mut by_second = Vec::new();
    for _ in 0..66 {
        for _ in 0..10 {
            tokio::time::advance(TICK).await;
            bench.lane.tick();
        }
        by_second.push(asked());
    }
    assert_eq!(by_second[46], 0, "nobody is old yet: {by_second:?}");
    assert_eq!(by_second[65], 400, "all were asked: {by_second:?}");
    let most = by_second.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(most <= 3 * 400 / 16, "spread over the last quarter: {by_second:?}");
    let late = bench.connect(1000, &[1], usize::MAX, false);
    tokio::time::advance(Duration::from_secs(1)).await;
    bench.lane.tick();
    assert_eq!(late.0.lock().ended, None, "who comes now is young");
}
