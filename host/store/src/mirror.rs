//! Mirrors: a copy of a run's store on another machine, kept up to date by what is new. [`RunFeed`] reads the run and makes [`Chunk`]s, [`Mirror`]
//! takes them in; how they travel is not known here.
//!
//! A mirror is an ordinary `run.sqlite` with one more table, `mirror`: [`RunReader`] opens it like any other, takes the verdict on a lost process
//! from there (only the run's own machine can see it), and everything that writes a run refuses it.
//!
//! Tables are told apart by their definition, so that a migration needs no edit here. Where row ids grow for ever (`AUTOINCREMENT`) "what is new"
//! is the rows after the last id; the two such tables whose rows change later ([`CHANGING`]) and all others are compared cell by cell. Row ids are
//! the same on both sides.
//!
//! What holds: a chunk is read in one transaction and taken in by one. Rewinds stand before everything else of a chunk, so whatever a mirror holds
//! was logged before any rewind it does not know of: a new rewind takes back every row of a later step, and the rows logged since come afterwards.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params, params_from_iter};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Result, StoreError};
use crate::process::now;
use crate::read::{RunReader, Verdict};
use crate::rows::RunState;
use crate::schema::{self, MIRROR_TABLE};
use crate::{CHECKPOINT_FOLDER, DATABASE_FILE};

/// A chunk ends before the row that would take it past this; a single larger row, such as a picture, is a chunk of its own.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Rows of a chunk.
pub const CHUNK_ROWS_MAX: usize = 4096;

/// Tables with ids that grow for ever, whose rows change all the same.
const CHANGING: [&str; 2] = ["commands", "checkpoints"];
/// The table of what resumes took back.
const REWINDS: &str = "rewinds";
/// A process that dies changes no row: looked at this often.
const VERDICT_INTERVAL: Duration = Duration::from_secs(1);

/// What a mirror holds of a run: where a [`RunFeed`] begins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Have {
    /// Which run: its id and when it was created.
    pub identity: String,
    /// Version of the tables.
    pub version: u32,
    /// The last row of each table that only grows.
    pub last: BTreeMap<String, i64>,
    /// A digest of each other table.
    pub digests: BTreeMap<String, String>,
    /// What it knows of the process.
    pub verdict: Option<Verdict>,
}

/// Some of what is new in a run, of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// What it is.
    pub header: ChunkHeader,
    /// The rows of the tables of the header, one after another.
    pub rows: Vec<u8>,
}

/// What a [`Chunk`] is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkHeader {
    /// Which run: its id and when it was created.
    pub identity: String,
    /// Version of the tables.
    pub version: u32,
    /// The mirror's rows are those of another run, or none: forget them first.
    pub anew: bool,
    /// A lost run, by the judgement of the machine it is on.
    pub verdict: Option<Verdict>,
    /// In the order of their rows.
    pub tables: Vec<TablePart>,
}

/// Rows of one table in a [`Chunk`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TablePart {
    /// The table.
    pub name: String,
    /// Its columns without the row id.
    pub columns: Vec<String>,
    /// How many rows.
    pub row_count: usize,
    /// Forget the table's rows first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clear: bool,
    /// Rows to forget, by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<i64>,
}

/// How much to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What curves and control need: everything but log lines, pictures, texts and the like.
    Curves,
    /// Everything.
    All,
}

/// Reads what is new in a run, for a mirror of it. Reads only, in bites of a chunk.
#[derive(Debug)]
pub struct RunFeed {
    path: PathBuf,
    reader: Option<RunReader>,
    /// Which file the reader has open.
    file: Option<u128>,
    have: Option<Have>,
    /// Identity and version of the tables that `tables` are of.
    begun: Option<(String, u32)>,
    anew: bool,
    tables: Vec<FeedTable>,
    told: Option<Verdict>,
    judged_at: Option<Instant>,
    is_over: bool,
    /// `data_version` of the reader when everything of this depth was read.
    seen_curves: Option<i64>,
    seen_all: Option<i64>,
}

