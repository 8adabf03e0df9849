//! The rows of an import, cut out of a stream of bytes as they come: CSV (RFC 4180) or JSON lines.
//! Pure, with a bounded buffer. A row that is broken costs itself and no neighbour: a quote that is never closed would make the usual
//! readers take the rest of the file for one field; here its line is rejected, and reading goes on with the next line.

use super::problem::FieldError;
use bellwether_schemas::Channel;
use serde_json::{Map, Value};

/// Most bytes of a row.
pub const MAX_ROW_BYTES: usize = 64 * 1_024;
/// Bytes of a rejected row that are kept.
pub const MAX_RAW_BYTES: usize = 4_096;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// How an import is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values with a header line.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

/// What the rows of an import are about.
#[derive(Debug)]
pub struct Sheet {
    /// What a column of a CSV holds, by its name.
    column: fn(&str) -> Option<Column>,
    /// The columns that every CSV needs.
    needed: &'static [&'static str],
    /// What to do about a header that does not do.
    remedy: &'static str,
}

/// Members: the fields of `PUT /v1/members/{id}`, and `id`.
pub const MEMBERS: Sheet = Sheet {
    column: of_member,
    needed: &["id"],
    remedy: "name the columns id, email, phone, whatsapp, telegram, app_push, webhook, locale, time_zone, quiet_hours.from, quiet_hours.to, channels, opt_ins.CHANNEL, attributes.NAME, attributes, proof",
};

/// Suppressions, as their export writes them.
pub const SUPPRESSIONS: Sheet = Sheet {
    column: |name| SUPPRESSION_COLUMNS.into_iter().find(|known| *known == name).map(Column::Text),
    needed: &["channel", "address"],
    remedy: "name the columns channel, address, reason, source, since",
};

/// The columns of a suppression, in the order of the export.
pub const SUPPRESSION_COLUMNS: [&str; 5] = ["channel", "address", "reason", "source", "since"];

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its first line in the file, from 1.
    pub line: i64,
    /// The row as it came, cut to [`MAX_RAW_BYTES`].
    pub raw: String,
    /// The fields that it names, not yet checked, or why it cannot be read.
    pub read: Result<Map<String, Value>, FieldError>,
}

/// Cuts rows out of pushed bytes. After each push take rows until there is none: then the buffer is at most a row long.
#[derive(Debug)]
pub struct Rows {
    format: Format,
    sheet: &'static Sheet,
    columns: Option<Vec<Column>>,
    /// Whether the byte order mark was looked for.
    begun: bool,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are done.
    done: usize,
    /// Line that begins at `done`.
    line: i64,
    ended: bool,
    /// The rest of an overlong line is to be dropped.
    skipping: bool,
}

/// What stands at the beginning of the buffer.
enum Cut {
    /// The row's bytes in the buffer (with its line break), how many lines they are, and what they say.
    Row { length: usize, lines: i64, read: Result<Vec<Vec<u8>>, FieldError> },
    /// More bytes are needed.
    More,
}

impl Rows {
    /// An empty stream.
    #[must_use]
    pub const fn new(format: Format, sheet: &'static Sheet) -> Self {
        Self {
            format,
            sheet,
            columns: None,
            begun: false,
            buffer: Vec::new(),
            done: 0,
            line: 1,
            ended: false,
            skipping: false,
        }
    }

    /// Takes in the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.done);
        self.done = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// No more bytes will come.
    pub const fn end(&mut self) {
        self.ended = true;
    }

    /// The next row, or `None` until more is pushed.
    ///
    /// # Errors
    /// The header line of a CSV is not acceptable: the whole import makes no sense.
    pub fn next_row(&mut self) -> Result<Option<Row>, FieldError> {
        loop {
            if self.skipping && !self.skip() {
                return Ok(None);
            }
            if !self.begun && self.line == 1 && self.buffer.len() >= BYTE_ORDER_MARK.len() {
                self.begun = true;
                if self.buffer.starts_with(BYTE_ORDER_MARK) {
                    self.done = BYTE_ORDER_MARK.len();
                }
            }
            let (line, rest) = (self.line, &self.buffer[self.done..]);
            let cut = match self.format {
                Format::Csv => csv_cut(rest, self.ended, self.columns.as_ref().map(Vec::len)),
                Format::Ndjson => line_cut(rest, self.ended),
            };
            let Cut::Row { length, lines, read } = cut else {
                return Ok(None);
            };
            let bytes = &rest[..length];
            let blank = bytes.iter().all(u8::is_ascii_whitespace);
            let raw = String::from_utf8_lossy(&bytes[..length.min(MAX_RAW_BYTES)]).trim_end().to_owned();
            self.skipping = bytes.last() != Some(&b'\n') && !(self.ended && self.done + length == self.buffer.len());
            self.done += length;
            self.line += lines;
            if blank {
                continue;
            }
            let read = match (self.format, read) {
                (_, Err(error)) if self.format == Format::Csv && self.columns.is_none() => return Err(error),
                (_, Err(error)) => Err(error),
                (Format::Ndjson, Ok(fields)) => object(fields.first().map_or(&[], Vec::as_slice)),
                (Format::Csv, Ok(fields)) => match &self.columns {
                    Some(columns) => record(columns, fields),
                    None => {
                        self.columns = Some(header(self.sheet, fields)?);
                        continue;
                    }
                },
            };
            return Ok(Some(Row { line, raw, read }));
        }
    }

