//! [`MediaReader`]: reads pictures, matrices, histograms, texts and tables of runs on a thread of its own, only those that are asked for.
//!
//! The window says each frame what it shows ([`MediaReader::want`]) and draws from what is there ([`MediaReader::media`], one atomic load). Of a
//! metric all rows are listed, which costs some bytes a row; what was logged is read, and pictures are decoded, for the wanted rows alone. What is
//! not wanted any more stays in memory up to a budget and goes by the time of its last use. The rows that a resume took back are gone from the
//! store, so a rewind lists anew.

use std::collections::{HashMap, HashSet};
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use image::{DynamicImage, ImageFormat, ImageReader};
use solstice_store::{DATABASE_FILE, Histogram, Image, Logged, Matrix, MetricKind, RunReader, StoreError, Table};

/// Between two looks at the runs that are shown.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// While much is read, what is there is published this often.
const BITE: Duration = Duration::from_millis(40);
/// Memory for everything that was read.
const BYTES_MAX: usize = 256 << 20;
/// Items in memory, however small.
const ITEMS_MAX: usize = 8192;
/// Memory that decoding one picture may take.
const DECODE_BYTES_MAX: u64 = 512 << 20;
/// A picture with more pixels across or down is kept smaller: more than any screen shows, and less than any device refuses.
pub const SIDE_MAX: u32 = 2048;
/// Outcomes of [`MediaReader::save`] that are remembered.
const SAVED_MAX: usize = 16;

/// A metric of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MediaKey {
    /// The run's folder.
    pub run: Arc<Path>,
    /// What its rows are.
    pub kind: MetricKind,
    /// Such as `samples/test`.
    pub name: String,
}

/// Where one row was logged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MediaRow {
    /// Row id; names the row within its run and kind.
    pub id: i64,
    /// Step of training.
    pub step: u64,
}

/// The rows of a metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// By step, then in the order written.
    pub rows: Vec<MediaRow>,
    /// Why they cannot be read, or not any more.
    pub problem: Option<String>,
}

impl Listing {
    /// Indices of the rows of the last step up to `step`; of the first step where all are later; empty where there are none.
    pub fn at(&self, step: u64) -> Range<usize> {
        let end = self.rows.partition_point(|row| row.step <= step);
        let of = |step: u64| self.rows.partition_point(|row| row.step < step)..self.rows.partition_point(|row| row.step <= step);
        match self.rows.get(end.saturating_sub(1)) {
            Some(row) => of(row.step),
            None => 0..0,
        }
    }

    /// The first and the last step.
    pub fn steps(&self) -> Option<(u64, u64)> {
        Some((self.rows.first()?.step, self.rows.last()?.step))
    }

    /// The next step that has rows.
    pub fn step_after(&self, step: u64) -> Option<u64> {
        self.rows.get(self.rows.partition_point(|row| row.step <= step)).map(|row| row.step)
    }

    /// The last step before that has rows.
    pub fn step_before(&self, step: u64) -> Option<u64> {
        let end = self.rows.partition_point(|row| row.step < step);
        end.checked_sub(1).map(|index| self.rows[index].step)
    }
}

/// A decoded picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Pixels across and down as it was logged.
    pub original: [u32; 2],
    /// Pixels across and down of `rgba`: smaller where a side has more than [`SIDE_MAX`].
    pub size: [usize; 2],
    /// Row by row, four bytes a pixel, colours not multiplied by opacity.
    pub rgba: Vec<u8>,
    /// One line that was logged with it.
    pub caption: String,
}

/// What was logged in one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An image, decoded.
    Picture(Picture),
    /// Counts between edges.
    Histogram(Histogram),
    /// A text.
    Text(String),
    /// Columns and rows.
    Table(Table),
    /// Labelled numbers.
    Matrix(Matrix),
    /// Why it cannot be shown: a sentence.
    Problem(String),
}