#[derive(Debug)]
struct FeedTable {
    table: TableShape,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    /// Rows up to this one were read.
    Rows { last: i64 },
    /// These rows were read, a hash a cell.
    Cells { cells: HashMap<i64, Vec<u64>>, clear: bool, seen: Option<i64> },
}

impl RunFeed {
    /// The run in folder `path`, for a mirror that holds `have`; reads nothing yet.
    pub fn new(path: &Path, have: Option<Have>) -> RunFeed {
        RunFeed {
            path: path.to_path_buf(),
            reader: None,
            file: None,
            have,
            begun: None,
            anew: false,
            tables: Vec::new(),
            told: None,
            judged_at: None,
            is_over: false,
            seen_curves: None,
            seen_all: None,
        }
    }

    /// The next chunk; `None` when the mirror has everything of this depth. The chunks must be taken in one after another, each once.
    pub fn next(&mut self, depth: Depth) -> Result<Option<Chunk>> {
        // An open file that was deleted or replaced can still be read, for ever.
        let file = file_identity(&self.path.join(DATABASE_FILE));
        if file.is_none() || file != self.file {
            self.close();
            self.file = file;
        }
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => RunReader::open(&self.path)?,
        };
        let outcome = self.read(&reader, depth);
        match outcome {
            Ok(_) => self.reader = Some(reader),
            Err(_) => self.close(),
        }
        outcome
    }

    /// Lets go of the file; the next call opens it again.
    pub fn close(&mut self) {
        self.reader = None;
        self.judged_at = None;
        (self.seen_curves, self.seen_all) = (None, None);
        for table in &mut self.tables {
            if let Progress::Cells { seen, .. } = &mut table.progress {
                *seen = None;
            }
        }
    }

    /// The file is open.
    pub fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// No process works on the run any more, as far as was read.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    fn read(&mut self, reader: &RunReader, depth: Depth) -> Result<Option<Chunk>> {
        let data_version = reader.data_version()?;
        let seen = if depth == Depth::Curves { self.seen_curves } else { self.seen_all };
        if seen == Some(data_version) && self.judged_at.is_some_and(|at| at.elapsed() < VERDICT_INTERVAL) {
            return Ok(None);
        }
        // All of a chunk is of one moment.
        reader.read(|connection| connection.execute_batch("BEGIN"))?;
        let outcome = self.read_moment(reader, depth, data_version);
        reader.read(|connection| connection.execute_batch("COMMIT"))?;
        outcome
    }

    fn read_moment(&mut self, reader: &RunReader, depth: Depth, data_version: i64) -> Result<Option<Chunk>> {
        let info = reader.info()?;
        self.judged_at = Some(Instant::now());
        self.is_over = info.state.is_over();
        let verdict = (info.state == RunState::Lost).then(|| Verdict { reason: info.state_reason.clone(), time: info.state_time });
        let version = reader.read(schema::version)?;
        let identity = identity(&info.id, info.created);
        if self.begun.as_ref().is_none_or(|begun| (&begun.0, begun.1) != (&identity, version)) {
            reader.read(|connection| self.begin(connection, &identity, version))?;
        }
        let mut sink = Sink { rows: Vec::new(), rows_left: CHUNK_ROWS_MAX, is_full: false };
        let mut tables = Vec::new();
        for table in self.tables.iter_mut().filter(|table| depth == Depth::All || table.table.rank <= Rank::Events) {
            tables.extend(reader.read(|connection| table.read(connection, data_version, &mut sink))?);
            if sink.is_full {
                break;
            }
        }
        if !sink.is_full {
            self.seen_curves = Some(data_version);
            if depth == Depth::All {
                self.seen_all = Some(data_version);
            }
        }
        if tables.is_empty() && !self.anew && verdict == self.told {
            return Ok(None);
        }
        self.told = verdict.clone();
        let anew = std::mem::take(&mut self.anew);
        Ok(Some(Chunk { header: ChunkHeader { identity, version, anew, verdict, tables }, rows: sink.rows }))
    }

    /// Looks at what the mirror has of this run.
    fn begin(&mut self, connection: &Connection, identity: &str, version: u32) -> rusqlite::Result<()> {
        let shapes = table_shapes(connection)?;
        let mut have = self.have.take().filter(|have| have.identity == identity && have.version == version);
        // A file that was put back from an older copy gives ids a second time.
        if let Some(known) = &have {
            for shape in shapes.iter().filter(|shape| shape.only_grows) {
                let highest: i64 = connection
                    .query_row("SELECT seq FROM sqlite_sequence WHERE name = ?1", [&shape.name], |row| row.get(0))
                    .optional()?
                    .unwrap_or(0);
                if known.last.get(&shape.name).is_some_and(|&last| last > highest) {
                    have = None;
                    break;
                }
            }
        }
        self.tables.clear();
        for table in shapes {
            let progress = if table.only_grows {
                Progress::Rows { last: have.as_ref().and_then(|have| have.last.get(&table.name)).copied().unwrap_or(0) }
            } else {
                let known = have.as_ref().and_then(|have| have.digests.get(&table.name));
                match known {
                    Some(known) if *known == table.digest(connection)? => {
                        Progress::Cells { cells: table.cells(connection)?, clear: false, seen: None }
                    }
                    _ => Progress::Cells { cells: HashMap::new(), clear: have.is_some(), seen: None },
                }
            };
            self.tables.push(FeedTable { table, progress });
        }
        self.anew = have.is_none();
        self.told = have.and_then(|have| have.verdict);
        self.begun = Some((identity.to_string(), version));
        Ok(())
    }
}