    /// Drops the rest of an overlong line; false while its end has not come.
    fn skip(&mut self) -> bool {
        match self.buffer[self.done..].iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                self.done += end + 1;
                self.line += 1;
                self.skipping = false;
                true
            }
            None => {
                self.done = self.buffer.len();
                self.skipping = !self.ended;
                false
            }
        }
    }
}

fn too_long() -> FieldError {
    FieldError::new("row", format!("has more than {MAX_ROW_BYTES} bytes"), "send less with this member")
}

/// The first line of `rest`; an overlong one is cut where the limit is, and its rest is to be skipped.
fn line_cut(rest: &[u8], ended: bool) -> Cut {
    match rest.iter().take(MAX_ROW_BYTES + 1).position(|byte| *byte == b'\n') {
        Some(end) => Cut::Row { length: end + 1, lines: 1, read: Ok(vec![rest[..end].to_vec()]) },
        None if rest.len() > MAX_ROW_BYTES => Cut::Row { length: MAX_ROW_BYTES, lines: 0, read: Err(too_long()) },
        None if ended && !rest.is_empty() => Cut::Row { length: rest.len(), lines: 1, read: Ok(vec![rest.to_vec()]) },
        None => Cut::More,
    }
}

/// The first record of `rest`. What is no record of the right number of fields is cut down to its first line.
fn csv_cut(rest: &[u8], ended: bool, columns: Option<usize>) -> Cut {
    let first_line = |error: FieldError| match line_cut(rest, ended) {
        Cut::Row { length, lines, .. } => Cut::Row { length, lines, read: Err(error) },
        Cut::More => Cut::More,
    };
    if rest.is_empty() {
        return Cut::More;
    }
    let ended_here = ended && rest.len() <= MAX_ROW_BYTES;
    match csv_fields(&rest[..rest.len().min(MAX_ROW_BYTES + 1)], ended_here) {
        Err(Some(problem)) => {
            first_line(FieldError::new("row", problem, "quote fields as RFC 4180 says: \"a \"\"b\"\" c\""))
        }
        Err(None) if rest.len() > MAX_ROW_BYTES => first_line(too_long()),
        Err(None) => Cut::More,
        Ok((fields, length)) => {
            let blank = rest[..length].iter().all(u8::is_ascii_whitespace);
            if let Some(columns) = columns
                && columns != fields.len()
                && !blank
            {
                let detail = format!("has {} fields where the header has {columns}", fields.len());
                return first_line(FieldError::new("row", detail, "give every column a field, if only an empty one"));
            }
            let breaks = rest[..length].iter().filter(|byte| **byte == b'\n').count();
            let lines = breaks + usize::from(rest[length - 1] != b'\n');
            Cut::Row { length, lines: i64::try_from(lines).unwrap_or(i64::MAX), read: Ok(fields) }
        }
    }
}

/// Reads one record by RFC 4180, with `\n` as well as `\r\n`, and quotes inside unquoted fields taken as they are.
/// `Err(None)` stands for "more bytes are needed", `Err(Some)` for what is wrong.
fn csv_fields(input: &[u8], ended: bool) -> Result<(Vec<Vec<u8>>, usize), Option<&'static str>> {
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let (field, next) = match input.get(at) {
            Some(b'"') => quoted(input, at + 1, ended)?,
            _ => {
                let end = input[at..].iter().position(|byte| matches!(byte, b',' | b'\n')).map(|n| at + n);
                let end = end.or(ended.then_some(input.len())).ok_or(None)?;
                let text = &input[at..end];
                let text = if input.get(end) != Some(&b',') { text.strip_suffix(b"\r").unwrap_or(text) } else { text };
                (text.to_vec(), end)
            }
        };
        fields.push(field);
        match input.get(next) {
            Some(b',') => at = next + 1,
            Some(_) => return Ok((fields, next + 1)),
            None => return Ok((fields, input.len())),
        }
    }
}

