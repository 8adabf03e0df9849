//! Keeps dead letters in the store, where they can be listed and shown. Replaying one is the API's business.

use crate::{
    processor::{Facts, Incoming, Output, Processor, Refusal},
    retention::Retention,
};
use bellwether_schemas::{
    Timestamp,
    records::DeadLetter,
    rows::{Read, Row},
    tables::DeadLetterRow,
};
use std::time::Duration;

/// How long dead letters are kept by default.
pub const RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// The dead-letter processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeadLetters {
    /// How long they are kept.
    pub retention: Retention,
}

/// A dead letter and its encoded form, which is what is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Decoded.
    pub letter: DeadLetter,
    /// As it came.
    pub encoded: Vec<u8>,
}

impl Processor for DeadLetters {
    const NAME: &'static str = "dead-letters";
    type Input = Kept;

    fn needs(&self, incoming: &Incoming<Kept>, _: &Facts, _: Timestamp) -> Vec<Read> {
        let letter = &incoming.input.letter;
        vec![DeadLetterRow::read_one(letter.project.as_str(), letter.at.day(), letter.id.0)]
    }

    fn decide(&self, incoming: &Incoming<Kept>, facts: &Facts, now: Timestamp) -> Result<Output, Refusal> {
        let letter = &incoming.input.letter;
        if facts.one::<DeadLetterRow>(&self.needs(incoming, facts, now)[0])?.is_some() {
            return Ok(Output::default()); // Kept already; it may have been replayed since.
        }
        let row = DeadLetterRow {
            project: letter.project.clone(),
            day: letter.at.day(),
            id: letter.id.0,
            at: letter.at,
            reason: letter.reason.name().into(),
            detail: letter.detail.clone(),
            record: incoming.input.encoded.clone(),
            replayed_at: None,
        };
        Ok(Output { rows: vec![row.put_for(self.retention.dead_letters)], ..Output::default() })
    }
}