/// Tells a file from one that took its name later; `None` when there is none.
fn file_identity(path: &Path) -> Option<u128> {
    let metadata = fs::metadata(path).ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some(u128::from(metadata.dev()) << 64 | u128::from(metadata.ino()))
    }
    #[cfg(not(unix))]
    {
        Some(metadata.created().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos())
    }
}

/// A run by its id and when it was created: another run may stand in the same folder later.
fn identity(id: &str, created: f64) -> String {
    format!("{id} {:016x}", created.to_bits())
}

impl FeedTable {
    /// Adds what is new; `None` when nothing is.
    fn read(&mut self, connection: &Connection, data_version: i64, sink: &mut Sink) -> rusqlite::Result<Option<TablePart>> {
        let table = &self.table;
        let mut part = TablePart { name: table.name.clone(), columns: table.columns.clone(), row_count: 0, clear: false, gone: Vec::new() };
        match &mut self.progress {
            Progress::Rows { last } => {
                let mut select = connection.prepare_cached(&table.select_after)?;
                let mut rows = select.query([*last])?;
                while let Some(row) = rows.next()? {
                    let id = row.get(0)?;
                    if !sink.push(row, id, None)? {
                        break;
                    }
                    *last = id;
                    part.row_count += 1;
                }
            }
            Progress::Cells { seen, .. } if *seen == Some(data_version) => {}
            Progress::Cells { cells, clear, seen } => {
                let mut select = connection.prepare_cached(&table.select_all)?;
                let mut rows = select.query([])?;
                let mut met = 0;
                let mut new = 0;
                let mut ids = Vec::new();
                while let Some(row) = rows.next()? {
                    let id: i64 = row.get(0)?;
                    ids.push(id);
                    let hashes = cell_hashes(row, table.columns.len())?;
                    let known = cells.get(&id);
                    met += usize::from(known.is_some());
                    if known == Some(&hashes) {
                        continue;
                    }
                    // Only rows that are known by an id of their own are sent in part: the `run` row holds the whole config and changes each batch.
                    let changed = known.filter(|known| table.has_id && known.len() <= 64).map(|known| {
                        known.iter().zip(&hashes).enumerate().filter(|(_, (a, b))| a != b).fold(0, |mask, (index, _)| mask | 1 << index)
                    });
                    if !sink.push(row, id, changed)? {
                        break;
                    }
                    new += usize::from(known.is_none());
                    cells.insert(id, hashes);
                    part.row_count += 1;
                }
                if !sink.is_full {
                    if met + new < cells.len() {
                        let ids: std::collections::HashSet<i64> = ids.into_iter().collect();
                        part.gone = cells.keys().filter(|id| !ids.contains(id)).copied().collect();
                        part.gone.sort_unstable();
                        cells.retain(|id, _| ids.contains(id));
                    }
                    *seen = Some(data_version);
                }
                // The rest of a table that did not fit comes after what was cleared, so it is cleared once.
                if *clear && (part.row_count > 0 || !sink.is_full) {
                    part.clear = true;
                    *clear = false;
                }
            }
        }
        Ok((part.row_count > 0 || part.clear || !part.gone.is_empty()).then_some(part))
    }
}