impl Item {
    // Bytes of memory, about.
    fn bytes(&self) -> usize {
        128 + match self {
            Item::Picture(picture) => picture.rgba.len() + picture.caption.len(),
            Item::Histogram(histogram) => 8 * (histogram.edges.len() + histogram.counts.len()),
            Item::Text(text) | Item::Problem(text) => text.len(),
            Item::Table(table) => table.rows.iter().map(|row| 24 + 56 * row.len()).sum::<usize>() + 32 * table.columns.len(),
            Item::Matrix(matrix) => 8 * matrix.cells.len() + 40 * (matrix.row_labels.len() + matrix.column_labels.len()),
        }
    }
}

/// Rows of a metric that are to be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Want {
    /// The metric: its rows are listed.
    pub key: MediaKey,
    /// Rows whose contents are wanted, first those that matter most.
    pub ids: Vec<i64>,
}

/// What became of a picture that was to be saved.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// The file.
    pub path: PathBuf,
    /// Why it was not written.
    pub problem: Option<String>,
}

/// What has been read. Never changes.
#[derive(Clone, Debug, Default)]
pub struct Media {
    /// Grows with every change.
    pub version: u64,
    listings: HashMap<MediaKey, Arc<Listing>>,
    items: HashMap<ItemKey, Arc<Item>>,
    /// Pictures saved from here, oldest first.
    pub saved: Vec<Saved>,
}

impl Media {
    /// The rows of a metric, once they are listed.
    pub fn listing(&self, key: &MediaKey) -> Option<&Arc<Listing>> {
        self.listings.get(key)
    }

    /// What was logged in a row, once it is read.
    pub fn item(&self, key: &MediaKey, id: i64) -> Option<&Arc<Item>> {
        self.items.get(&item_key(key, id))
    }

    /// How many items are in memory.
    pub fn item_count(&self) -> usize {
        self.items.len()
    }
}

type ItemKey = (Arc<Path>, MetricKind, i64);

fn item_key(key: &MediaKey, id: i64) -> ItemKey {
    (key.run.clone(), key.kind, id)
}

enum Request {
    /// What is wanted has changed, or somebody looks again.
    Look,
    Save {
        key: MediaKey,
        id: i64,
        path: PathBuf,
    },
    Stop,
}

type Wake = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Shared {
    media: ArcSwap<Media>,
    wants: ArcSwap<Vec<Want>>,
    /// Somebody has looked since the last publication. Nobody does while the panel is hidden, and then nothing is read.
    is_looked_at: AtomicBool,
    wake: Mutex<Option<Wake>>,
}

/// Reads what is wanted. Dropping it ends its thread.
pub struct MediaReader {
    shared: Arc<Shared>,
    requests: Sender<Request>,
    thread: Option<JoinHandle<()>>,
    /// Without a thread everything is read where it is asked for.
    still: Option<Mutex<Shelf>>,
}

impl std::fmt::Debug for MediaReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MediaReader").field("is_still", &self.still.is_some()).finish_non_exhaustive()
    }
}

impl MediaReader {
    /// Reads on a thread, and calls `wake` on it after each change: that must be quick, such as asking a window to repaint.
    pub fn live(wake: impl Fn() + Send + Sync + 'static) -> MediaReader {
        let shared = Arc::new(Shared { wake: Mutex::new(Some(Box::new(wake))), ..Shared::default() });
        let (requests, inbox) = unbounded();
        let follower = Follower { shelf: Shelf::new(BYTES_MAX), shared: shared.clone() };
        let thread = std::thread::Builder::new().name("media".to_string()).spawn(move || follower.run(&inbox));
        MediaReader { shared, requests, thread: Some(thread.expect("a thread can be started")), still: None }
    }

    /// Reads in [`MediaReader::want`] itself: for tests, where nothing may change by itself.
    pub fn still() -> MediaReader {
        MediaReader::still_within(BYTES_MAX)
    }

