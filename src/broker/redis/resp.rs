//! Reading RESP (version 2) as fast as the tail of a full log needs it.
//!
//! The crate's parser takes a third of what this process spends on an update, for its state between two reads; we look for the
//! end of an answer first, and parse what is there as a whole.

use redis::Value;

/// Longest answer: a thousand entries of the largest updates are half of it.
const ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Deepest nesting: an answer to `XREAD` has five levels.
const DEPTH_MAX: usize = 16;

/// What came is not RESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbled;

/// Looks for the end of one answer, and goes on where it stopped when more has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan {
    at: usize,
    /// Values that are still to come.
    open: usize,
}

impl Default for Scan {
    fn default() -> Self {
        Self { at: 0, open: 1 }
    }
}

impl Scan {
    /// The length of the answer, once it is there.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Garbled> {
        while self.open > 0 {
            let Some((kind, line, next)) = bytes.get(self.at..).and_then(head) else { return Ok(None) };
            let (mut end, mut more) = (self.at + next, 0);
            match kind {
                b'$' => {
                    if let Some(length) = length(line)? {
                        end = end.checked_add(length + 2).ok_or(Garbled)?;
                    }
                }
                b'*' => more = length(line)?.unwrap_or(0),
                b'+' | b'-' | b':' => {}
                _ => return Err(Garbled),
            }
            if end > ANSWER_BYTES_MAX || more > ANSWER_BYTES_MAX {
                return Err(Garbled);
            }
            if end > bytes.len() {
                return Ok(None);
            }
            (self.at, self.open) = (end, self.open - 1 + more);
        }
        Ok(Some(self.at))
    }
}

/// Kind and rest of the first line, and where the next one begins.
fn head(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (kind, line) = bytes.get(..end)?.split_first()?;
    Some((*kind, line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// `None`: -1, nothing.
fn length(line: &[u8]) -> Result<Option<usize>, Garbled> {
    if line == b"-1" {
        return Ok(None);
    }
    let digit = |sum: usize, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| usize::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    let length = line.iter().try_fold(0, digit).filter(|length| *length <= ANSWER_BYTES_MAX && !line.is_empty());
    length.map(Some).ok_or(Garbled)
}

/// The text of an answer that is an error.
pub(super) fn error(bytes: &[u8]) -> Option<String> {
    let (_, line, _) = head(bytes).filter(|(kind, ..)| *kind == b'-')?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// The answer that takes all of these bytes, and is no error. (None of ours has errors inside.)
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Garbled> {
    let mut rest = bytes;
    let value = value(&mut rest, DEPTH_MAX)?;
    if rest.is_empty() { Ok(value) } else { Err(Garbled) }
}

fn value(rest: &mut &[u8], depth: usize) -> Result<Value, Garbled> {
    let (kind, line, next) = head(rest).ok_or(Garbled)?;
    *rest = rest.get(next..).ok_or(Garbled)?;
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    Ok(match kind {
        b'$' => match length(line)? {
            None => Value::Nil,
            Some(length) => {
                let bytes = rest.get(..length).ok_or(Garbled)?.to_vec();
                *rest = rest.get(length..).and_then(|rest| rest.strip_prefix(b"\r\n")).ok_or(Garbled)?;
                Value::BulkString(bytes)
            }
        },
        b'*' => match length(line)? {
            None => Value::Nil,
            // An element has three bytes at least.
            Some(count) if count > rest.len() => return Err(Garbled),
            Some(count) => {
                let depth = depth.checked_sub(1).ok_or(Garbled)?;
                Value::Array((0..count).map(|_| value(rest, depth)).collect::<Result<_, _>>()?)
            }
        },
        b':' => Value::Int(text(line).parse().map_err(|_| Garbled)?),
        b'+' if line == b"OK" => Value::Okay,
        b'+' => Value::SimpleString(text(line)),
        _ => return Err(Garbled),
    })
}
