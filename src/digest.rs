//! SHA-256 of texts that come from outside, as hex: a name that is safe in a key and says nothing of what it names.

use sha2::Digest as _;
use sha2::Sha256;

/// Digits of a name: 160 bits, enough for a thing to be known by it.
const NAME_DIGITS: usize = 40;

/// Of parts, each with its length before it: no two lists have the same.
#[must_use]
pub fn of_parts(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

/// The same, as short as a name may be.
#[must_use]
pub fn name_of(parts: &[&str]) -> String {
    let mut name = of_parts(parts);
    name.truncate(NAME_DIGITS);
    name
}

/// Two lower-case digits for each byte.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use crate::digest::name_of;
    use crate::digest::of_parts;

    #[test]
    fn where_a_part_ends_counts() {
        assert_ne!(of_parts(&["ab", "c"]), of_parts(&["a", "bc"]));
        assert_ne!(of_parts(&["a"]), of_parts(&["a", ""]));
        assert_eq!(name_of(&["ada", "page-0001"]).len(), 40);
    }
}
