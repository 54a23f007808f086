//! Long-poll: one answer with what has happened since a cursor, or as soon as something does.

use std::collections::VecDeque;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::Stream;
use futures_util::StreamExt as _;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::session::Output;
use crate::session::Rooms;
use crate::session::RoomsMark;
use crate::session::Session;
use crate::session::Transport;
use crate::transport::sse;

/// Events and bytes of one answer; what is beyond comes with the next. States that answer a first question are not counted.
const EVENTS_MAX: usize = 500;
const BYTES_MAX: usize = 512 * 1024;
/// How long it may take until it is known what has happened.
const OPENING_MAX: Duration = Duration::from_secs(30);

/// What was gathered for one answer.
#[derive(Debug, Default)]
struct Gathered {
    cursor: Option<String>,
    events: Vec<Event>,
    bytes: usize,
    is_ready: bool,
    /// Who is where may be different from what the client was last told.
    looks: bool,
    /// And it is.
    moved: bool,
    superseded: bool,
}

fn print(states: &[Frame]) -> Option<RoomsMark> {
    RoomsMark::of(states.iter().map(Frame::data))
}

#[derive(Debug, Serialize)]
struct Event {
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    event: String,
    data: Box<RawValue>,
}

#[derive(Serialize)]
struct Answer<'a> {
    cursor: Option<String>,
    verdicts: &'a RawValue,
    denied: &'a RawValue,
    events: Vec<Event>,
}

/// Waits for something to tell, for so long. `asked` is the cursor that the client gave.
///
/// # Errors
/// It can't be told what has happened.
pub async fn answer(session: Session, asked: Option<String>, wait: Duration) -> Result<String, ApiError> {
    let (verdicts, denied) = session.verdicts();
    let (at_once, mark) = (!session.is_resumed(), session.mark());
    let polled = session.polled();
    let (rooms, seen) = (session.rooms(), asked.as_deref().and_then(|asked| RoomsMark::split(asked).1));
    let outputs = pin!(session.into_stream(Transport::Poll, CancellationToken::new()));
    let mut gathered = gather(outputs, (&rooms, seen), at_once, wait).await?;
    if gathered.superseded {
        gathered = Gathered { cursor: None, ..Gathered::default() };
    }
    polled.told(gathered.cursor.as_deref());
    let rooms = gathered.put_states(&rooms, seen);
    let raw = |json: String| RawValue::from_string(json).map_err(|_| ApiError::internal());
    let (verdicts, denied) = (raw(verdicts)?, raw(denied)?);
    // Only what was told is marked as told: states come before `ready`.
    let mark = mark.filter(|_| gathered.is_ready).map_or(String::new(), |mark| mark.to_string());
    let told = gathered.cursor.map(|cursor| cursor + &mark);
    let asked = asked.as_deref().map(|asked| RoomsMark::split(asked).0.to_owned());
    let rooms = rooms.map_or(String::new(), |rooms| rooms.to_string());
    let cursor = told.or(asked).map(|cursor| cursor + &rooms);
    let answer = Answer { cursor, verdicts: &verdicts, denied: &denied, events: gathered.events };
    serde_json::to_string(&answer).map_err(|_| ApiError::internal())
}

/// Until there is something and nothing more at once, or time is up.
async fn gather(
    mut outputs: std::pin::Pin<&mut impl Stream<Item = Output>>,
    (rooms, seen): (&Rooms, Option<RoomsMark>),
    at_once: bool,
    wait: Duration,
) -> Result<Gathered, ApiError> {
    let (mut gathered, begun) = (Gathered::default(), Instant::now());
    loop {
        if std::mem::take(&mut gathered.looks) {
            gathered.moved |= print(&rooms.states()) != seen;
        }
        let has_enough = gathered.is_ready && (at_once || gathered.moved || !gathered.events.is_empty());
        let output = if has_enough {
            match futures_util::poll!(outputs.next()) {
                Poll::Ready(output) => output,
                Poll::Pending => return Ok(gathered),
            }
        } else {
            let until = begun + if gathered.is_ready { wait } else { OPENING_MAX };
            match tokio::time::timeout_at(until, outputs.next()).await {
                Ok(output) => output,
                Err(_) if gathered.is_ready => return Ok(gathered),
                Err(_) => return Err(ApiError::unavailable("broker")),
            }
        };
        match output {
            Some(Output::Frames(frames)) => {
                if gathered.add(frames) {
                    return Ok(gathered);
                }
            }
            Some(Output::Problem(error)) if gathered.events.is_empty() => return Err(error),
            Some(Output::End(CloseReason::Superseded)) => {
                gathered.superseded = true;
                return Ok(gathered);
            }
            Some(Output::End(reason)) => {
                gathered.end(reason);
                return Ok(gathered);
            }
            Some(Output::Problem(_)) | None => return Ok(gathered),
        }
    }
}

impl Gathered {
    /// Answers whether the answer is full.
    fn add(&mut self, frames: VecDeque<Frame>) -> bool {
        for frame in frames {
            if let Some(cursor) = frame.cursor() {
                self.cursor = Some(cursor.to_string());
            }
            match frame.name() {
                "connected" | "heartbeat" => {}
                "ready" => self.is_ready = true,
                // Told as a state, once, when the answer is complete.
                name if name.starts_with("presence:") => self.looks = true,
                _ => self.event(&frame),
            }
            // Only behind an event that has a cursor: a state that is left out would not come again.
            let full = self.events.len() >= EVENTS_MAX || self.bytes >= BYTES_MAX;
            if full && frame.cursor().is_some() {
                return true;
            }
        }
        false
    }

    /// Begins the answer with who is where now, if that is news. Answers the mark of what the client knows then.
    fn put_states(&mut self, rooms: &Rooms, seen: Option<RoomsMark>) -> Option<RoomsMark> {
        if !self.moved {
            return seen;
        }
        let states = rooms.states();
        let events = std::mem::take(&mut self.events);
        states.iter().for_each(|state| self.event(state));
        self.events.extend(events);
        print(&states)
    }

    fn event(&mut self, frame: &Frame) {
        let Ok(data) = RawValue::from_string(frame.data().to_owned()) else { return };
        self.bytes += frame.weight();
        let cursor = frame.cursor().map(ToString::to_string);
        self.events.push(Event { cursor, event: frame.name().to_owned(), data });
    }

    fn end(&mut self, reason: CloseReason) {
        let data = sse::end_data(reason).and_then(|data| RawValue::from_string(data).ok());
        self.events.extend(data.map(|data| Event { cursor: None, event: "end".to_owned(), data }));
    }
}
