//! The color in which a person is shown: the same for everybody, everywhere, at any time, without asking anybody.

use crate::event::Id;

/// Readable as text and as a line on white and on near-black: each has a contrast of at least 3 : 1 against both
/// (WCAG 2.2, 1.4.11; `every_color_is_readable_on_light_and_dark` computes it).
const PALETTE: [&str; 16] = [
    "#d1453b", "#c2571a", "#a86f00", "#7d7f00", "#4f8a10", "#1f8f4d", "#008f7a", "#00899e", "#0b82c4", "#3f74e0",
    "#6a68e8", "#8a5fe0", "#a857cf", "#c24fb0", "#d0468a", "#8b7355",
];

/// A pure function of the user's id: FNV-1a (Fowler, Noll, Vo), because its result must never change with a library.
#[must_use]
pub fn color(user: &Id) -> &'static str {
    let hash = user
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let at = usize::try_from((hash ^ (hash >> 32)) % PALETTE.len() as u64).unwrap_or(0);
    PALETTE.get(at).copied().unwrap_or("#3f74e0")
}

#[cfg(test)]
mod tests {
    use super::PALETTE;
    use super::color;
    use crate::event::Id;

    /// Relative luminance by WCAG 2.2.
    fn luminance(color: &str) -> f64 {
        let channel = |at: usize| {
            let value = f64::from(u8::from_str_radix(&color[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    fn contrast(one: &str, other: &str) -> f64 {
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn every_color_is_readable_on_light_and_dark() {
        for color in PALETTE {
            for background in ["#ffffff", "#16181d"] {
                let contrast = contrast(color, background);
                assert!(contrast >= 3.0, "{color} on {background}: {contrast:.2}");
            }
        }
    }

    #[test]
    fn a_color_never_changes() {
        let of = |user: &str| color(&Id::parse(user).unwrap());
        assert_eq!((of("ada"), of("ben"), of("eve")), (of("ada"), of("ben"), of("eve")));
        let mut seen: Vec<&str> = (0..200).map(|at| of(&format!("user-{at}"))).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), PALETTE.len(), "two hundred people use the whole palette");
    }
}