/// A quoted field from behind its opening quote; returns it with the place of the delimiter behind its closing quote.
fn quoted(input: &[u8], mut at: usize, ended: bool) -> Result<(Vec<u8>, usize), Option<&'static str>> {
    let mut field = Vec::new();
    loop {
        let Some(quote) = input[at..].iter().position(|byte| *byte == b'"').map(|n| at + n) else {
            return Err(ended.then_some("has a quote that is never closed"));
        };
        field.extend_from_slice(&input[at..quote]);
        match (input.get(quote + 1), input.get(quote + 2)) {
            (Some(b'"'), _) => {
                field.push(b'"');
                at = quote + 2;
            }
            (Some(b',' | b'\n'), _) => return Ok((field, quote + 1)),
            (Some(b'\r'), Some(b'\n')) => return Ok((field, quote + 2)),
            (None, _) | (Some(b'\r'), None) => {
                return if ended { Ok((field, input.len())) } else { Err(None) };
            }
            _ => return Err(Some("has text behind a closing quote")),
        }
    }
}

/// What a column of a CSV holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Column {
    Text(&'static str),
    Channels,
    QuietHours(&'static str),
    OptIn(String),
    Attribute(String),
    Attributes,
}

fn header(sheet: &Sheet, fields: Vec<Vec<u8>>) -> Result<Vec<Column>, FieldError> {
    let bad = |detail: String| FieldError::new("header", detail, sheet.remedy);
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let name = String::from_utf8(field).map_err(|_| bad("is not UTF-8".into()))?;
        let name: String = name.trim().chars().take(200).collect();
        let column = (sheet.column)(&name).ok_or_else(|| bad(format!("has the unknown column `{name}`")))?;
        if columns.contains(&column) {
            return Err(bad(format!("has the column `{name}` twice")));
        }
        columns.push(column);
    }
    match sheet.needed.iter().find(|needed| !columns.contains(&Column::Text(needed))) {
        Some(missing) => Err(bad(format!("has no column `{missing}`"))),
        None => Ok(columns),
    }
}

fn of_member(name: &str) -> Option<Column> {
    const TEXTS: [&str; 10] =
        ["id", "email", "phone", "whatsapp", "telegram", "app_push", "webhook", "locale", "time_zone", "proof"];
    Some(match name {
        "client_user_id" => Column::Text("id"),
        "channels" => Column::Channels,
        "quiet_hours.from" => Column::QuietHours("from"),
        "quiet_hours.to" => Column::QuietHours("to"),
        "attributes" => Column::Attributes,
        _ => match (name.strip_prefix("opt_ins."), name.strip_prefix("attributes.")) {
            (Some(channel), _) if channel.parse::<Channel>().is_ok() => Column::OptIn(channel.into()),
            (_, Some(attribute)) if !attribute.is_empty() => Column::Attribute(attribute.into()),
            _ => Column::Text(TEXTS.into_iter().find(|known| *known == name)?),
        },
    })
}

/// Reads a CSV record; an empty cell says nothing, so what it would name stays as it is.
fn record(columns: &[Column], cells: Vec<Vec<u8>>) -> Result<Map<String, Value>, FieldError> {
    let (mut fields, mut quiet_hours, mut opt_ins, mut attributes) = (Map::new(), Map::new(), Map::new(), Map::new());
    for (column, cell) in columns.iter().zip(cells) {
        let name = column.name();
        let cell =
            String::from_utf8(cell).map_err(|_| FieldError::new(&name, "is not UTF-8", "save the file as UTF-8"))?;
        if cell.is_empty() {
            continue;
        }
        match column {
            Column::Text(name) => {
                fields.insert((*name).into(), Value::String(cell));
            }
            Column::Channels => {
                let names = cell.split([' ', ',', ';', '|']).filter(|part| !part.is_empty());
                fields.insert("channels".into(), names.map(Value::from).collect());
            }
            Column::QuietHours(end) => {
                quiet_hours.insert((*end).into(), Value::String(cell));
            }
            Column::OptIn(channel) => {
                opt_ins.insert(channel.clone(), Value::Bool(statement(&name, &cell)?));
            }
            Column::Attribute(attribute) => {
                attributes.insert(attribute.clone(), Value::String(cell));
            }
            Column::Attributes => {
                let more: Map<String, Value> = serde_json::from_str(&cell).map_err(|error| {
                    FieldError::new(
                        &name,
                        format!("is not a JSON object: {error}"),
                        "write an object like {\"tier\": 1}",
                    )
                })?;
                attributes.extend(more);
            }
        }
    }
    for (name, object) in [("quiet_hours", quiet_hours), ("opt_ins", opt_ins), ("attributes", attributes)] {
        if !object.is_empty() {
            fields.insert(name.into(), Value::Object(object));
        }
    }
    Ok(fields)
}

