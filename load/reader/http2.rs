//! The same over HTTP/2, many streams on a connection. Costs more than the plain reader: the library keeps a task for each.

use std::cell::RefCell;
use std::io::Read as _;
use std::rc::Rc;
use std::time::Duration;

use axum::http::Request;
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::task::LocalSet;

use crate::Failure;
use crate::now_us;
use crate::options::ReaderRole;
use crate::reader::orders::Orders;
use crate::reader::orders::Streams;
use crate::reader::sse::Parser;
use crate::reader::sse::Said;
use crate::reader::stream;
use crate::reader::tally::Shape;
use crate::reader::tally::Tally;
use crate::report::us_histogram;

const LOOK_EVERY: Duration = Duration::from_millis(5);
/// So that the flow control of HTTP/2 never holds a server back.
const WINDOW: u32 = 16 * 1024 * 1024;

/// Everything runs on one thread.
#[derive(Debug)]
struct Shared {
    role: ReaderRole,
    count: usize,
    asked: usize,
    open: usize,
    opened_us: Histogram<u64>,
    tally: Tally,
    /// Set by `open`, taken by the loop.
    wanted: bool,
}

pub(super) fn run(role: &ReaderRole, per_connection: usize) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(role, per_connection.max(1)))
}

async fn serve(role: &ReaderRole, per_connection: usize) -> Result<(), Failure> {
    let count = usize::try_from(role.streams)?;
    let tally = Tally::new(Shape::Own(role.jobs_per_stream), count, role)?;
    let (role, opened_us) = (role.clone(), us_histogram());
    let shared = Shared { role, count, asked: 0, open: 0, opened_us, tally, wanted: false };
    let shared = Rc::new(RefCell::new(shared));
    let (give, mut lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut some = [0; 4096];
        while let Ok(read @ 1..) = std::io::stdin().read(&mut some) {
            if give.blocking_send(some.get(..read).unwrap_or_default().to_vec()).is_err() {
                return;
            }
        }
    });
    let (mut orders, mut tasks) = (Orders::default(), JoinSet::new());
    loop {
        match tokio::time::timeout(LOOK_EVERY, lines.recv()).await {
            Ok(None) => return Ok(()), // whoever started us is gone
            Ok(Some(bytes)) => orders.give(&bytes),
            Err(_) => {}
        }
        let wanted = {
            let mut shared = shared.borrow_mut();
            orders.look(&mut *shared)?;
            std::mem::take(&mut shared.wanted)
        };
        if wanted {
            for first in (0..count).step_by(per_connection) {
                let numbers = first..(first + per_connection).min(count);
                tasks.spawn_local(connection(Rc::clone(&shared), numbers));
            }
        }
        while let Some(ended) = tasks.try_join_next() {
            if let Ok(Err(why)) = ended {
                shared.borrow_mut().tally.complain(&why);
            }
        }
    }
}

async fn connection(shared: Rc<RefCell<Shared>>, numbers: std::ops::Range<usize>) -> Result<(), String> {
    let url = shared.borrow().role.url;
    let socket = TcpStream::connect(url).await.map_err(|e| e.to_string())?;
    socket.set_nodelay(true).map_err(|e| e.to_string())?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let (mut client, connection) = builder.handshake::<_, bytes::Bytes>(socket).await.map_err(|e| e.to_string())?;
    let mut tasks = JoinSet::new();
    tasks.spawn_local(async move { connection.await.map_err(|e| e.to_string()) });
    for number in numbers {
        client = client.ready().await.map_err(|e| e.to_string())?;
        let body = ask(&shared.borrow().role, number, &mut client)?;
        tasks.spawn_local(follow(Rc::clone(&shared), number, body));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|e| e.to_string())??;
    }
    Ok(())
}

fn ask(
    role: &ReaderRole,
    number: usize,
    client: &mut SendRequest<bytes::Bytes>,
) -> Result<h2::client::ResponseFuture, String> {
    let mut request = Request::get(format!("http://{}{}", role.url, stream::path(role, number)));
    if let Some(secret) = &role.jwt_secret {
        request = request.header("authorization", format!("Bearer {}", stream::token(role, number, secret)));
    }
    let request = request.header("accept", "text/event-stream").body(()).map_err(|e| e.to_string())?;
    client.send_request(request, true).map(|(answer, _)| answer).map_err(|e| e.to_string())
}

async fn follow(shared: Rc<RefCell<Shared>>, number: usize, answer: h2::client::ResponseFuture) -> Result<(), String> {
    let since_us = now_us();
    let answer = answer.await.map_err(|e| e.to_string())?;
    if answer.status() != 200 {
        return Err(format!("stream {number}: {}", answer.status()));
    }
    let (mut body, mut parser) = (answer.into_body(), Parser::of_body());
    while let Some(data) = body.data().await {
        let data = data.map_err(|e| e.to_string())?;
        body.flow_control().release_capacity(data.len()).map_err(|e| e.to_string())?;
        let now = now_us();
        let mut shared = shared.borrow_mut();
        let shared = &mut *shared;
        let mut hear = |said: Said<'_>| match said {
            Said::Ready => {
                shared.open += 1;
                shared.opened_us.saturating_record(now.saturating_sub(since_us).max(1));
            }
            Said::Stamp(stamp) => shared.tally.hear(number, stamp, now),
            Said::Reset => shared.tally.resets += 1,
            Said::End => shared.tally.ends += 1,
            Said::Cursor(_) | Said::Dispatched => {}
        };
        parser.push(&data, &mut hear).map_err(|refused| refused.0)?;
    }
    Err(format!("stream {number}: closed by the server"))
}

impl Streams for Shared {
    fn count(&self) -> usize {
        self.count
    }

    fn open(&self) -> usize {
        self.open
    }

    fn is_opening(&self) -> bool {
        self.open < self.asked && self.tally.disconnected == 0
    }

    fn opened_us(&self) -> &Histogram<u64> {
        &self.opened_us
    }

    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    fn open_all(&mut self) {
        self.asked = self.count;
        self.wanted = true;
    }

    /// Nobody asks for it.
    fn close_all(&mut self) {}

    /// None are kept.
    fn forget_cursors(&mut self) {}

    /// Nobody asks for it.
    fn churn(&mut self, _: f64) {}
}
