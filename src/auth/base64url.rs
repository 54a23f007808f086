//! base64url without padding, strictly (RFC 7515 §2): one text per value.
//!
//! A lenient decoder would accept several texts for one token, and a list of revoked tokens would miss all but one.

/// The bytes; `None` for padding, another alphabet, an impossible length, or bits that mean nothing but aren't zero.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in text.bytes() {
        bits = (bits << 6) | value(byte)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held).ok()?);
            bits &= (1 << held) - 1;
        }
    }
    (held < 6 && bits == 0).then_some(out)
}

fn value(byte: u8) -> Option<u32> {
    Some(match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    })
}