impl Column {
    fn name(&self) -> String {
        match self {
            Self::Text(name) => (*name).into(),
            Self::Channels => "channels".into(),
            Self::QuietHours(end) => format!("quiet_hours.{end}"),
            Self::OptIn(channel) => format!("opt_ins.{channel}"),
            Self::Attribute(name) => format!("attributes.{name}"),
            Self::Attributes => "attributes".into(),
        }
    }
}

fn statement(field: &str, cell: &str) -> Result<bool, FieldError> {
    match cell.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(FieldError::new(field, "is not true or false", "write true, false, or nothing")),
    }
}

/// Reads a JSON line.
fn object(line: &[u8]) -> Result<Map<String, Value>, FieldError> {
    serde_json::from_slice(line)
        .map_err(|error| FieldError::new("row", format!("is not a JSON object: {error}"), "write one object a line"))
}

/// The member that a row is about, and what else the row says, not yet checked by [`super::profile`].
///
/// # Errors
/// It names no member.
pub fn member(mut fields: Map<String, Value>) -> Result<(String, Map<String, Value>), FieldError> {
    match fields.remove("id").or_else(|| fields.remove("client_user_id")) {
        Some(Value::String(id)) => Ok((id, fields)),
        Some(_) => Err(FieldError::new("id", "is not a string", "write the id in quotes")),
        None => Err(FieldError::new("id", "is missing", "give the member's client_user_id")),
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All rows of a file that comes in pieces of `step` bytes.
    fn all(format: Format, file: &[u8], step: usize) -> Result<Vec<Row>, FieldError> {
        let mut rows = Rows::new(format, &MEMBERS);
        let mut found = Vec::new();
        for piece in file.chunks(step) {
            rows.push(piece);
            while let Some(row) = rows.next_row()? {
                found.push(row);
            }
            assert!(rows.buffer.len() - rows.done <= MAX_ROW_BYTES + 1 + step, "the buffer is bounded");
        }
        rows.end();
        while let Some(row) = rows.next_row()? {
            found.push(row);
        }
        Ok(found)
    }

    /// Line and member of each row, or the field at fault.
    fn ids(rows: &[Row]) -> Vec<(i64, Result<String, String>)> {
        let id = |row: &Row| row.read.clone().and_then(member).map(|(id, _)| id).map_err(|error| error.field);
        rows.iter().map(|row| (row.line, id(row))).collect()
    }

    fn expected(rows: &[(i64, Result<&str, &str>)]) -> Vec<(i64, Result<String, String>)> {
        rows.iter().map(|(line, id)| (*line, id.map(Into::into).map_err(Into::into))).collect()
    }

    #[test]
    fn a_csv_is_read_column_by_column() {
        let file = "\u{feff}id,email,channels,quiet_hours.from,quiet_hours.to,opt_ins.sms,attributes.name,attributes\r\n\
                    anna,a@b.org,sms email,22:00,08:00,no,\"Anna \"\"A\"\" B, C\",\"{\"\"n\"\": 1}\"\r\n\
                    \r\n\
                    bert,,,,,,,\n";
        for step in [1, 7, 4096] {
            let rows = all(Format::Csv, file.as_bytes(), step).unwrap();
            assert_eq!(ids(&rows), expected(&[(2, Ok("anna")), (4, Ok("bert"))]));
            let fields = Value::Object(member(rows[0].read.clone().unwrap()).unwrap().1);
            let told = serde_json::json!({
                "email": "a@b.org", "channels": ["sms", "email"], "quiet_hours": {"from": "22:00", "to": "08:00"}, "opt_ins": {"sms": false},
                "attributes": {"name": "Anna \"A\" B, C", "n": 1},
            });
            assert_eq!(fields, told);
            assert!(member(rows[1].read.clone().unwrap()).unwrap().1.is_empty());
        }
    }

    #[test]
    fn only_one_byte_order_mark_is_dropped_however_it_comes() {
        for step in [1, 3, 4, 100] {
            let error = all(Format::Csv, "\u{feff}\u{feff}id\n".as_bytes(), step).unwrap_err();
            assert!(error.detail.contains("`\u{feff}id`"), "{step}: {error}");
        }
    }

    #[test]
    fn a_broken_record_costs_itself_alone() {
        let file = b"id,attributes.note\n\
            a,\"never closed\n\
            b,fine\n\
            c,\"also\" not\n\
            d,\"two\nlines\"\n\
            e\n\
            f,\xff\n\
            g,\"last\"";
        for step in [1, 5, 1000] {
            let rows = all(Format::Csv, file, step).unwrap();
            let told = [
                (2, Err("row")),
                (3, Ok("b")),
                (4, Err("row")),
                (5, Ok("d")),
                (7, Err("row")),
                (8, Err("attributes.note")),
                (9, Ok("g")),
            ];
            assert_eq!(ids(&rows), expected(&told), "{step}");
            assert_eq!(rows[0].raw, "a,\"never closed");
        }
    }

    #[test]
    fn a_row_that_is_too_long_costs_itself_alone() {
        let long = "x".repeat(MAX_ROW_BYTES * 3);
        for step in [1000, 1 << 20] {
            let csv = format!("id,email\na,1\nb,{long}\nc,\"{long}\nd,2\n");
            let told = [(2, Ok("a")), (3, Err("row")), (4, Err("row")), (5, Ok("d"))];
            assert_eq!(ids(&all(Format::Csv, csv.as_bytes(), step).unwrap()), expected(&told));
            let lines = format!("{{\"id\":\"a\"}}\n{{\"id\":\"{long}\"}}\n\n{{\"id\":\"d\"}}");
            let told = [(1, Ok("a")), (2, Err("row")), (4, Ok("d"))];
            assert_eq!(ids(&all(Format::Ndjson, lines.as_bytes(), step).unwrap()), expected(&told));
        }
    }

    #[test]
    fn json_lines_are_read() {
        let file = b"{\"id\":\"a\",\"email\":null}\n[1]\n{\"email\":\"x\"}\n{\"id\":7}\n{\"id\":\"b\"";
        let told = [(1, Ok("a")), (2, Err("row")), (3, Err("id")), (4, Err("id")), (5, Err("row"))];
        assert_eq!(ids(&all(Format::Ndjson, file, 3).unwrap()), expected(&told));
    }

    #[test]
    fn a_header_that_makes_no_sense_ends_the_import() {
        for header in
            ["email\n", "id,e-mail\n", "id,id\n", "id,opt_ins.fax\n", "id,attributes.\n", "id;email\n", "id,\"x\n"]
        {
            let error = all(Format::Csv, format!("{header}1,2\n").as_bytes(), 4).unwrap_err();
            assert!(!error.remedy.is_empty(), "{header}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_a_csv_writer_wrote_is_read_the_same(
            cells in proptest::collection::vec(("[a-z]{1,5}", "[a-z,\"\r\n ]{1,10}"), 0..20), step in 1usize..50,
        ) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["id", "attributes.x"]).unwrap();
            for (id, text) in &cells {
                writer.write_record([id, text]).unwrap();
            }
            let rows = all(Format::Csv, &writer.into_inner().unwrap(), step).unwrap();
            let read: Vec<_> = rows.into_iter().map(|row| member(row.read.unwrap()).unwrap()).map(|(id, fields)| {
                let text = fields["attributes"]["x"].as_str().unwrap().to_owned();
                (id, text)
            }).collect();
            prop_assert_eq!(read, cells);
        }

        #[test]
        fn pieces_do_not_matter(file in "(id,email\n)?[ab,\"\n\r{}:]{0,80}", step in 1usize..20, json in any::<bool>()) {
            let format = if json { Format::Ndjson } else { Format::Csv };
            prop_assert_eq!(all(format, file.as_bytes(), step), all(format, file.as_bytes(), 1000));
        }

        #[test]
        fn good_lines_survive_any_bad_line(bad in "[a-z,\"{}]{0,30}") {
            let file = format!("id,email\nfirst,\n{bad}\nlast,x\nmore,y\n");
            let rows = all(Format::Csv, file.as_bytes(), 1000).unwrap();
            let good: Vec<_> = ids(&rows).into_iter().filter_map(|(_, id)| id.ok()).collect();
            prop_assert!(["first", "last", "more"].iter().all(|id| good.iter().any(|g| g == id)), "{:?}", rows);
        }
    }
}
