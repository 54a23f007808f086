//! Which states a client that polls was told at its cursor. Channels that join a stream between two polls have states, which have no
//! position of their own: as long as nothing happens, the cursor alone can't say whether they were told already. Told again and again
//! they would end every wait at once; told once and remembered here, they would be lost with an answer that does not arrive. So the
//! client brings it back: `1.k3f9.m2x1c4d-0.9qk2_1f00ba45`.

use std::collections::HashSet;
use std::fmt;

use sha2::Digest as _;

use crate::event::Channel;

/// A fingerprint of channels, the same on every instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldMark(u32);

impl ToldMark {
    /// Of these channels, if there are any.
    pub(super) fn of(channels: &HashSet<Channel>) -> Option<Self> {
        let mut names: Vec<&str> = channels.iter().map(Channel::as_str).collect();
        names.sort_unstable();
        let hash = sha2::Sha256::digest(names.join(",").as_bytes());
        let bytes = hash.first_chunk::<4>().copied().unwrap_or_default();
        (!names.is_empty()).then(|| Self(u32::from_be_bytes(bytes)))
    }

    /// A poll's cursor without its marks, and this mark. Anything else stays as it is.
    #[must_use]
    pub fn split(text: &str) -> (&str, Option<Self>) {
        let (text, _) = RoomsMark::split(text);
        match text.rsplit_once('_').map(|(cursor, mark)| (cursor, number(mark))) {
            Some((cursor, Some(mark))) => (cursor, Some(Self(mark))),
            _ => (text, None),
        }
    }
}

/// A fingerprint of who was where when a poll was answered; it stands behind the other mark: `…_1f00ba45_p0badcafe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomsMark(u32);

impl RoomsMark {
    /// Of these states, if there are any.
    #[must_use]
    pub fn of<'a>(states: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut hash = sha2::Sha256::new();
        let count = states.inspect(|state| hash.update(state.as_bytes())).count();
        let bytes = hash.finalize().first_chunk::<4>().copied().unwrap_or_default();
        (count > 0).then(|| Self(u32::from_be_bytes(bytes)))
    }

    /// A poll's cursor without this mark, and the mark.
    #[must_use]
    pub fn split(text: &str) -> (&str, Option<Self>) {
        let (cursor, mark) = text.rsplit_once("_p").unwrap_or((text, ""));
        number(mark).map_or((text, None), |mark| (cursor, Some(Self(mark))))
    }
}

impl fmt::Display for RoomsMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "_p{:08x}", self.0)
    }
}

fn number(mark: &str) -> Option<u32> {
    let digits = mark.len() == 8 && mark.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    digits.then(|| u32::from_str_radix(mark, 16).ok()).flatten()
}

impl fmt::Display for ToldMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "_{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use crate::event::Channel;
    use crate::session::RoomsMark;
    use crate::session::ToldMark;

    #[test]
    fn both_marks_come_back() {
        let rooms = RoomsMark::of(["a", "b"].into_iter()).unwrap();
        assert_ne!(RoomsMark::of(["a"].into_iter()), Some(rooms));
        assert_eq!(RoomsMark::of([].into_iter()), None);
        let told = ToldMark::of(&HashSet::from([Channel::parse("jobs.a").unwrap()])).unwrap();
        for (text, wanted) in [
            (format!("1.a.0-0.0{told}{rooms}"), ("1.a.0-0.0", Some(told))),
            (format!("1.a.0-0.0{rooms}"), ("1.a.0-0.0", None)),
        ] {
            assert_eq!(ToldMark::split(&text), wanted);
            assert_eq!(RoomsMark::split(&text).1, Some(rooms));
        }
        assert_eq!(RoomsMark::split("1.a.0-0.0_p12"), ("1.a.0-0.0_p12", None));
    }

    #[test]
    fn a_mark_comes_back_as_it_was_written() {
        let channels = |names: &[&str]| names.iter().map(|name| Channel::parse(name).unwrap()).collect::<HashSet<_>>();
        let mark = ToldMark::of(&channels(&["jobs.a", "jobs.b"])).unwrap();
        assert_eq!(ToldMark::of(&channels(&["jobs.b", "jobs.a"])), Some(mark), "in any order");
        assert_ne!(ToldMark::of(&channels(&["jobs.b"])), Some(mark));
        assert_eq!(ToldMark::of(&HashSet::new()), None);
        assert_eq!(ToldMark::split(&format!("1.a.0-0.0{mark}")), ("1.a.0-0.0", Some(mark)));
        for other in ["1.a.0-0.0", "1.a.0-0.0_", "1.a.0-0.0_1F00BA45", "1.a.0-0.0_1f00ba4", "_"] {
            assert_eq!(ToldMark::split(other), (other, None));
        }
    }
}
