//! Recognises JSON that already stands in our own spelling, as most publishers send it: then nothing has to be written anew.

use crate::jobs::compact::KEYS_MAX;

/// Nesting that is looked into; deeper objects go the long way.
const DEPTH_MAX: usize = 8;
/// Digits of numbers that any reader takes as they stand.
const DIGITS_MAX: usize = 15;

/// Whether a text is a JSON object without a blank, an escape, a fraction or a key twice: what `compact_object` would write.
/// `false` says nothing.
pub(super) fn is_plain_object(text: &str) -> bool {
    text.starts_with('{') && value(text.as_bytes(), DEPTH_MAX).is_some_and(<[u8]>::is_empty)
}

/// What follows the value with which a text begins.
fn value(text: &[u8], depth: usize) -> Option<&[u8]> {
    match text {
        [b'"', rest @ ..] => string(rest),
        [b'{', rest @ ..] => object(rest, depth.checked_sub(1)?),
        [b'[', rest @ ..] => array(rest, depth.checked_sub(1)?),
        [b't', b'r', b'u', b'e', rest @ ..]
        | [b'f', b'a', b'l', b's', b'e', rest @ ..]
        | [b'n', b'u', b'l', b'l', rest @ ..]
        | [b'0', rest @ ..] => Some(rest),
        [b'-', rest @ ..] => digits(rest),
        _ => digits(text),
    }
}

/// What follows the quote that ends a string.
fn string(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| *byte < b' ' || *byte == b'"' || *byte == b'\\')?;
    text.get(end..)?.strip_prefix(b"\"")
}

fn digits(text: &[u8]) -> Option<&[u8]> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = (1..=DIGITS_MAX).contains(&count) && text.first() != Some(&b'0');
    text.get(count..).filter(|_| whole)
}

fn array(text: &[u8], depth: usize) -> Option<&[u8]> {
    if let [b']', rest @ ..] = text {
        return Some(rest);
    }
    let mut text = text;
    loop {
        match value(text, depth)? {
            [b',', rest @ ..] => text = rest,
            [b']', rest @ ..] => return Some(rest),
            _ => return None,
        }
    }
}

fn object(text: &[u8], depth: usize) -> Option<&[u8]> {
    if let [b'}', rest @ ..] = text {
        return Some(rest);
    }
    let (mut text, mut keys, mut count) = (text, [&[][..]; KEYS_MAX], 0);
    loop {
        let key = text.strip_prefix(b"\"")?;
        let rest = string(key)?;
        let key = key.get(..key.len() - rest.len())?;
        if keys.iter().take(count).any(|other| *other == key) {
            return None;
        }
        *keys.get_mut(count)? = key;
        count += 1;
        match value(rest.strip_prefix(b":")?, depth)? {
            [b',', rest @ ..] => text = rest,
            [b'}', rest @ ..] => return Some(rest),
            _ => return None,
        }
    }
}
