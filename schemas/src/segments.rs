//! How many segments a text message is cut into, which is what carriers bill: the encoding that its characters allow, its units, and the cut
//! (3GPP TS 23.038 section 6.2.1 and TS 23.040 section 9.2.3.24.1). Nothing is sent or shortened here.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Characters of the GSM 7-bit default alphabet in the order of the table, without the escape (0x1B).
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?\
    ¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// Characters of its extension table, each an escape and a second septet.
const EXTENSION: &str = "\u{c}^{}\\[~]|€";

/// How a text travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// The GSM alphabet, a septet a character and two for those of the extension.
    #[serde(rename = "GSM-7")]
    Gsm7,
    /// Two bytes a unit of UTF-16, because one character at least is not in the GSM alphabet.
    #[serde(rename = "UCS-2")]
    Ucs2,
}

impl Encoding {
    /// The name in metrics and texts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gsm7 => "GSM-7",
            Self::Ucs2 => "UCS-2",
        }
    }

    /// Units that a message of one segment has room for: 140 bytes.
    #[must_use]
    pub const fn alone(self) -> usize {
        match self {
            Self::Gsm7 => 160,
            Self::Ucs2 => 70,
        }
    }

    /// Units that each of several segments has room for: six bytes less, which say that they belong together.
    #[must_use]
    pub const fn concatenated(self) -> usize {
        match self {
            Self::Gsm7 => 153,
            Self::Ucs2 => 67,
        }
    }

    /// Units of a character, which are never parted: both halves of it would be read as other characters.
    fn units(self, c: char) -> usize {
        match self {
            Self::Gsm7 => 1 + usize::from(EXTENSION.contains(c)),
            Self::Ucs2 => c.len_utf16(),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text as carriers count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments {
    /// How it travels.
    pub encoding: Encoding,
    /// Septets (GSM-7) or UTF-16 units (UCS-2) in all.
    pub units: usize,
    /// Segments; an empty text is one, too.
    pub segments: usize,
}

/// `2 segments, UCS-2`.
impl fmt::Display for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.segments == 1 { "" } else { "s" };
        write!(f, "{} segment{plural}, {}", self.segments, self.encoding)
    }
}

/// Counts a text.
#[must_use]
pub fn segments(text: &str) -> Segments {
    let encoding = if text.chars().all(is_gsm) { Encoding::Gsm7 } else { Encoding::Ucs2 };
    let units = text.chars().map(|c| encoding.units(c)).sum();
    if units <= encoding.alone() {
        return Segments { encoding, units, segments: 1 };
    }
    let (mut segments, mut room) = (1, encoding.concatenated());
    for needed in text.chars().map(|c| encoding.units(c)) {
        if needed > room {
            (segments, room) = (segments + 1, encoding.concatenated());
        }
        room -= needed;
    }
    Segments { encoding, units, segments }
}

/// The only character because of which a text is no GSM-7; `None` where there is none, or more than one.
#[must_use]
pub fn only_foreign(text: &str) -> Option<char> {
    let mut foreign = text.chars().filter(|c| !is_gsm(*c));
    let first = foreign.next()?;
    foreign.all(|c| c == first).then_some(first)
}

