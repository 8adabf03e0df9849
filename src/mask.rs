//! Addresses as they may be shown: enough to recognise one's own, too little to write to.

/// Masks an e-mail address or a phone number.
#[must_use]
pub fn address(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((local, domain)) => {
            let first: String = local.chars().take(1).collect();
            format!("{first}***@{domain}")
        }
        None => {
            let shown =
                |range: std::ops::Range<usize>| text.chars().skip(range.start).take(range.len()).collect::<String>();
            let length = text.chars().count();
            if length < 8 { "***".into() } else { format!("{}***{}", shown(0..3), shown(length - 2..length)) }
        }
    }
}

/// Masks whatever looks like an address within free text, such as a provider's words.
#[must_use]
pub fn text(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || "<>()[]{},;:\"'`=".contains(c);
    let mut masked = String::with_capacity(text.len());
    for piece in text.split_inclusive(ends) {
        let word = piece.trim_end_matches(ends);
        let digits = word.chars().filter(char::is_ascii_digit).count();
        let phone = word.starts_with('+') && digits >= 7;
        if word.contains('@') || phone {
            masked.push_str(&address(word));
        } else {
            masked.push_str(word);
        }
        masked.push_str(&piece[word.len()..]);
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hidden_wherever_they_stand() {
        assert_eq!(address("anna.berg@example.org"), "a***@example.org");
        assert_eq!(address("+4915112345678"), "+49***78");
        assert_eq!(address("12345"), "***");
        assert_eq!(text("550 5.1.1 <anna@example.org>: no such user"), "550 5.1.1 <a***@example.org>: no such user");
        assert_eq!(text("21211 to=+4915112345678, invalid"), "21211 to=+49***78, invalid");
        assert_eq!(text("nothing to hide, v1.2"), "nothing to hide, v1.2");
    }
}