    /// The same with another budget of memory.
    pub fn still_within(bytes_max: usize) -> MediaReader {
        let still = Some(Mutex::new(Shelf::new(bytes_max)));
        MediaReader { shared: Arc::default(), requests: unbounded().0, thread: None, still }
    }

    /// What has been read so far: one atomic load, never waits.
    pub fn media(&self) -> Arc<Media> {
        self.shared.media.load_full()
    }

    /// Says what is shown now, instead of what was. To be called in every frame that shows media: while it is not, nothing is read.
    pub fn want(&self, wants: Vec<Want>) {
        let is_new = **self.shared.wants.load() != wants;
        if is_new {
            self.shared.wants.store(Arc::new(wants));
        }
        if let Some(still) = &self.still {
            let mut shelf = still.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            while !shelf.look(&self.shared.wants.load(), None) {}
            shelf.publish(&self.shared);
            return;
        }
        let was_looked_at = self.shared.is_looked_at.swap(true, Ordering::Relaxed);
        if is_new || !was_looked_at {
            // The thread ends only with the reader.
            let _ = self.requests.send(Request::Look);
        }
    }

    /// Writes a picture as PNG, as it was logged; what becomes of it stands in [`Media::saved`]. A file that is there is left as it is.
    pub fn save(&self, key: &MediaKey, id: i64, path: &Path) {
        if let Some(still) = &self.still {
            let mut shelf = still.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            shelf.save(key, id, path);
            shelf.publish(&self.shared);
            return;
        }
        let _ = self.requests.send(Request::Save { key: key.clone(), id, path: path.to_path_buf() });
    }
}

