//! Names and locales: what they may look like, and which known one was meant.
//! Knows nothing of what the names stand for.

/// Longest name of a provider, template or flow, in bytes.
const MAX_NAME: usize = 63;

/// Why a provider, template, flow or category may not be called so, if it may not.
#[must_use]
pub fn name_problem(name: &str) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    if name.is_empty() {
        Some("the name is empty")
    } else if name.len() > MAX_NAME {
        Some("the name is longer than 63 characters")
    } else if name.bytes().all(allowed) {
        None
    } else {
        Some("the name has other characters than a-z, 0-9, `_` and `-`")
    }
}

/// Whether this names a project: 1 to 63 of `[a-z0-9-]`, beginning with a letter.
#[must_use]
pub fn is_project_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && name.as_bytes()[0].is_ascii_lowercase() && name.bytes().all(allowed)
}

/// The usual spelling of a locale of language, optional script and optional region (RFC 5646 section 2.1.1: `zh-Hant-TW`, `es-419`),
/// or `None` for anything else. Underscores pass for hyphens, because half of the world's clients send `es_AR`.
#[must_use]
pub fn canonical_locale(text: &str) -> Option<String> {
    let alphabetic = |part: &str, length: std::ops::RangeInclusive<usize>| {
        length.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphabetic())
    };
    let mut parts = text.split(['-', '_']).peekable();
    let language = parts.next().filter(|part| alphabetic(part, 2..=3))?;
    let mut canonical = language.to_ascii_lowercase();
    if let Some(script) = parts.next_if(|part| alphabetic(part, 4..=4)) {
        canonical.push('-');
        canonical.push_str(&script[..1].to_ascii_uppercase());
        canonical.push_str(&script[1..].to_ascii_lowercase());
    }
    let is_region =
        |part: &&str| alphabetic(part, 2..=2) || (part.len() == 3 && part.bytes().all(|b| b.is_ascii_digit()));
    if let Some(region) = parts.next_if(is_region) {
        canonical.push('-');
        canonical.push_str(&region.to_ascii_uppercase());
    }
    parts.next().is_none().then_some(canonical)
}

/// The known name that was probably meant: the one with the fewest edits, at most a third of its length. A beginning of four letters counts as
/// one edit.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (if given.len() >= 4 && name.starts_with(given) { 1 } else { edits(given, name) }, name))
        .filter(|(distance, name)| *distance <= (name.chars().count().max(3) / 3))
        .min()
        .map(|(_, name)| name)
}

/// `(did you mean `x`?)` with a space before it, or nothing.
pub fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(given, known).map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

/// Insertions, deletions, substitutions and swaps of neighbours between two texts (optimal string alignment).
/// Texts beyond any name's length are told apart without the quadratic work.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(128).collect(), b.chars().take(128).collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j - 1] + same).min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_within_a_third_of_its_length() {
        let known = ["order_placed", "order_shipped", "otp"];
        for (given, meant) in [
            ("order_plcaed", Some("order_placed")),
            ("order_shiped", Some("order_shipped")),
            ("opt", Some("otp")),
            ("order_sh", Some("order_shipped")),
            ("welcome", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, known), meant, "{given}");
        }
    }

    #[test]
    fn locales_have_one_spelling() {
        for (given, canonical) in [
            ("es", Some("es")),
            ("ES_ar", Some("es-AR")),
            ("zh-hant-tw", Some("zh-Hant-TW")),
            ("es-419", Some("es-419")),
            ("english", None),
            ("e", None),
            ("es-AR-x-private", None),
            ("es--AR", None),
            ("", None),
            ("ñu", None),
        ] {
            assert_eq!(canonical_locale(given).as_deref(), canonical, "{given}");
        }
    }

    #[test]
    fn names_are_plain() {
        for name in ["order_placed", "a", "2fa-code"] {
            assert_eq!(name_problem(name), None, "{name}");
        }
        for name in ["", "Order", "a.b", "a/b", "ñ", &"x".repeat(64)] {
            assert!(name_problem(name).is_some(), "{name}");
        }
        assert!(
            is_project_name("shop-2") && !is_project_name("2shop") && !is_project_name("a_b") && !is_project_name("")
        );
    }
}
