//! The tables of `run.sqlite`, their version, and how a file is opened for writing or reading.
//!
//! `PRAGMA user_version` holds the version and `PRAGMA application_id` says that the file is ours. A change to the tables is one more entry in
//! `MIGRATIONS`: never an edit of an old one. README.md explains each column to people who come with `sqlite3`.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::error::{Result, StoreError};
use crate::read::Verdict;

/// Version of the tables that this build writes.
pub const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// `PRAGMA application_id`: the bytes `SLST`.
pub const APPLICATION_ID: i32 = 0x534c_5354;

/// `MIGRATIONS[n]` brings a store of version n to version n + 1.
const MIGRATIONS: &[&str] = &[V1];

/// The table that only a mirror has: see `mirror.rs`.
pub(crate) const MIRROR_TABLE: &str = "mirror";

/// How long a connection waits for another one's transaction. Writers hold the file for milliseconds.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

// Row ids are never reused (AUTOINCREMENT): a reader that asks for "rows after 500" must see what is written after a rewind deleted 400 to 500.
const V1: &str = "
CREATE TABLE run (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    created REAL NOT NULL,
    solstice_version TEXT NOT NULL,
    state TEXT NOT NULL,
    state_reason TEXT,
    state_time REAL NOT NULL,
    recipe_path TEXT,
    config TEXT NOT NULL,
    command_line TEXT,
    seed TEXT NOT NULL,
    device TEXT,
    adapter TEXT,
    shaders_hash TEXT,
    parent_id TEXT,
    parent_step INTEGER,
    parent_changes TEXT,
    budget TEXT,
    steps_total INTEGER,
    steps_per_epoch INTEGER,
    step INTEGER NOT NULL DEFAULT 0,
    epoch REAL NOT NULL DEFAULT 0,
    samples INTEGER NOT NULL DEFAULT 0,
    progress_time REAL,
    train_secs REAL NOT NULL DEFAULT 0
);
CREATE TABLE plugins (
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    hash TEXT NOT NULL,
    path TEXT,
    provides TEXT
);
CREATE TABLE metrics (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    count INTEGER NOT NULL DEFAULT 0,
    last REAL,
    last_step INTEGER,
    min REAL,
    min_step INTEGER,
    max REAL,
    max_step INTEGER,
    UNIQUE (name, kind)
);
CREATE TABLE scalars (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    metric_id INTEGER NOT NULL,
    step INTEGER NOT NULL,
    epoch REAL,
    samples INTEGER NOT NULL,
    time REAL NOT NULL,
    value REAL
);
CREATE TABLE histograms (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    metric_id INTEGER NOT NULL,
    step INTEGER NOT NULL,
    epoch REAL,
    time REAL NOT NULL,
    edges TEXT NOT NULL,
    counts TEXT NOT NULL,
    not_finite INTEGER NOT NULL
);
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    metric_id INTEGER NOT NULL,
    step INTEGER NOT NULL,
    epoch REAL,
    time REAL NOT NULL,
    format TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    caption TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE texts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    metric_id INTEGER NOT NULL,
    step INTEGER NOT NULL,
    epoch REAL,
    time REAL NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE tables (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    metric_id INTEGER NOT NULL,
    step INTEGER NOT NULL,
    epoch REAL,
    time REAL NOT NULL,
    columns TEXT NOT NULL,
    rows TEXT NOT NULL
);
CREATE TABLE matrices (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    metric_id INTEGER NOT NULL,
    step INTEGER NOT NULL,
    epoch REAL,
    time REAL NOT NULL,
    row_labels TEXT NOT NULL,
    column_labels TEXT NOT NULL,
    cells TEXT NOT NULL
);
CREATE INDEX histograms_by_metric ON histograms (metric_id, step);
CREATE INDEX images_by_metric ON images (metric_id, step);
CREATE INDEX texts_by_metric ON texts (metric_id, step);
CREATE INDEX tables_by_metric ON tables (metric_id, step);
CREATE INDEX matrices_by_metric ON matrices (metric_id, step);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    step INTEGER NOT NULL,
    kind TEXT NOT NULL,
    who TEXT NOT NULL,
    message TEXT NOT NULL,
    old TEXT,
    new TEXT,
    command_id INTEGER
);
CREATE TABLE logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    level TEXT NOT NULL,
    source TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE TABLE checkpoints (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    file TEXT NOT NULL UNIQUE,
    step INTEGER NOT NULL,
    epoch REAL NOT NULL,
    position INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    time REAL NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    metrics TEXT NOT NULL,
    reason TEXT NOT NULL,
    pinned INTEGER NOT NULL,
    abandoned INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE rewinds (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    step INTEGER NOT NULL,
    scalar_id INTEGER NOT NULL
);
CREATE TABLE heartbeat (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    pid INTEGER,
    pid_start INTEGER,
    host TEXT NOT NULL,
    opened REAL NOT NULL,
    time REAL NOT NULL
);
CREATE TABLE commands (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    who TEXT NOT NULL,
    kind TEXT NOT NULL,
    args TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    taken_time REAL,
    answered_time REAL
);
CREATE INDEX commands_by_state ON commands (state);
CREATE TABLE labels (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    time REAL NOT NULL
);
CREATE VIEW scalars_by_name AS
    SELECT scalars.id, metrics.name, step, epoch, samples, time, value FROM scalars JOIN metrics ON metrics.id = metric_id;
";

/// Makes a new store at `path`, which must not exist.
pub(crate) fn create(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(StoreError::sqlite("create the run store", path))?;
    configure_writer(&connection).map_err(StoreError::sqlite("set up the run store", path))?;
    connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(StoreError::sqlite("set up the run store", path))?;
    migrate(&connection, 0).map_err(StoreError::sqlite("create the tables of the run store", path))?;
    Ok(connection)
}

/// Opens the store at `path` for writing. Refuses what it does not know. Leaves the version as it is: a sender of commands must not change the
/// tables under a worker of an older build.
pub(crate) fn open_for_writing(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(StoreError::sqlite("open the run store for writing", path))?;
    checked_version(&connection, path)?;
    let source = mirror_source(&connection).map_err(|error| damaged_or_sqlite(error, path))?;
    if let Some(source_name) = source {
        let problem =
            "only what comes from there may change it. Do this on that machine, or through `solstice dashboard --ssh`".to_string();
        return Err(StoreError::Mirror { path: path.parent().unwrap_or(path).to_path_buf(), source_name, problem });
    }
    // SQLite quietly opens a file it cannot write as read-only.
    if connection.is_readonly("main").map_err(StoreError::sqlite("open the run store for writing", path))? {
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        return Err(StoreError::Io { action: "write", path: path.to_path_buf(), source });
    }
    configure_writer(&connection).map_err(StoreError::sqlite("set up the run store", path))?;
    Ok(connection)
}

/// Makes a store for a mirror at `path`, which must not exist; its tables come with the first rows.
pub(crate) fn create_mirror(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(StoreError::sqlite("create the mirror", path))?;
    configure_writer(&connection).map_err(StoreError::sqlite("set up the mirror", path))?;
    connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(StoreError::sqlite("set up the mirror", path))?;
    Ok(connection)
}

/// Opens the mirror at `path` for writing; refuses a store that is none.
pub(crate) fn open_mirror(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(StoreError::sqlite("open the mirror for writing", path))?;
    checked_version(&connection, path)?;
    if mirror_source(&connection).map_err(|error| damaged_or_sqlite(error, path))?.is_none() {
        return Err(StoreError::NotAStore {
            path: path.to_path_buf(),
            problem: "this is a run of this machine, not a mirror of one".to_string(),
        });
    }
    configure_writer(&connection).map_err(StoreError::sqlite("set up the mirror", path))?;
    Ok(connection)
}

/// Removes every table and makes those of `version`, at most [`SCHEMA_VERSION`], empty; within the caller's transaction.
pub(crate) fn remake_tables(connection: &Connection, version: u32) -> rusqlite::Result<()> {
    let objects: Vec<(String, String)> = connection
        .prepare("SELECT type, name FROM sqlite_schema WHERE type IN ('view', 'table') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type DESC")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (kind, name) in objects {
        connection.execute_batch(&format!("DROP {kind} \"{name}\""))?;
    }
    for migration in &MIGRATIONS[..version as usize] {
        connection.execute_batch(migration)?;
    }
    connection.pragma_update(None, "user_version", version)
}

/// Where the run is that this store mirrors; `None` when it is the run itself.
pub(crate) fn mirror_source(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let has_table = connection.prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?.exists([MIRROR_TABLE])?;
    if !has_table {
        return Ok(None);
    }
    connection.query_row(&format!("SELECT source FROM {MIRROR_TABLE}"), [], |row| row.get(0)).optional()
}

/// What the run's own machine says of its process, in a mirror.
pub(crate) fn mirror_verdict(connection: &Connection) -> rusqlite::Result<Option<Verdict>> {
    let mut select = connection.prepare_cached(&format!("SELECT lost_reason, lost_time FROM {MIRROR_TABLE}"))?;
    let verdict = select.query_row([], |row| Ok((row.get(0)?, row.get::<_, Option<f64>>(1)?))).optional()?;
    Ok(verdict.and_then(|(reason, time)| Some(Verdict { reason, time: time? })))
}

/// The version of the tables of an open store.
pub(crate) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings the tables to this build's version. For the one process that writes the run.
pub(crate) fn bring_up_to_date(connection: &Connection, path: &Path) -> Result<()> {
    let version = checked_version(connection, path)?;
    if version < SCHEMA_VERSION {
        migrate(connection, version).map_err(StoreError::sqlite("bring the run store to this version", path))?;
    }
    Ok(())
}

/// Opens the store at `path` without ever changing it; works beside a writer, after a kill, and in a folder that is read-only. Waits for another
/// program's lock for `patience`.
pub(crate) fn open_for_reading(path: &Path, patience: Duration) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = |location: &Path, flags| {
        let connection = Connection::open_with_flags(location, flags)?;
        connection.busy_timeout(patience)?;
        // The first read is where a missing `-shm` file shows.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    let connection = match open(path, flags) {
        // In a folder that cannot be written a store in WAL mode opens only as a file that nobody changes.
        Err(error) if is_unwritable_folder(&error) => {
            let location = format!("file:{}?immutable=1", uri_path(path));
            open(Path::new(&location), flags | OpenFlags::SQLITE_OPEN_URI).map_err(|_: rusqlite::Error| error)
        }
        other => other,
    }
    .map_err(|error| damaged_or_sqlite(error, path))?;
    checked_version(&connection, path)?;
    Ok(connection)
}