/// Rows on their way into a chunk.
struct Sink {
    rows: Vec<u8>,
    rows_left: usize,
    is_full: bool,
}

impl Sink {
    /// Adds a row (its id, a bit for each column that follows where not all do, the values), unless the chunk is full.
    fn push(&mut self, row: &Row, id: i64, columns: Option<u64>) -> rusqlite::Result<bool> {
        let before = self.rows.len();
        if self.rows_left == 0 {
            self.is_full = true;
            return Ok(false);
        }
        put_integer(&mut self.rows, id);
        put_unsigned(&mut self.rows, columns.unwrap_or(0));
        for index in 0..row.as_ref().column_count() - 1 {
            if columns.is_none_or(|columns| columns >> index & 1 == 1) {
                put_value(&mut self.rows, row.get_ref(index + 1)?);
            }
        }
        if before > 0 && self.rows.len() > CHUNK_BYTES_MAX {
            self.rows.truncate(before);
            self.is_full = true;
            return Ok(false);
        }
        self.rows_left -= 1;
        Ok(true)
    }
}

/// The order within a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Rewinds,
    Small,
    Scalars,
    Events,
    Media,
    /// Pictures: the bytes of one may be those of a hundred thousand scalars.
    Large,
}

/// A table as its definition tells it.
#[derive(Clone, Debug)]
struct TableShape {
    name: String,
    /// Without the row id.
    columns: Vec<String>,
    /// A column is the row id.
    has_id: bool,
    only_grows: bool,
    /// A rewind takes back rows of a later step.
    is_rewound: bool,
    rank: Rank,
    select_all: String,
    select_after: String,
}