fn is_gsm(c: char) -> bool {
    // Most characters are found without walking the table.
    c.is_ascii_alphanumeric() || BASIC.contains(c) || EXTENSION.contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_alphabet_is_the_tables() {
        // 128 places, of which one is the escape; ten more behind it.
        assert_eq!((BASIC.chars().count(), EXTENSION.chars().count()), (127, 10));
        assert!(BASIC.chars().all(|c| !EXTENSION.contains(c)));
        // By their places in TS 23.038: 0x09, 0x10, 0x40, 0x5D, 0x60 and 0x7F. The escape is left out, so one less behind it.
        for (place, c) in [(0x09, 'Ç'), (0x10, 'Δ'), (0x40 - 1, '¡'), (0x5d - 1, 'Ñ'), (0x60 - 1, '¿'), (0x7f - 1, 'à')]
        {
            assert_eq!(BASIC.chars().nth(place), Some(c));
        }
    }

    /// Counted by hand; 160, 153, 70 and 67 are <https://www.twilio.com/docs/glossary/what-sms-character-limit>'s and the standard's.
    #[test]
    fn a_text_is_cut_as_carriers_cut_it() {
        let (gsm, ucs) = (Encoding::Gsm7, Encoding::Ucs2);
        for (text, times, encoding, units, segments) in [
            ("", 1, gsm, 0, 1),
            ("a", 160, gsm, 160, 1),
            ("a", 161, gsm, 161, 2),
            ("a", 306, gsm, 306, 2),
            ("a", 307, gsm, 307, 3),
            ("ñ", 160, gsm, 160, 1),
            ("\n", 160, gsm, 160, 1),
            // Two septets each: 80 fill a message, and 76 a segment of 153, because the 77th would be parted.
            ("€", 80, gsm, 160, 1),
            ("€", 81, gsm, 162, 2),
            ("€", 152, gsm, 304, 2),
            ("€", 153, gsm, 306, 3),
            ("á", 70, ucs, 70, 1),
            ("á", 71, ucs, 71, 2),
            ("á", 134, ucs, 134, 2),
            ("á", 135, ucs, 135, 3),
            // Two units each: 35 fill a message, and 33 a segment of 67.
            ("🚀", 35, ucs, 70, 1),
            ("🚀", 36, ucs, 72, 2),
            ("🚀", 66, ucs, 132, 2),
            ("🚀", 67, ucs, 134, 3),
            // No letter of GSM's: a Greek alpha that only looks like one, the Romans' small ç, a backtick, a tab.
            ("Α", 1, ucs, 1, 1),
            ("ç", 1, ucs, 1, 1),
            ("`", 1, ucs, 1, 1),
            ("\t", 1, ucs, 1, 1),
        ] {
            assert_eq!(
                super::segments(&text.repeat(times)),
                Segments { encoding, units, segments },
                "{text} × {times}"
            );
        }
        // The extension's character is the 153rd septet of the first segment, and so begins the second.
        let text = format!("{}€{}", "a".repeat(152), "a".repeat(151));
        assert_eq!(super::segments(&text), Segments { encoding: gsm, units: 305, segments: 2 });
        assert_eq!(super::segments(&(text + "a")), Segments { encoding: gsm, units: 306, segments: 3 });
    }

    #[test]
    fn it_is_told_in_words() {
        assert_eq!(segments("Hi").to_string(), "1 segment, GSM-7");
        assert_eq!(segments(&"á".repeat(71)).to_string(), "2 segments, UCS-2");
        for (text, foreign) in [("It’s ’s", Some('’')), ("Hi", None), ("está aquí", None), ("ááá", Some('á'))]
        {
            assert_eq!(only_foreign(text), foreign, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_segment_is_overfull_and_none_is_wasted(text in prop_oneof![any::<String>(), "[a-z€\\[{]{0,700}", "[a-z🚀á]{0,400}"]) {
            let Segments { encoding, units, segments } = segments(&text);
            prop_assert_eq!(encoding == Encoding::Gsm7, text.chars().all(is_gsm));
            if segments == 1 {
                prop_assert!(units <= encoding.alone());
            } else {
                prop_assert!(units > encoding.alone());
                // At most one unit of a segment is left empty by a character that would be parted.
                prop_assert!(segments >= units.div_ceil(encoding.concatenated()));
                prop_assert!(segments <= units.div_ceil(encoding.concatenated() - 1));
            }
            let longer = text + "a";
            prop_assert!(super::segments(&longer).segments >= segments);
        }

        #[test]
        fn without_its_one_foreign_character_a_text_is_gsm(before in "[a-zé €]{0,20}", foreign in "[áí’🚀]", after in "[A-Z!]{0,20}") {
            let text = format!("{before}{foreign}{after}{foreign}");
            prop_assert_eq!(only_foreign(&text), foreign.chars().next());
            prop_assert_eq!(segments(&text.replace(&foreign, "")).encoding, Encoding::Gsm7);
        }
    }
}
