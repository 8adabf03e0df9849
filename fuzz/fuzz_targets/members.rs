//! An import of members takes any bytes, in both formats and in pieces of any size: the same rows come out, each a member or an error.
#![no_main]

use bellwether::http::{
    problem::FieldError,
    profile,
    rows::{Format, MAX_RAW_BYTES, MEMBERS, Row, Rows, member},
};
use libfuzzer_sys::fuzz_target;

fn rows(format: Format, file: &[u8], step: usize) -> Result<Vec<Row>, FieldError> {
    let (mut rows, mut all) = (Rows::new(format, &MEMBERS), Vec::new());
    for piece in file.chunks(step) {
        rows.push(piece);
        while let Some(row) = rows.next_row()? {
            all.push(row);
        }
    }
    rows.end();
    while let Some(row) = rows.next_row()? {
        all.push(row);
    }
    Ok(all)
}

fuzz_target!(|file: &[u8]| {
    for format in [Format::Csv, Format::Ndjson] {
        let whole = rows(format, file, file.len().max(1));
        assert_eq!(rows(format, file, 7), whole);
        for row in whole.into_iter().flatten() {
            // A character that is cut in two is replaced by one of three bytes.
            assert!(row.line >= 1 && row.raw.len() <= 3 * MAX_RAW_BYTES);
            if let Ok((id, fields)) = row.read.and_then(member) {
                drop(profile::member_id(&id));
                drop(profile::patch(fields, Some("ES")));
            }
        }
    }
});
