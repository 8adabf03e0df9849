//! Adds up what the test programs say of themselves. It reads libtest's lines, and decides nothing.

use std::fmt;

/// Tests counted over all test programs of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that were ignored.
    pub(crate) skipped: u64,
}

impl Summary {
    /// Takes one line of output; every line but libtest's result line is left alone:
    /// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
    pub(crate) fn read(&mut self, line: &str) {
        let Some((_, counts)) = line.trim_start().strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            if let Some((number, what)) = count.split_once(' ')
                && let Ok(number) = number.parse::<u64>()
            {
                match what {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.skipped += number,
                    _ => {}
                }
            }
        }
    }
}

/// `N passed, N failed`, and `, N skipped` where there were any.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Summary {
        let mut summary = Summary::default();
        text.lines().for_each(|line| summary.read(line));
        summary
    }

    #[test]
    fn results_of_several_programs_add_up() {
        let summary = read(
            "running 2 tests\n\
            test a ... ok\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n\
            test result: FAILED. 10 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 1.20s\n",
        );
        assert_eq!(summary, Summary { passed: 12, failed: 3, skipped: 1 });
        assert_eq!(summary.to_string(), "12 passed, 3 failed, 1 skipped");
    }

    #[test]
    fn skipped_is_named_only_where_there_is_one() {
        assert_eq!(
            read("test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s")
                .to_string(),
            "7 passed, 0 failed"
        );
    }

    #[test]
    fn other_lines_count_nothing() {
        let lines = "test result: nonsense\ntest results ... ok\nassertion failed: 3 passed; 4 failed\ntest result: ok. x passed; -1 failed\n";
        assert_eq!(read(lines), Summary::default());
    }
}
