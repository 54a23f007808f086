use std::net::IpAddr;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use crate::config::Config;
use crate::config::Networks;
use crate::limits::Address;
use crate::limits::Admission;
use crate::limits::Connections;
use crate::limits::Full;
use crate::limits::Sockets;
use crate::limits::client;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn of(text: &str) -> Address {
    Address::of(ip(text))
}

fn seen(peer: &str, trusted: &[&str], forwarded: &[&str]) -> IpAddr {
    let trusted: Vec<String> = trusted.iter().map(|text| (*text).to_owned()).collect();
    client(ip(peer), &Networks::of(&trusted), forwarded.iter().copied())
}

fn connections(change: impl FnOnce(&mut Config)) -> Connections {
    let mut config = Config::defaults();
    change(&mut config);
    Connections::new(&config)
}

#[test]
fn an_ipv6_network_of_64_bits_is_one_address_and_ipv4_in_ipv6_is_ipv4() {
    assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
    assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
}

#[test]
fn b73_only_what_a_trusted_proxy_says_counts_and_of_that_the_right_most() {
    let lb = &["10.0.0.0/8"];
    // Nobody who is not trusted is believed, whatever they write.
    for spoof in ["203.0.113.9", "unknown", "", "10.0.0.1, 10.0.0.2", "[2001:db8::1]:443"] {
        assert_eq!(seen("198.51.100.1", lb, &[spoof]), ip("198.51.100.1"), "{spoof}");
    }
    let cases: &[(&[&str], &str)] = &[
        (&["203.0.113.9"], "203.0.113.9"),
        // The client wrote the left part itself.
        (&["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        (&["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        // Through two proxies of ours.
        (&["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        (&["203.0.113.9:4711"], "203.0.113.9"),
        (&["[2001:db8::5]:4711"], "2001:db8::5"),
        (&["2001:db8::5"], "2001:db8::5"),
        // What can't be read ends the walk at who passed it on.
        (&["203.0.113.9, unknown"], "10.0.0.1"),
        (&["203.0.113.9, _hidden, 10.0.0.2"], "10.0.0.2"),
        (&[""], "10.0.0.1"),
        (&[], "10.0.0.1"),
        // All of them ours: the left-most.
        (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    ];
    for (forwarded, client) in cases {
        assert_eq!(seen("10.0.0.1", lb, forwarded), ip(client), "{forwarded:?}");
    }
    assert_eq!(seen("::ffff:10.0.0.1", lb, &["203.0.113.9"]), ip("203.0.113.9"));
    assert_eq!(seen("127.0.0.1", &["loopback"], &["203.0.113.9"]), ip("203.0.113.9"));
    assert_eq!(seen("fd00::7", &["private"], &["203.0.113.9"]), ip("203.0.113.9"));
    let hundred = vec!["10.0.0.9"; 100].join(", ");
    assert_eq!(seen("10.0.0.1", lb, &[&format!("203.0.113.9, {hundred}")]), ip("203.0.113.9"));
}

proptest! {
    #[test]
    fn no_header_makes_an_untrusted_peer_somebody_else(fields in prop::collection::vec(".{0,40}", 0..4)) {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        prop_assert_eq!(seen("198.51.100.1", &["10.0.0.0/8"], &fields), ip("198.51.100.1"));
    }
}

#[test]
fn an_address_has_as_many_streams_as_it_may_and_places_come_back() {
    let connections = connections(|config| config.rate_limit_connections_per_ip = 3);
    let places: Vec<_> = (0..3).map(|_| connections.stream(of("192.0.2.1")).unwrap()).collect();
    assert_eq!(connections.stream(of("192.0.2.1")).unwrap_err(), Full::Address);
    let other = connections.stream(of("192.0.2.2")).unwrap();
    assert_eq!(connections.addresses(), 2);
    drop(places);
    assert_eq!(connections.addresses(), 1);
    let again = connections.stream(of("192.0.2.1")).unwrap();
    drop((other, again));
    assert_eq!(connections.addresses(), 0, "an address without streams is not kept");
}

#[test]
fn the_instance_has_as_many_streams_as_it_may() {
    let connections = connections(|config| config.max_connections = 2);
    let first = connections.stream(of("192.0.2.1")).unwrap();
    let _second = connections.stream(of("192.0.2.2")).unwrap();
    assert_eq!(connections.stream(of("192.0.2.3")).unwrap_err(), Full::Instance);
    drop(first);
    connections.stream(of("192.0.2.3")).unwrap();
}

#[test]
fn sockets_of_a_peer_are_twice_its_streams_and_those_of_a_proxy_are_not_counted_by_peer() {
    let connections = connections(|config| {
        config.rate_limit_connections_per_ip = 2;
        config.trusted_proxies = vec!["10.0.0.0/8".to_owned()];
    });
    let held: Vec<_> = (0..4).map(|_| connections.socket(ip("192.0.2.1")).unwrap()).collect();
    assert_eq!(connections.socket(ip("192.0.2.1")).unwrap_err(), Full::Address);
    let proxied: Vec<_> = (0..100).map(|_| connections.socket(ip("10.0.0.1")).unwrap()).collect();
    assert_eq!(connections.sockets().busy, 104, "nothing is known of what they carry");
    drop((held, proxied));
    assert_eq!(connections.sockets().busy, 0);
}

#[tokio::test(start_paused = true)]
async fn where_all_places_are_taken_the_one_that_has_been_idle_for_longest_gives_way() {
    let connections = connections(|config| {
        config.max_connections = 1; // and the spare ones
        config.rate_limit_connections_per_ip = 0;
    });
    let mut held: Vec<_> =
        (0..1001).map(|_| (connections.socket(ip("192.0.2.1")).unwrap(), connections.activity())).collect();
    let busy = held[0].1.request();
    assert_eq!(connections.sockets(), Sockets { silent: 1000, idle: 0, busy: 1 });
    assert_eq!(connections.socket(ip("192.0.2.2")).unwrap_err(), Full::Instance);
    assert!(!connections.make_room().await, "it did not go in time");
    let evicted = |at: usize| held[at].1.evicted().now_or_never().is_some();
    let gone: Vec<usize> = (0..held.len()).filter(|at| evicted(*at)).collect();
    assert_eq!(gone, [1], "the oldest of those that have not asked for anything");
    let second = held[1].1.request();
    assert!(held[1].1.evicted().now_or_never().is_none(), "it asked in that very moment");
    let (room, ()) = tokio::join!(connections.make_room(), async {
        tokio::task::yield_now().await;
        assert!(held[2].1.evicted().now_or_never().is_some());
        drop(held.remove(2));
    });
    assert!(room);
    let newcomer = connections.socket(ip("192.0.2.2")).unwrap();
    // Those who have been answered are as idle as those who never asked, from then on.
    drop((busy, second));
    assert_eq!(connections.sockets(), Sockets { silent: 998, idle: 2, busy: 1 });
    let asking: Vec<_> = held.iter().skip(2).map(|(_, activity)| activity.request()).collect();
    assert!(!connections.make_room().await, "it did not go in time");
    assert!(held[0].1.evicted().now_or_never().is_some(), "it was answered first");
    drop(asking);
    assert_eq!(connections.sockets(), Sockets { silent: 0, idle: 1000, busy: 1 });
    drop((held, newcomer));
    assert_eq!(connections.sockets(), Sockets { silent: 0, idle: 0, busy: 0 });
}

#[tokio::test(start_paused = true)]
async fn nobody_gives_way_while_all_are_busy() {
    let connections = connections(|config| {
        config.max_connections = 1;
        config.rate_limit_connections_per_ip = 0;
    });
    let held: Vec<_> =
        (0..1001).map(|_| (connections.socket(ip("192.0.2.1")).unwrap(), connections.activity().request())).collect();
    assert!(!connections.make_room().await);
    assert_eq!(connections.socket(ip("192.0.2.2")).unwrap_err(), Full::Instance);
    drop(held);
    connections.socket(ip("192.0.2.2")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_is_told_a_time_of_their_own_at_which_they_are_let_in() {
    let admission = Admission::new(100);
    let refused = (0..10_000).filter_map(|_| admission.enter().err()).map(|later| later.0).collect::<Vec<_>>();
    assert_eq!(refused.len(), 9800, "two seconds' worth are let in at once");
    assert!(refused.windows(2).take(5900).all(|pair| pair[1] > pair[0]), "each later than the one before");
    assert!(refused.iter().all(|wait| *wait <= Duration::from_secs(60)));
    assert!(refused[6100..].iter().any(|wait| *wait < Duration::from_secs(50)), "the rest are spread at least");
    // They come when they were told to.
    let mut at = Duration::ZERO;
    for wait in refused.iter().take(5000) {
        tokio::time::advance(*wait - at).await;
        at = *wait;
        assert_eq!(admission.enter(), Ok(()), "after {wait:?}");
    }
    let open = Admission::new(0);
    assert!((0..100_000).all(|_| open.enter().is_ok()));
}
