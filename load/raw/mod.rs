//! The reference: how much of the cost is the kernel's.
//!
//! One thread, one epoll, no rights, no log, no replay. It registers a socket under the channels that the URL names, takes
//! updates from Redis or by HTTP in batches, and writes bytes that look like ours and are as many.

mod connection;
mod hub;
mod input;

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use mio::Events;
use mio::Interest;
use mio::Poll;
use mio::Token;
use mio::net::TcpListener;
use mio::unix::SourceFd;

use crate::Failure;
use crate::options::RawRole;
use crate::raw::hub::Hub;
use crate::raw::input::Redis;

const LISTENER: Token = Token(usize::MAX - 1);
const REDIS: Token = Token(usize::MAX - 2);
/// Standard input: it ends with whoever started us.
const LIFELINE: Token = Token(usize::MAX - 3);
const EVENTS: usize = 1024;
const BUFFER: usize = 256 * 1024;
/// There is nothing to do between events; a time-out only bounds how long a bug would hang.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// Serves until it is killed. Says `{"listening":"…"}` first.
pub(crate) fn run(role: &RawRole) -> Result<(), Failure> {
    let mut poll = Poll::new()?;
    // Through socket2 for a backlog that a storm doesn't fill.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, role.port)).into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(socket.into());
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut SourceFd(&std::io::stdin().as_raw_fd()), LIFELINE, Interest::READABLE).ok();
    let mut redis = match role.redis {
        Some(addr) => Some(Redis::subscribe(addr, poll.registry(), REDIS)?),
        None => None,
    };
    let mut hub = Hub::new(role.coalesce);
    println!("{}", serde_json::json!({ "listening": listener.local_addr()? }));
    let (mut events, mut buffer) = (Events::with_capacity(EVENTS), vec![0; BUFFER]);
    loop {
        match poll.poll(&mut events, Some(IDLE_MAX)) {
            Err(failure) if failure.kind() != std::io::ErrorKind::Interrupted => return Err(failure.into()),
            _ => {}
        }
        for event in &events {
            match (event.token(), &mut redis) {
                (LISTENER, _) => accept(&listener, &mut hub, poll.registry())?,
                (REDIS, Some(redis)) => redis.read(&mut buffer, &mut hub)?,
                (LIFELINE, _) => return Ok(()),
                (Token(slot), _) => hub.happened(slot, event, &mut buffer),
            }
        }
        hub.turn_is_over();
    }
}

fn accept(listener: &TcpListener, hub: &mut Hub, registry: &mio::Registry) -> Result<(), Failure> {
    loop {
        match listener.accept() {
            Ok((mut socket, _)) => {
                socket.set_nodelay(true).ok();
                let token = Token(hub.free_slot());
                registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
                hub.insert(token.0, socket);
            }
            Err(none) if none.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            // The peer has gone already, or there are no descriptors: the next one may fare better.
            Err(failure) => {
                eprintln!("raw: {failure}");
                return Ok(());
            }
        }
    }
}