impl TableShape {
    /// A digest over all rows, the same on both sides.
    fn digest(&self, connection: &Connection) -> rusqlite::Result<String> {
        let mut digest = Sha256::new();
        let mut bytes = Vec::new();
        let mut select = connection.prepare_cached(&self.select_all)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            bytes.clear();
            for index in 0..=self.columns.len() {
                put_value(&mut bytes, row.get_ref(index)?);
            }
            digest.update(&bytes);
        }
        Ok(digest.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn cells(&self, connection: &Connection) -> rusqlite::Result<HashMap<i64, Vec<u64>>> {
        connection
            .prepare_cached(&self.select_all)?
            .query_map([], |row| Ok((row.get(0)?, cell_hashes(row, self.columns.len())?)))?
            .collect()
    }
}

/// The tables of a store, in the order in which they are sent. [`MIRROR_TABLE`] is not one of them.
fn table_shapes(connection: &Connection) -> rusqlite::Result<Vec<TableShape>> {
    let mut select = connection.prepare(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> ?1 ORDER BY rowid",
    )?;
    let definitions: Vec<(String, String)> =
        select.query_map([MIRROR_TABLE], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let mut shapes = Vec::new();
    for (name, sql) in definitions {
        // name, declared type, place in the primary key
        let columns: Vec<(String, String, i64)> = connection
            .prepare("SELECT name, type, pk FROM pragma_table_info(?1) ORDER BY cid")?
            .query_map([&name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let key: Vec<&(String, String, i64)> = columns.iter().filter(|column| column.2 > 0).collect();
        let id = match key[..] {
            [(name, kind, _)] if kind.eq_ignore_ascii_case("integer") => Some(name.clone()),
            _ => None,
        };
        let has = |wanted: &str| columns.iter().any(|column| column.0 == wanted);
        let is_large = columns.iter().any(|column| column.1.eq_ignore_ascii_case("blob"));
        let only_grows = sql.to_ascii_uppercase().contains("AUTOINCREMENT") && !CHANGING.contains(&name.as_str());
        let is_rewound = only_grows && has("metric_id") && has("step");
        let rank = match name.as_str() {
            REWINDS => Rank::Rewinds,
            "scalars" => Rank::Scalars,
            "events" => Rank::Events,
            _ if !only_grows => Rank::Small,
            _ if is_large => Rank::Large,
            _ => Rank::Media,
        };
        let columns: Vec<String> = columns.into_iter().map(|column| column.0).filter(|column| Some(column) != id.as_ref()).collect();
        let list: String = columns.iter().map(|column| format!(", {}", quoted(column))).collect();
        let from = format!("SELECT rowid{list} FROM {}", quoted(&name));
        let (select_all, select_after) = (format!("{from} ORDER BY rowid"), format!("{from} WHERE rowid > ?1 ORDER BY rowid"));
        shapes.push(TableShape { name, columns, has_id: id.is_some(), only_grows, is_rewound, rank, select_all, select_after });
    }
    shapes.sort_by_key(|shape| shape.rank);
    Ok(shapes)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A hash of each column after the row id; never leaves this process.
fn cell_hashes(row: &Row, column_count: usize) -> rusqlite::Result<Vec<u64>> {
    (1..=column_count)
        .map(|index| {
            let mut hasher = DefaultHasher::new();
            match row.get_ref(index)? {
                ValueRef::Null => 0u8.hash(&mut hasher),
                ValueRef::Integer(value) => (1u8, value).hash(&mut hasher),
                ValueRef::Real(value) => (2u8, value.to_bits()).hash(&mut hasher),
                ValueRef::Text(bytes) => (3u8, bytes).hash(&mut hasher),
                ValueRef::Blob(bytes) => (4u8, bytes).hash(&mut hasher),
            }
            Ok(hasher.finish())
        })
        .collect()
}

/// A mirror of a run. One process writes it.
#[derive(Debug)]
pub struct Mirror {
    folder: PathBuf,
    source: String,
    connection: Option<Connection>,
}

impl Mirror {
    /// The mirror in `folder`, which need not exist yet; opens nothing. `source` is where the run is, for people.
    pub fn new(folder: &Path, source: &str) -> Mirror {
        Mirror { folder: folder.to_path_buf(), source: source.to_string(), connection: None }
    }

    /// What it holds; `None` when there is nothing that can be used.
    pub fn have(&mut self) -> Option<Have> {
        self.open().ok()?;
        let connection = self.connection.as_ref()?;
        let have = have(connection).ok();
        if have.is_none() {
            self.connection = None;
        }
        have
    }

    /// Takes in a chunk: all of it, or nothing when there is an error.
    ///
    /// Errors: `StoreError::Newer` for tables that this build does not know; `StoreError::Mirror` for a chunk that does not follow what is here:
    /// then remove the mirror and begin anew.
    pub fn apply(&mut self, chunk: &Chunk) -> Result<()> {
        let header = &chunk.header;
        let database = self.folder.join(DATABASE_FILE);
        if header.version > schema::SCHEMA_VERSION {
            return Err(StoreError::Newer { path: database, found: header.version, supported: schema::SCHEMA_VERSION });
        }
        if !database.is_file() || (header.anew && self.open().is_err()) {
            return self.create(chunk);
        }
        self.open()?;
        let connection = self.connection.as_ref().expect("opened above");
        if !header.anew {
            let here = position(connection).map_err(StoreError::sqlite("read the mirror", &database))?;
            if (&here.0, here.1) != (&header.identity, header.version) {
                return Err(self.problem("the rows that came are those of another run"));
            }
        }
        self.take_in(connection, chunk)
    }

    /// Lets go of the file; the next call opens it again.
    pub fn close(&mut self) {
        self.connection = None;
    }

    /// Removes the mirror in `folder`: at once, so that nobody finds half of it.
    pub fn remove(folder: &Path) -> Result<()> {
        let hidden = hidden(folder, "gone");
        let _ = fs::remove_dir_all(&hidden);
        match fs::rename(folder, &hidden) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            outcome => outcome.map_err(StoreError::io("remove the mirror", folder))?,
        }
        fs::remove_dir_all(&hidden).map_err(StoreError::io("remove what is left of the mirror", &hidden))
    }

    fn open(&mut self) -> Result<()> {
        if self.connection.is_none() {
            self.connection = Some(schema::open_mirror(&self.folder.join(DATABASE_FILE))?);
        }
        Ok(())
    }

    fn problem(&self, problem: impl Into<String>) -> StoreError {
        StoreError::Mirror { path: self.folder.clone(), source_name: self.source.clone(), problem: problem.into() }
    }

    /// A mirror appears with its first rows in it.
    fn create(&mut self, chunk: &Chunk) -> Result<()> {
        if !chunk.header.anew {
            return Err(self.problem("the rows that came go on where this mirror is not"));
        }
        self.connection = None;
        let draft = hidden(&self.folder, "new");
        let _ = fs::remove_dir_all(&draft);
        fs::create_dir_all(draft.join(CHECKPOINT_FOLDER)).map_err(StoreError::io("create the mirror", &draft))?;
        let connection = schema::create_mirror(&draft.join(DATABASE_FILE))?;
        let outcome = self.take_in(&connection, chunk);
        // Closing moves the log into the file.
        drop(connection);
        let placed = outcome.and_then(|()| {
            Mirror::remove(&self.folder)?;
            fs::rename(&draft, &self.folder).map_err(StoreError::io("put the mirror in place", &self.folder))
        });
        placed.inspect_err(|_| {
            let _ = fs::remove_dir_all(&draft);
        })
    }

    fn take_in(&self, connection: &Connection, chunk: &Chunk) -> Result<()> {
        let database = self.folder.join(DATABASE_FILE);
        let mut wrong = None;
        let mut work = || -> rusqlite::Result<()> {
            let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            let header = &chunk.header;
            if header.anew {
                schema::remake_tables(&transaction, header.version)?;
                transaction.execute_batch(&format!(
                    "CREATE TABLE {MIRROR_TABLE} (one INTEGER PRIMARY KEY CHECK (one = 1), identity TEXT NOT NULL, source TEXT NOT NULL,
                     lost_reason TEXT, lost_time REAL, news_time REAL NOT NULL)"
                ))?;
            }
            let shapes = table_shapes(&transaction)?;
            let mut rows = Bytes(&chunk.rows);
            for part in &header.tables {
                let shape = shapes.iter().find(|shape| shape.name == part.name && shape.columns == part.columns);
                let done = match shape {
                    Some(shape) => take_in_part(&transaction, shape, &shapes, part, &mut rows)?,
                    None => Err(format!("there is no table `{}` with the columns {} here", part.name, part.columns.join(", "))),
                };
                if let Err(problem) = done {
                    wrong = Some(problem);
                    // Dropping the transaction takes everything back.
                    return Ok(());
                }
            }
            if !rows.0.is_empty() {
                wrong = Some(format!("{} bytes came that belong to no row", rows.0.len()));
                return Ok(());
            }
            let verdict = header.verdict.as_ref();
            transaction.execute(
                &format!("INSERT OR REPLACE INTO {MIRROR_TABLE} (one, identity, source, lost_reason, lost_time, news_time) VALUES (1, ?1, ?2, ?3, ?4, ?5)"),
                params![header.identity, self.source, verdict.map(|verdict| &verdict.reason), verdict.map(|verdict| verdict.time), now()],
            )?;
            transaction.commit()
        };
        work().map_err(StoreError::sqlite("write to the mirror", &database))?;
        match wrong {
            None => Ok(()),
            Some(problem) => Err(self.problem(problem)),
        }
    }
}

/// `.NAME.KIND` beside `folder`: hidden folders are no runs.
fn hidden(folder: &Path, kind: &str) -> PathBuf {
    folder.with_file_name(format!(".{}.{kind}", folder.file_name().unwrap_or_default().to_string_lossy()))
}

/// Identity and version of what a mirror holds.
fn position(connection: &Connection) -> rusqlite::Result<(String, u32)> {
    let identity = connection.query_row(&format!("SELECT identity FROM {MIRROR_TABLE}"), [], |row| row.get(0))?;
    Ok((identity, schema::version(connection)?))
}

fn have(connection: &Connection) -> rusqlite::Result<Have> {
    let (identity, version) = position(connection)?;
    let mut have = Have { identity, version, verdict: schema::mirror_verdict(connection)?, ..Have::default() };
    for shape in table_shapes(connection)? {
        if shape.only_grows {
            let last: Option<i64> =
                connection.query_row(&format!("SELECT max(rowid) FROM {}", quoted(&shape.name)), [], |row| row.get(0))?;
            have.last.insert(shape.name, last.unwrap_or(0));
        } else {
            have.digests.insert(shape.name.clone(), shape.digest(connection)?);
        }
    }
    Ok(have)
}

/// The inner error is a sentence about the chunk.
fn take_in_part(
    transaction: &Transaction,
    shape: &TableShape,
    shapes: &[TableShape],
    part: &TablePart,
    rows: &mut Bytes,
) -> rusqlite::Result<Result<(), String>> {
    let table = quoted(&shape.name);
    if part.clear {
        transaction.execute(&format!("DELETE FROM {table}"), [])?;
    }
    for id in &part.gone {
        transaction.prepare_cached(&format!("DELETE FROM {table} WHERE rowid = ?1"))?.execute([id])?;
    }
    let columns: String = shape.columns.iter().map(|column| format!(", {}", quoted(column))).collect();
    let places: String = (0..shape.columns.len()).map(|index| format!(", ?{}", index + 2)).collect();
    let insert = format!("INSERT OR REPLACE INTO {table} (rowid{columns}) VALUES (?1{places})");
    let step_index = shape.columns.iter().position(|column| column == "step").filter(|_| shape.rank == Rank::Rewinds);
    let cut = || format!("the rows of `{}` that came are cut off or damaged", shape.name);
    for _ in 0..part.row_count {
        let (Some(id), Some(mask)) = (rows.integer(), rows.unsigned()) else { return Ok(Err(cut())) };
        let present: Vec<usize> =
            (0..shape.columns.len()).filter(|&index| mask == 0 || mask.checked_shr(index as u32).unwrap_or(0) & 1 == 1).collect();
        let mut values = vec![ToSqlOutput::Borrowed(ValueRef::Integer(id))];
        for _ in &present {
            let Some(value) = rows.value() else { return Ok(Err(cut())) };
            values.push(ToSqlOutput::Borrowed(value));
        }
        if let Some(ToSqlOutput::Borrowed(ValueRef::Integer(step))) = step_index.and_then(|index| values.get(index + 1)) {
            for rewound in shapes.iter().filter(|shape| shape.is_rewound) {
                transaction.execute(&format!("DELETE FROM {} WHERE step > ?1", quoted(&rewound.name)), [step])?;
            }
        }
        if mask == 0 {
            transaction.prepare_cached(&insert)?.execute(params_from_iter(values))?;
            continue;
        }
        let assignments: Vec<String> =
            present.iter().enumerate().map(|(place, &index)| format!("{} = ?{}", quoted(&shape.columns[index]), place + 2)).collect();
        let update = format!("UPDATE OR REPLACE {table} SET {} WHERE rowid = ?1", assignments.join(", "));
        if transaction.prepare_cached(&update)?.execute(params_from_iter(values))? != 1 {
            return Ok(Err(format!("row {id} of `{}` changed, and is not here", shape.name)));
        }
    }
    Ok(Ok(()))
}

// Values as bytes: a tag, then an integer of as many bytes as it needs, eight bytes of a number, or a length and bytes.
const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;

fn put_value(bytes: &mut Vec<u8>, value: ValueRef) {
    match value {
        ValueRef::Null => bytes.push(NULL),
        ValueRef::Integer(value) => {
            bytes.push(INTEGER);
            put_integer(bytes, value);
        }
        ValueRef::Real(value) => {
            bytes.push(REAL);
            bytes.extend(value.to_le_bytes());
        }
        ValueRef::Text(text) => {
            bytes.push(TEXT);
            put_unsigned(bytes, text.len() as u64);
            bytes.extend(text);
        }
        ValueRef::Blob(blob) => {
            bytes.push(BLOB);
            put_unsigned(bytes, blob.len() as u64);
            bytes.extend(blob);
        }
    }
}

/// Seven bits a byte, the lowest first.
fn put_unsigned(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The sign in the lowest bit, so that small negative numbers are short too.
fn put_integer(bytes: &mut Vec<u8>, value: i64) {
    put_unsigned(bytes, ((value << 1) ^ (value >> 63)) as u64);
}

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn value(&mut self) -> Option<ValueRef<'a>> {
        Some(match self.take(1)?[0] {
            NULL => ValueRef::Null,
            INTEGER => ValueRef::Integer(self.integer()?),
            REAL => ValueRef::Real(f64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            TEXT => ValueRef::Text(self.sized()?),
            BLOB => ValueRef::Blob(self.sized()?),
            _ => return None,
        })
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.unsigned()?).ok()?;
        self.take(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_values_come_back_as_they_were() {
        // Bytes by hand: 300 is 0b10_0101100; -1 has the sign bit alone.
        let mut bytes = Vec::new();
        put_unsigned(&mut bytes, 300);
        put_integer(&mut bytes, -1);
        assert_eq!(bytes, [0xac, 0x02, 0x01]);
        let integers = [0, 1, -1, 63, 64, -64, -65, i64::MAX, i64::MIN];
        let mut bytes = Vec::new();
        integers.iter().for_each(|&value| put_value(&mut bytes, ValueRef::Integer(value)));
        put_value(&mut bytes, ValueRef::Real(f64::INFINITY));
        put_value(&mut bytes, ValueRef::Text("µ".as_bytes()));
        put_value(&mut bytes, ValueRef::Null);
        let mut rest = Bytes(&bytes);
        for value in integers {
            assert_eq!(rest.value(), Some(ValueRef::Integer(value)));
        }
        assert_eq!(rest.value(), Some(ValueRef::Real(f64::INFINITY)));
        assert_eq!(rest.value(), Some(ValueRef::Text("µ".as_bytes())));
        assert_eq!(rest.value(), Some(ValueRef::Null));
        assert!(rest.0.is_empty() && rest.value().is_none());
        // Every cut is seen.
        for end in 0..bytes.len() {
            let mut rest = Bytes(&bytes[..end]);
            let whole = std::iter::from_fn(|| rest.value()).count();
            assert!(whole < integers.len() + 3);
        }
    }
}