impl Drop for MediaReader {
    fn drop(&mut self) {
        let _ = self.requests.send(Request::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// The reader's thread.
struct Follower {
    shelf: Shelf,
    shared: Arc<Shared>,
}

impl Follower {
    fn run(mut self, inbox: &Receiver<Request>) {
        let mut is_done = true;
        loop {
            let is_watched = self.shared.is_looked_at.load(Ordering::Relaxed);
            let request = match (is_done, is_watched) {
                (false, _) => inbox.recv_timeout(Duration::ZERO),
                (true, true) => inbox.recv_timeout(LOOK_INTERVAL),
                // Until somebody looks.
                (true, false) => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match request {
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Request::Save { key, id, path }) => self.shelf.save(&key, id, &path),
                Ok(Request::Look) | Err(RecvTimeoutError::Timeout) => {}
            }
            let wants = self.shared.wants.load_full();
            is_done = self.shelf.look(&wants, Some(Instant::now() + BITE));
            if self.shelf.publish(&self.shared) {
                self.shared.is_looked_at.store(false, Ordering::Relaxed);
                if let Some(wake) = &*self.shared.wake.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
                    wake();
                }
            }
        }
    }
}

/// A run that is, or was, looked at.
#[derive(Default)]
struct Followed {
    reader: Option<RunReader>,
    /// Id and time of creation: another run in the same folder begins again.
    identity: Option<(String, f64)>,
    last_rewind: i64,
    problem: Option<String>,
}

struct Listed {
    listing: Arc<Listing>,
    /// `data_version` of the reader when they were listed; `None`: list again from the beginning.
    version: Option<i64>,
}

struct Kept {
    item: Arc<Item>,
    bytes: usize,
    /// When it was wanted last.
    used: u64,
    /// Stands for one that found no room.
    is_refusal: bool,
}

/// Everything that has been read.
struct Shelf {
    followed: HashMap<Arc<Path>, Followed>,
    listed: HashMap<MediaKey, Listed>,
    kept: HashMap<ItemKey, Kept>,
    saved: Vec<Saved>,
    bytes: usize,
    bytes_max: usize,
    clock: u64,
    version: u64,
    changed: bool,
    last_wants: Vec<Want>,
}

impl Shelf {
    fn new(bytes_max: usize) -> Shelf {
        Shelf {
            followed: HashMap::new(),
            listed: HashMap::new(),
            kept: HashMap::new(),
            saved: Vec::new(),
            bytes: 0,
            bytes_max,
            clock: 0,
            version: 0,
            changed: false,
            last_wants: Vec::new(),
        }
    }

    /// Reads what is wanted and not there, until `deadline`; true when all of it is.
    fn look(&mut self, wants: &[Want], deadline: Option<Instant>) -> bool {
        self.clock += 1;
        if self.last_wants != wants {
            self.last_wants = wants.to_vec();
            // With other wants there may be room.
            self.kept.retain(|_, kept| !kept.is_refusal);
        }
        let runs: HashSet<Arc<Path>> = wants.iter().map(|want| want.key.run.clone()).collect();
        for (path, followed) in &mut self.followed {
            if !runs.contains(path) {
                followed.reader = None;
            }
        }
        let listed_count = self.listed.len();
        self.listed.retain(|key, _| runs.contains(&key.run));
        self.changed |= self.listed.len() != listed_count;
        for run in runs {
            let outcome = self.list(&run, wants);
            let followed = self.followed.entry(run.clone()).or_default();
            let problem = outcome.err().map(|error| error.to_string());
            if problem.is_some() {
                followed.reader = None;
            }
            if problem != followed.problem || problem.is_some() {
                self.tell(&run, wants, problem);
            }
        }
        for want in wants {
            for &id in &want.ids {
                if let Some(kept) = self.kept.get_mut(&item_key(&want.key, id)) {
                    kept.used = self.clock;
                }
            }
        }
        for want in wants {
            for &id in &want.ids {
                if self.kept.contains_key(&item_key(&want.key, id)) {
                    continue;
                }
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return false;
                }
                self.read_item(&want.key, id);
            }
        }
        true
    }

    // Why a run cannot be read, where its rows would stand; what was read before stays.
    fn tell(&mut self, run: &Arc<Path>, wants: &[Want], problem: Option<String>) {
        for want in wants.iter().filter(|want| want.key.run == *run) {
            let listed = self.listed.entry(want.key.clone()).or_insert(Listed { listing: Arc::default(), version: None });
            if listed.listing.problem != problem {
                Arc::make_mut(&mut listed.listing).problem = problem.clone();
                self.changed = true;
            }
        }
        self.followed.entry(run.clone()).or_default().problem = problem;
    }

    /// Lists what is new in the wanted metrics of a run.
    fn list(&mut self, run: &Arc<Path>, wants: &[Want]) -> Result<(), StoreError> {
        let followed = self.followed.entry(run.clone()).or_default();
        // An open file that was deleted can still be read, for ever.
        if !run.join(DATABASE_FILE).is_file() {
            followed.reader = None;
        }
        if followed.reader.is_none() {
            let reader = RunReader::open(run)?;
            let info = reader.info()?;
            let identity = Some((info.id, info.created));
            // The number that tells of changes is a matter of the connection, so all is listed again.
            let is_other = followed.identity.is_some() && followed.identity != identity;
            *followed = Followed {
                reader: Some(reader),
                identity,
                last_rewind: if is_other { 0 } else { followed.last_rewind },
                ..Followed::default()
            };
            self.listed.iter_mut().filter(|(key, _)| key.run == *run).for_each(|(_, listed)| listed.version = None);
            if is_other {
                self.forget_items(|(path, _, _)| path == run);
            }
        }
        let Some(followed) = self.followed.get_mut(run) else { return Ok(()) };
        let Some(reader) = &followed.reader else { return Ok(()) };
        let version = reader.data_version()?;
        let is_listed = |listed: Option<&Listed>| listed.is_some_and(|listed| listed.version == Some(version));
        let keys: Vec<&MediaKey> = wants.iter().map(|want| &want.key).filter(|key| key.run == *run).collect();
        if keys.iter().all(|key| is_listed(self.listed.get(*key))) {
            return Ok(());
        }
        let rewinds = reader.rewinds_since(followed.last_rewind)?;
        if let Some(last) = rewinds.last() {
            followed.last_rewind = last.id;
            self.listed.iter_mut().filter(|(key, _)| key.run == *run).for_each(|(_, listed)| listed.version = None);
        }
        // A rewind that comes from here on changes the version, and is found by the next look.
        for key in keys {
            let known = self.listed.get(key);
            if is_listed(known) {
                continue;
            }
            let mut rows = known.filter(|known| known.version.is_some()).map_or_else(Vec::new, |known| known.listing.rows.clone());
            let last = rows.iter().map(|row| row.id).max().unwrap_or(0);
            let new = reader.places(key.kind, &key.name, last)?;
            rows.extend(new.into_iter().map(|row| MediaRow { id: row.id, step: row.at.step }));
            rows.sort_by_key(|row| (row.step, row.id));
            let listing = Listing { rows, problem: None };
            let is_same = self.listed.get(key).is_some_and(|known| *known.listing == listing);
            let listing = if is_same { self.listed[key].listing.clone() } else { Arc::new(listing) };
            self.changed |= !is_same;
            self.listed.insert(key.clone(), Listed { listing, version: Some(version) });
        }
        Ok(())
    }

    fn forget_items(&mut self, is_gone: impl Fn(&ItemKey) -> bool) {
        let bytes = &mut self.bytes;
        self.kept.retain(|key, kept| {
            let stays = !is_gone(key);
            *bytes -= if stays { 0 } else { kept.bytes };
            stays
        });
        self.changed = true;
    }

    fn read_item(&mut self, key: &MediaKey, id: i64) {
        let Some(reader) = self.followed.get(&key.run).and_then(|followed| followed.reader.as_ref()) else { return };
        let item = match read(reader, key.kind, id) {
            Ok(Some(item)) => item,
            // A rewind took it back: the next listing does not have it.
            Ok(None) => return,
            Err(error) => Item::Problem(error.to_string()),
        };
        let bytes = item.bytes();
        while self.bytes + bytes > self.bytes_max || self.kept.len() >= ITEMS_MAX {
            let oldest = self.kept.iter().filter(|(_, kept)| kept.used < self.clock).min_by_key(|(_, kept)| kept.used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
            self.bytes -= self.kept.remove(&oldest).map_or(0, |kept| kept.bytes);
        }
        let is_refusal = self.bytes + bytes > self.bytes_max;
        let (item, bytes) = if is_refusal {
            let sentence = format!("not shown: what is on screen already takes {} MB, which is the most", self.bytes_max >> 20);
            (Item::Problem(sentence), 0)
        } else {
            (item, bytes)
        };
        self.bytes += bytes;
        self.kept.insert(item_key(key, id), Kept { item: Arc::new(item), bytes, used: self.clock, is_refusal });
        self.changed = true;
    }

    fn save(&mut self, key: &MediaKey, id: i64, path: &Path) {
        let problem = write_png(&key.run, id, path).err();
        self.saved.push(Saved { path: path.to_path_buf(), problem });
        self.saved.drain(..self.saved.len().saturating_sub(SAVED_MAX));
        self.changed = true;
    }

    /// Shows what has changed; false if nothing has.
    fn publish(&mut self, shared: &Shared) -> bool {
        if !std::mem::take(&mut self.changed) {
            return false;
        }
        self.version += 1;
        shared.media.store(Arc::new(Media {
            version: self.version,
            listings: self.listed.iter().map(|(key, listed)| (key.clone(), listed.listing.clone())).collect(),
            items: self.kept.iter().map(|(key, kept)| (key.clone(), kept.item.clone())).collect(),
            saved: self.saved.clone(),
        }));
        true
    }
}

fn read(reader: &RunReader, kind: MetricKind, id: i64) -> Result<Option<Item>, StoreError> {
    fn item<T>(row: Option<Logged<T>>, of: impl Fn(T) -> Item) -> Option<Item> {
        row.map(|row| of(row.item))
    }
    Ok(match kind {
        MetricKind::Scalar => None,
        MetricKind::Image => item(reader.image(id)?, |image| picture(&image).map_or_else(Item::Problem, Item::Picture)),
        MetricKind::Histogram => {
            item(reader.histogram(id)?, |histogram| checked_histogram(histogram).map_or_else(Item::Problem, Item::Histogram))
        }
        MetricKind::Text => item(reader.text(id)?, Item::Text),
        MetricKind::Table => item(reader.table(id)?, Item::Table),
        MetricKind::Matrix => item(reader.matrix(id)?, |matrix| checked_matrix(matrix).map_or_else(Item::Problem, Item::Matrix)),
    })
}

/// Decodes a picture.
///
/// Errors: a sentence, when it is damaged, of a format that is not known, or too large.
pub fn picture(image: &Image) -> Result<Picture, String> {
    let decoded = decode(image)?;
    let original = [decoded.width(), decoded.height()];
    let is_large = decoded.width() > SIDE_MAX || decoded.height() > SIDE_MAX;
    let shown = if is_large { decoded.thumbnail(SIDE_MAX, SIDE_MAX) } else { decoded }.into_rgba8();
    let size = [shown.width() as usize, shown.height() as usize];
    Ok(Picture { original, size, rgba: shown.into_raw(), caption: image.caption.clone() })
}

fn decode(image: &Image) -> Result<DynamicImage, String> {
    let format = ImageFormat::from_extension(&image.format).filter(|format| matches!(format, ImageFormat::Png | ImageFormat::Jpeg));
    let format = format.ok_or_else(|| format!("this picture is in the format `{}`, but only png and jpeg are known", image.format))?;
    let mut reader = ImageReader::with_format(Cursor::new(&image.data), format);
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    reader.decode().map_err(|error| format!("this picture is damaged and cannot be shown: {error}"))
}

fn write_png(run: &Path, id: i64, path: &Path) -> Result<(), String> {
    let image = RunReader::open(run).and_then(|reader| reader.image(id)).map_err(|error| error.to_string())?;
    let image = image.ok_or("the picture is gone: a resume took it back")?.item;
    let mut png = Cursor::new(Vec::new());
    let data = if image.format == "png" {
        image.data
    } else {
        decode(&image)?.write_to(&mut png, ImageFormat::Png).map_err(|error| error.to_string())?;
        png.into_inner()
    };
    let write = || {
        let mut file = std::fs::File::create_new(path)?;
        std::io::Write::write_all(&mut file, &data)
    };
    write().map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => format!("{} is there already: choose another name", path.display()),
        _ => format!("{} cannot be written: {error}", path.display()),
    })
}

fn checked_histogram(histogram: Histogram) -> Result<Histogram, String> {
    let (edges, counts) = (histogram.edges.len(), histogram.counts.len());
    if edges != counts + 1 {
        return Err(format!("this histogram has {edges} edges for {counts} counts, one more than counts was wanted"));
    }
    if histogram.edges.iter().any(|edge| !edge.is_finite()) || histogram.edges.windows(2).any(|pair| pair[0] > pair[1]) {
        return Err("the edges of this histogram are not finite numbers in ascending order".to_string());
    }
    Ok(histogram)
}

fn checked_matrix(matrix: Matrix) -> Result<Matrix, String> {
    let (rows, columns) = (matrix.row_labels.len(), matrix.column_labels.len());
    if rows * columns != matrix.cells.len() {
        return Err(format!("this matrix has {} cells, but {rows} rows of {columns}", matrix.cells.len()));
    }
    Ok(matrix)
}
