//! One stream as cheaply as possible: bytes in, the numbers inside the payloads out.

/// A number that an event carried, and when it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) n: u64,
    pub(crate) sent_us: u64,
    /// From before the measured time.
    pub(crate) cold: bool,
}

/// What the stream said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Ready,
    Reset,
    /// `end` or `problem`.
    End,
    Stamp(Stamp),
}

/// Where we are in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Head,
    /// The line with a chunk's size, of which these digits were read.
    Size(usize, bool),
    Data(usize),
    /// The line break after a chunk.
    DataEnd,
}

/// Parser of one connection. Expects a chunked answer.
#[derive(Debug)]
pub(crate) struct Parser {
    at: At,
    /// A line of which the end has not come; the whole head, too.
    line: Vec<u8>,
    event: Event,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Ready,
    Reset,
    End,
    /// `job:update`, `doc:update`
    Update,
    Other,
}

/// The answer is not `200` with chunks, as a refusal is not; its first line.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

impl Default for Parser {
    fn default() -> Self {
        Self { at: At::Head, line: Vec::new(), event: Event::Other }
    }
}

impl Parser {
    /// Takes bytes in and tells what they complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], tell: &mut impl FnMut(Said)) -> Result<(), Refused> {
        while let Some((first, rest)) = bytes.split_first() {
            match self.at {
                At::Head => {
                    self.line.push(*first);
                    bytes = rest;
                    self.head()?;
                }
                At::Size(size, done) => {
                    self.at = match first {
                        b'\n' if size == 0 => return Ok(()), // the last chunk: the connection closes
                        b'\n' => At::Data(size),
                        digit if !done && digit.is_ascii_hexdigit() => At::Size(size * 16 + hex(*digit), false),
                        _ => At::Size(size, true),
                    };
                    bytes = rest;
                }
                At::Data(left) => {
                    let (data, rest) = bytes.split_at(left.min(bytes.len()));
                    self.data(data, tell);
                    self.at = if left == data.len() { At::DataEnd } else { At::Data(left - data.len()) };
                    bytes = rest;
                }
                At::DataEnd => {
                    if *first == b'\n' {
                        self.at = At::Size(0, false);
                    }
                    bytes = rest;
                }
            }
        }
        Ok(())
    }

    fn head(&mut self) -> Result<(), Refused> {
        if !self.line.ends_with(b"\r\n\r\n") {
            return Ok(());
        }
        let head = String::from_utf8_lossy(&self.line).to_ascii_lowercase();
        if !head.starts_with("http/1.1 200") || !head.contains("transfer-encoding: chunked") {
            return Err(Refused(format!("not a stream: {}", head.lines().next().unwrap_or_default())));
        }
        self.line.clear();
        self.at = At::Size(0, false);
        Ok(())
    }

    fn data(&mut self, data: &[u8], tell: &mut impl FnMut(Said)) {
        let mut parts = data.split(|byte| *byte == b'\n');
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            if self.line.is_empty() {
                self.line(part, tell);
            } else {
                self.line.extend_from_slice(part);
                let line = std::mem::take(&mut self.line);
                self.line(&line, tell);
            }
        }
        self.line.extend_from_slice(last);
    }

    fn line(&mut self, line: &[u8], tell: &mut impl FnMut(Said)) {
        if let Some(name) = line.strip_prefix(b"event: ") {
            self.event = match name {
                b"ready" => Event::Ready,
                b"reset" => Event::Reset,
                b"end" | b"problem" => Event::End,
                b"job:update" | b"doc:update" => Event::Update,
                _ => Event::Other,
            };
        } else if let Some(data) = line.strip_prefix(b"data: ") {
            match self.event {
                Event::Ready => tell(Said::Ready),
                Event::Reset => tell(Said::Reset),
                Event::End => tell(Said::End),
                Event::Update => stamp(data).into_iter().for_each(|stamp| tell(Said::Stamp(stamp))),
                Event::Other => {}
            }
        }
    }
}

fn hex(digit: u8) -> usize {
    char::from(digit).to_digit(16).map_or(0, |value| value as usize)
}

/// Snapshots say what was, not what happened: they carry no stamp.
fn stamp(data: &[u8]) -> Option<Stamp> {
    if data.ends_with(b"\"snapshot\":true}") {
        return None;
    }
    let cold = number(data, b"\"cold\":")? == 1;
    Some(Stamp { n: number(data, b"\"n\":")?, sent_us: number(data, b"\"t\":")?, cold })
}

fn number(data: &[u8], key: &[u8]) -> Option<u64> {
    let at = data.windows(key.len()).position(|window| window == key)? + key.len();
    let digits = data.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |value: u64, digit| value * 10 + u64::from(digit - b'0')))
}
