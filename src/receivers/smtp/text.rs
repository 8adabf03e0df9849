//! The little that a receiver must understand of a message's bytes: where it ends, how long its lines are, its Message-ID.
//! It searches with strides rather than byte by byte, because it runs once for every message of a bench.

/// Where a message ends on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Length of the message, its last line end included.
    pub(super) message: usize,
    /// Length of message and terminator.
    pub(super) consumed: usize,
}

/// Finds `CRLF . CRLF` at or after `from` (Boyer–Moore–Horspool). Only this ends a message: bare line feeds do not (SMTP smuggling).
pub(super) fn end_of_data(bytes: &[u8], from: usize) -> Option<End> {
    let mut at = from;
    while let Some(window) = bytes.get(at..at + 5) {
        at += match window[4] {
            b'\n' if window == b"\r\n.\r\n" => return Some(End { message: at + 2, consumed: at + 5 }),
            b'\n' => 3,
            b'\r' => 1,
            b'.' => 2,
            _ => 5,
        };
    }
    None
}

/// Whether a line has more than `limit` bytes before its line feed. Looks for the farthest line feed within the limit and goes on from there.
pub(super) fn has_line_over(limit: usize, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while rest.len() > limit {
        match rest[..=limit].iter().rposition(|b| *b == b'\n') {
            Some(line_feed) => rest = &rest[line_feed + 1..],
            None => return true,
        }
    }
    false
}

/// The Message-ID without its angle brackets; empty where there is none. Reads no further than the headers.
pub(super) fn message_id(message: &[u8]) -> &str {
    const NAME: &[u8] = b"message-id:";
    let mut rest = message;
    while let Some(line_feed) = rest.iter().position(|b| *b == b'\n') {
        if line_feed <= 1 {
            break; // The blank line that ends the headers.
        }
        if rest.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)) {
            return bracketed(&rest[NAME.len()..]).unwrap_or_default();
        }
        rest = &rest[line_feed + 1..];
    }
    ""
}

/// The headers, without the blank line that ends them.
pub(super) fn head(message: &[u8]) -> Vec<u8> {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n").map_or(message.len(), |at| at + 2);
    message[..end].to_vec()
}

/// The text between `<` and `>` in a header's value, which may be folded (RFC 5322 section 2.2.3).
fn bracketed(value: &[u8]) -> Option<&str> {
    let start = value.iter().position(|b| !b.is_ascii_whitespace())?;
    let id = value[start..].strip_prefix(b"<")?;
    let end = id.iter().position(|b| matches!(b, b'>' | b'\r' | b'\n'))?;
    std::str::from_utf8(&id[..end]).ok()
}

/// Takes the added dots away (RFC 5321 section 4.5.2).
pub(super) fn unstuffed(message: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(message.len());
    for line in message.split_inclusive(|b| *b == b'\n') {
        text.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_wherever_the_bytes_are_split() {
        let wire = b"Subject: x\r\n\r\n..dots\r\n.not the end\r\n\n.\nnor this\r\r\n.\r\nQUIT\r\n";
        let end = wire.len() - b".\r\nQUIT\r\n".len();
        for from in 0..end - 2 {
            assert_eq!(end_of_data(wire, from), Some(End { message: end, consumed: end + 3 }), "from {from}");
        }
        for cut in 0..end + 3 {
            assert_eq!(end_of_data(&wire[..cut], 0), None, "cut at {cut}");
        }
    }

    #[test]
    fn long_lines_are_told_from_long_texts() {
        let line = |n: usize| [vec![b'x'; n], b"\r\n".to_vec()].concat();
        assert!(!has_line_over(999, &[line(998), line(998), line(1), line(998)].concat()));
        assert!(has_line_over(999, &[line(10), line(999), line(10)].concat()));
        assert!(has_line_over(999, &[b'x'; 1200]));
    }

    #[test]
    fn a_message_id_is_read_from_the_headers_only() {
        assert_eq!(message_id(b"To: a\r\nMESSAGE-ID: <1@x>\r\n\r\nbody"), "1@x");
        assert_eq!(message_id(b"Message-ID:\r\n <2@x>\r\n\r\n"), "2@x");
        assert_eq!(message_id(b"To: a\r\n\r\nMessage-ID: <3@x>\r\n"), "");
        assert_eq!(message_id(b"Message-ID: none\r\n\r\n"), "");
        assert_eq!(message_id(b""), "");
    }

    #[test]
    fn stuffed_dots_are_taken_away() {
        assert_eq!(unstuffed(b"..a\r\nb.\r\n...\r\n"), b".a\r\nb.\r\n..\r\n");
    }
}
