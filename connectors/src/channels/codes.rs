//! Tables of what a provider's error codes mean for us: one data file a provider (`PROVIDER.codes.csv`), read by this module alone.
//! What follows from a kind is decided elsewhere.
//!
//! A file begins with `#` comments (its source), then has the line `code,kind,wait_seconds,name`, then one line a code, sorted. A wait is
//! the provider's rule for one address, where it has such; the name comes last, so it may hold commas.

use super::SendError;
use bellwether_schemas::records::ErrorKind;
use serde::{Deserialize as _, de::IntoDeserializer as _};
use std::time::Duration;

const HEAD: &str = "code,kind,wait_seconds,name";

/// A number or a word.
pub(crate) trait Code: Copy + Ord {
    fn read(text: &'static str) -> Option<Self>;
}

impl Code for u32 {
    fn read(text: &'static str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Code for &'static str {
    fn read(text: &'static str) -> Option<Self> {
        Some(text)
    }
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<C = u32> {
    pub(crate) code: C,
    pub(crate) kind: ErrorKind,
    /// How long this address is to be left alone.
    pub(crate) wait: Option<Duration>,
    /// Name of the code, in few words.
    pub(crate) name: &'static str,
}

impl<C: Code> Line<C> {
    fn parse(text: &'static str) -> Option<Self> {
        let mut fields = text.splitn(4, ',');
        let code = C::read(fields.next()?)?;
        let kind: Result<_, serde::de::value::Error> = ErrorKind::deserialize(fields.next()?.into_deserializer());
        let wait = match fields.next()? {
            "" => None,
            seconds => Some(Duration::from_secs(seconds.parse().ok()?)),
        };
        Some(Self { code, kind: kind.ok()?, wait, name: fields.next()? })
    }

    /// The error that says so; a wait is for the address alone.
    pub(crate) fn error(&self, detail: String) -> SendError {
        SendError { after: self.wait, of_address: self.wait.is_some(), ..SendError::new(self.kind, detail) }
    }
}

/// Reads a file that is compiled in. A line that does not read is left out, and its provider's test says so.
pub(crate) fn parse<C: Code>(file: &'static str) -> Vec<Line<C>> {
    lines(file).filter_map(Line::parse).collect()
}

fn lines(file: &'static str) -> impl Iterator<Item = &'static str> {
    file.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).skip_while(|line| *line == HEAD)
}

/// The line of `code` in a table that has each once.
pub(crate) fn find<C: Copy + Ord>(table: &[Line<C>], code: C) -> Option<&Line<C>> {
    table.binary_search_by_key(&code, |line| line.code).ok().and_then(|at| table.get(at))
}

/// What every table's test begins with: every line reads, and the codes are in order.
#[cfg(test)]
pub(crate) fn assert_sound<C: Code>(file: &'static str) -> Vec<Line<C>> {
    let table = parse(file);
    assert!(file.starts_with("# Source: https://"), "it names its source");
    assert!(file.contains(&format!("\n{HEAD}\n")), "it has its head");
    let unread: Vec<_> = lines(file).filter(|line| Line::<C>::parse(line).is_none()).collect();
    assert!(unread.is_empty() && !table.is_empty(), "{unread:?}");
    assert!(table.is_sorted_by_key(|line| line.code), "sorted by code");
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_line_by_line() {
        let file = "# Source: https://x\ncode,kind,wait_seconds,name\n1,opted_out,,no, thanks\nx,rejected,,bad\n2,sad,,bad\n3,throttled,x,bad\n4,throttled,6,slow\n";
        let wait = Some(Duration::from_secs(6));
        let expected = [
            Line { code: 1, kind: ErrorKind::OptedOut, wait: None, name: "no, thanks" },
            Line { code: 4, kind: ErrorKind::Throttled, wait, name: "slow" },
        ];
        let table = parse(file);
        assert_eq!(table, expected);
        assert_eq!((find(&table, 4), find(&table, 2)), (Some(&expected[1]), None));
        let error = expected[1].error("4: slow".into());
        assert_eq!((error.after, error.of_address), (wait, true));
        assert!(!expected[0].error(String::new()).of_address);
        let words = parse::<&str>("# Source: https://x\ncode,kind,wait_seconds,name\nA,rejected,,a\nB,transient,,b\n");
        assert_eq!(find(&words, "B").map(|line| line.kind), Some(ErrorKind::Transient));
    }
}
