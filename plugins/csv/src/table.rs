//! A delimited file as names and rows: delimiter, header, row lengths and line numbers. Knows no types.

use csv::{ReaderBuilder, StringRecord};
use std::collections::BTreeSet;

/// The cells of a file. Every row is as long as `names`.
pub struct Table {
    /// How messages name the file.
    pub file: String,
    /// Columns; distinct.
    pub names: Vec<String>,
    /// Whether the first line was taken for data, by guess.
    pub header_guessed_absent: bool,
    /// At least one.
    pub rows: Vec<Row>,
}

/// One record.
pub struct Row {
    /// Where it begins in the file, from 1.
    pub line: usize,
    cells: StringRecord,
}

impl Row {
    /// A cell without the blanks around it.
    pub fn cell(&self, column: usize) -> &str {
        self.cells[column].trim()
    }
}

/// Reads a file's bytes. Without a delimiter the likeliest of tab, semicolon, bar and comma is taken; without a word on the header, a first line that has no
/// number in it is one.
pub fn read(file: String, bytes: &[u8], delimiter: Option<u8>, header: Option<bool>) -> Result<Table, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        format!("{file}:{}: wanted UTF-8 text, got the byte {:#04x} at offset {at}; convert the file", line_at(bytes, at), bytes[at])
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text); // A byte order mark, as spreadsheets write it.
    let delimiter = delimiter.unwrap_or_else(|| likely_delimiter(text));
    let mut rows = records(&file, text, delimiter)?;
    // A quote that is left open swallows the rest of the file into one cell.
    if let Some(last) = rows.last().filter(|last| last.cells.iter().any(|cell| cell.contains('\n')))
        && text.matches('"').count() % 2 == 1
    {
        return Err(format!("{file}:{}: a quote is opened in this row and not closed", last.line));
    }
    let Some(first) = rows.first() else {
        return Err(format!("{file}: the file is empty; wanted a header and rows"));
    };
    let has_header = header.unwrap_or_else(|| !first.cells.iter().any(|cell| number(cell.trim()).is_some()));
    let width = first.cells.len();
    for row in &rows {
        let got = row.cells.len();
        if got != width {
            let first = if has_header { "the header" } else { "the first row" };
            return Err(format!("{file}:{}: wanted {width} columns as in {first} (line {}), got {got}", row.line, rows[0].line));
        }
    }
    let header_row = has_header.then(|| rows.remove(0));
    if rows.is_empty() {
        return Err(format!("{file}: there is a header but no row below it"));
    }
    let named = |column| header_row.as_ref().map(|row| row.cell(column)).filter(|name| !name.is_empty());
    let names: Vec<String> =
        (0..width).map(|column| named(column).map_or_else(|| format!("column{}", column + 1), str::to_owned)).collect();
    let mut seen = BTreeSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
        return Err(format!("{file}: two columns are named `{twice}`; rename one"));
    }
    Ok(Table { file, names, header_guessed_absent: header.is_none() && !has_header, rows })
}

/// The finite number that a cell holds, if it is one.
pub fn number(cell: &str) -> Option<f64> {
    // "inf" and "nan" parse too, but mean something else in a table.
    cell.parse().ok().filter(|number: &f64| number.is_finite())
}

fn records(file: &str, text: &str, delimiter: u8) -> Result<Vec<Row>, String> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut rows = Vec::new();
    for record in reader.records() {
        let cells = record.map_err(|error| format!("{file}: {error}"))?;
        // The position of a record is the end of the one before it, which may be blank lines away.
        let end = cells.position().map_or((0, 1), |position| (position.byte() as usize, position.line() as usize));
        let blank = text.as_bytes()[end.0..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r'));
        let line = end.1 + blank.filter(|&&byte| byte == b'\n').count();
        // A line of blanks alone is no row of one column.
        if cells.len() > 1 || !cells[0].trim().is_empty() {
            rows.push(Row { line, cells });
        }
    }
    Ok(rows)
}

/// The delimiter by which the first rows have equally many columns, more than one. The comma comes last, because it is also a decimal sign.
fn likely_delimiter(text: &str) -> u8 {
    let widths = |delimiter: u8| -> Vec<usize> {
        let mut reader = ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(text.as_bytes());
        reader.records().take(20).filter_map(|record| record.ok().map(|record| record.len())).collect()
    };
    let candidates = [b'\t', b';', b'|', b','];
    let even = candidates.into_iter().find(|&delimiter| {
        let widths = widths(delimiter);
        widths.first().is_some_and(|&first| first > 1 && widths.iter().all(|&width| width == first))
    });
    // With a ragged row among them, the first line decides.
    even.or_else(|| candidates.into_iter().max_by_key(|&delimiter| widths(delimiter).first().copied())).unwrap_or(b',')
}

fn line_at(bytes: &[u8], offset: usize) -> usize {
    1 + bytes[..offset].iter().filter(|&&byte| byte == b'\n').count()
}
