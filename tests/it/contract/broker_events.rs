//! What every broker promises of several events at once.

use tidings::broker::EventAppend;
use tidings::broker::EventOnce;
use tidings::event::Cursor;
use tidings::event::Event;
use tidings::event::Id;
use tidings::event::RawName;

use crate::contract::broker::Bench;
use crate::contract::broker::event;
use crate::contract::broker::keyed;

async fn append(bench: &Bench, items: &[(Event, EventOnce)]) -> Vec<Cursor> {
    let appends: Vec<EventAppend<'_>> =
        items.iter().map(|(event, once)| EventAppend { event, once, trace: None }).collect();
    bench.broker.append_events(&appends).await.unwrap()
}

/// The log has the entries that the cursors name, in their order, with the channels of the events.
async fn all(bench: Bench) {
    assert!(append(&bench, &[]).await.is_empty());
    let items: Vec<(Event, EventOnce)> =
        (0..700).map(|n| (event(&format!("docs.d{}", n % 7)), EventOnce::fresh())).collect();
    let cursors = append(&bench, &items).await;
    let log = bench.settled(700).await;
    let logged: Vec<_> = log.iter().map(|entry| (entry.id, entry.print)).collect();
    assert_eq!(logged, cursors.iter().map(|cursor| (cursor.at, cursor.print)).collect::<Vec<_>>());
    assert!(log.iter().zip(&items).all(|(entry, (event, _))| entry.event.as_ref() == Some(event)));
    // A key is appended once: within a batch, and when some of a batch come again.
    let named = |name: &str| (event("user.ada"), keyed(name));
    let first = append(&bench, &[named("1"), named("2"), named("1")]).await;
    assert_eq!(first[0], first[2]);
    let second = append(&bench, &[named("3"), named("2"), named("1"), named("4")]).await;
    assert_eq!((second[1], second[2]), (first[1], first[0]));
    assert!(first[1].at < second[0].at && second[0].at < second[3].at);
    // One that several nodes heard is appended once, and its entry says which one it was.
    let raw = RawName { mark: 17, offset: (1 << 41) + 3 };
    let heard = || (event("docs.d1"), EventOnce::Heard { name: "17-3".to_owned(), raw });
    let third = append(&bench, &[heard()]).await;
    assert_eq!(append(&bench, &[heard(), named("1")]).await, [third[0], first[0]]);
    let last = bench.settled(705).await.pop().unwrap();
    assert_eq!((last.id, last.event.as_ref()), (third[0].at, Some(&heard().0)));
    assert_eq!(last.judged, Some((Id::parse("d1").unwrap(), raw)));
    // Half a megabyte at a time: large ones are several calls, and one batch all the same.
    let mut large = event("docs.large");
    large.data = format!("{{\"a\":\"{}\"}}", "x".repeat(60_000)).into();
    let large: Vec<(Event, EventOnce)> = (0..20).map(|_| (large.clone(), EventOnce::fresh())).collect();
    let cursors = append(&bench, &large).await;
    assert!(cursors.len() == 20 && cursors.windows(2).all(|pair| pair[0].at < pair[1].at));
    assert_eq!(bench.settled(725).await.len(), 725);
    bench.stop().await;
}

#[tokio::test]
async fn the_in_process_broker_takes_events_in_batches() {
    all(Bench::memory().await).await;
}

#[tokio::test]
async fn redis_takes_events_in_batches() {
    all(Bench::redis().await).await;
}
