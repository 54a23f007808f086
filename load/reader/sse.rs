//! One stream as cheaply as possible: bytes in, the stamps inside the payloads out.

use memchr::memchr;
use memchr::memrchr;

/// A number that an event carried, and when it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    pub(crate) job: u64,
    /// Counts the updates of that job.
    pub(crate) n: u64,
    /// Which order of the publisher it belongs to; 0 is never measured.
    pub(crate) phase: u64,
    pub(crate) sent_us: u64,
}

/// What the stream said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    Ready,
    Reset,
    /// `end` or `problem`.
    End,
    Stamp(Stamp),
    /// Of the event that is being read: it counts once that has ended.
    Cursor(&'a [u8]),
    /// An event has ended.
    Dispatched,
}

/// Where we are in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Head,
    /// The line with a chunk's size, of which these digits were read.
    Size(usize, bool),
    Chunk(usize),
    /// The line break after a chunk.
    ChunkEnd,
    /// The body has no frame and ends with the connection.
    Plain,
    /// Frames of a WebSocket, of which only the beginning is of interest.
    Frames,
    End,
}

/// The event that is being read, as far as it matters. A browser takes notice of one when its empty line has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Ready,
    Reset,
    End,
    Other,
    Stamped(Stamp),
}

/// Parser of one connection.
#[derive(Debug)]
pub(crate) struct Parser {
    at: At,
    event: Event,
    /// A line of which the end has not come; the whole head, too. Empty, and so without memory, most of the time.
    line: Vec<u8>,
}

/// How a WebSocket says that a stream is ready.
const READY: &[u8] = b"\"event\":\"ready\"";

/// The answer is neither `200` nor `101`; its first line.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

impl Default for Parser {
    fn default() -> Self {
        Self { at: At::Head, event: Event::Other, line: Vec::new() }
    }
}

impl Parser {
    /// The body of an answer of which somebody else has read the head, as the HTTP/2 library does.
    pub(crate) fn of_body() -> Self {
        Self { at: At::Plain, ..Self::default() }
    }

    /// Whether the head has come.
    pub(crate) fn is_answered(&self) -> bool {
        self.at != At::Head
    }

    /// Takes bytes in and tells what they complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], tell: &mut impl FnMut(Said<'_>)) -> Result<(), Refused> {
        while let Some((first, rest)) = bytes.split_first() {
            match self.at {
                At::Head => {
                    self.line.push(*first);
                    bytes = rest;
                    self.head()?;
                }
                At::Size(size, done) => {
                    self.at = match first {
                        b'\n' if size == 0 => At::End,
                        b'\n' => At::Chunk(size),
                        digit if !done && digit.is_ascii_hexdigit() => At::Size(size * 16 + hex(*digit), false),
                        _ => At::Size(size, true),
                    };
                    bytes = rest;
                }
                At::Chunk(left) => {
                    let (data, rest) = bytes.split_at(left.min(bytes.len()));
                    self.lines(data, tell);
                    self.at = if left == data.len() { At::ChunkEnd } else { At::Chunk(left - data.len()) };
                    bytes = rest;
                }
                At::ChunkEnd => {
                    if *first == b'\n' {
                        self.at = At::Size(0, false);
                    }
                    bytes = rest;
                }
                At::Plain => {
                    self.lines(bytes, tell);
                    return Ok(());
                }
                At::Frames => {
                    // It is written together with what comes before it.
                    if bytes.windows(READY.len()).any(|window| window == READY) {
                        tell(Said::Ready);
                    }
                    return Ok(());
                }
                At::End => return Ok(()),
            }
        }
        Ok(())
    }

    fn head(&mut self) -> Result<(), Refused> {
        if !self.line.ends_with(b"\r\n\r\n") {
            return Ok(());
        }
        let head = String::from_utf8_lossy(&self.line).to_ascii_lowercase();
        if head.starts_with("http/1.1 101") {
            (self.at, self.line) = (At::Frames, Vec::new());
            return Ok(());
        }
        if !head.starts_with("http/1.1 200") {
            return Err(Refused(head.lines().next().unwrap_or_default().to_owned()));
        }
        let chunked = head.contains("transfer-encoding: chunked");
        self.at = if chunked { At::Size(0, false) } else { At::Plain };
        self.line = Vec::new();
        Ok(())
    }

    fn lines(&mut self, mut data: &[u8], tell: &mut impl FnMut(Said<'_>)) {
        while let Some(end) = memchr(b'\n', data) {
            let (line, rest) = data.split_at(end);
            if self.line.is_empty() {
                self.line(line, tell);
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.line(&whole, tell);
            }
            data = rest.get(1..).unwrap_or_default();
        }
        self.line.extend_from_slice(data);
    }

    fn line(&mut self, line: &[u8], tell: &mut impl FnMut(Said<'_>)) {
        match line.split_at_checked(4) {
            Some((b"data", data)) if self.event == Event::Other => {
                self.event = stamp(data).map_or(Event::Other, Event::Stamped);
            }
            Some((b"even", name)) => {
                self.event = match name.strip_prefix(b"t: ").unwrap_or_default() {
                    b"ready" => Event::Ready,
                    b"reset" => Event::Reset,
                    b"end" | b"problem" => Event::End,
                    _ => Event::Other,
                };
            }
            Some((b"id: ", cursor)) => tell(Said::Cursor(cursor)),
            None if line.is_empty() => {
                match std::mem::replace(&mut self.event, Event::Other) {
                    Event::Ready => tell(Said::Ready),
                    Event::Reset => tell(Said::Reset),
                    Event::End => tell(Said::End),
                    Event::Stamped(stamp) => tell(Said::Stamp(stamp)),
                    Event::Other => {}
                }
                tell(Said::Dispatched);
            }
            _ => {}
        }
    }
}

fn hex(digit: u8) -> usize {
    char::from(digit).to_digit(16).map_or(0, |value| value as usize)
}

/// The stamp stands as `"~":"job.n.phase.sent"` near the end of the payload. Snapshots say what was, not what happened:
/// they have none.
fn stamp(data: &[u8]) -> Option<Stamp> {
    let mark = memrchr(b'~', data)?;
    if data.ends_with(b"\"snapshot\":true}") {
        return None;
    }
    let mut numbers = [0_u64; 4];
    let mut digits = data.get(mark + 4..)?.iter();
    for number in &mut numbers {
        for digit in digits.by_ref().take_while(|byte| byte.is_ascii_digit()) {
            *number = *number * 10 + u64::from(digit - b'0');
        }
    }
    let [job, n, phase, sent_us] = numbers;
    (n > 0).then_some(Stamp { job, n, phase, sent_us })
}