fn is_unwritable_folder(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::ReadOnly))
}

/// `path` as the middle of an SQLite URI: the three characters that end a path there are escaped.
fn uri_path(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

/// The schema version of an open store, once it is known to be ours and not newer than this build.
fn checked_version(connection: &Connection, path: &Path) -> Result<u32> {
    let pragma =
        |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(|error| damaged_or_sqlite(error, path));
    let (application_id, version) = (pragma("application_id")?, pragma("user_version")?);
    if application_id != i64::from(APPLICATION_ID) || version < 1 {
        let problem = if application_id == 0 && version == 0 {
            "the file is empty or was cut off before its tables were written: this is no usable run store"
        } else {
            "an SQLite file of another program, not a run store"
        };
        return Err(StoreError::NotAStore { path: path.to_path_buf(), problem: problem.to_string() });
    }
    match u32::try_from(version) {
        Ok(version) if version <= SCHEMA_VERSION => Ok(version),
        found => Err(StoreError::Newer { path: path.to_path_buf(), found: found.unwrap_or(u32::MAX), supported: SCHEMA_VERSION }),
    }
}

/// Damage is said in our words; any other SQLite error in SQLite's.
pub(crate) fn damaged_or_sqlite(error: rusqlite::Error, path: &Path) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => {
            StoreError::NotAStore { path: path.to_path_buf(), problem: "not an SQLite file, or its first page is damaged".to_string() }
        }
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => StoreError::NotAStore {
            path: path.to_path_buf(),
            problem: format!("the run store is damaged or cut off ({error}); its checkpoints may still be whole"),
        },
        _ => StoreError::Sqlite { action: "read the run store", path: path.to_path_buf(), source: error },
    }
}

/// Is every page of the store readable? `None` when it is, else SQLite's first complaint.
pub(crate) fn first_damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((verdict != "ok").then_some(verdict))
}

fn configure_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // In WAL mode NORMAL survives a killed process whole; a power cut may lose the last transactions, never the file.
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |_| Ok(()))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn migrate(connection: &Connection, from: u32) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let steps = || {
        for migration in &MIGRATIONS[from as usize..] {
            connection.execute_batch(migration)?;
        }
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        connection.execute_batch("COMMIT")
    };
    steps().inspect_err(|_| {
        let _ = connection.execute_batch("ROLLBACK");
    })
}
