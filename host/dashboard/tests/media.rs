//! Media of runs as the window reads them: what is asked for and no more, what is damaged, what a resume takes back.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image::{ImageFormat, Rgb, RgbImage};
use serde_json::json;
use solstice_dashboard::data::{Item, Listing, Media, MediaKey, MediaReader, MediaRow, SIDE_MAX, Want};
use solstice_store::{Histogram, Image, Matrix, MetricKind, NewRun, RunWriter, Table};

fn create(folder: &Path) -> RunWriter {
    RunWriter::create(folder, &NewRun { name: "media".into(), ..NewRun::default() }).unwrap()
}

/// A picture of one colour.
fn png(width: u32, height: u32, color: [u8; 3]) -> Image {
    let mut data = Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, Rgb(color)).write_to(&mut data, ImageFormat::Png).unwrap();
    Image { format: "png".into(), width, height, caption: format!("{color:?}"), data: data.into_inner() }
}

fn key(writer: &RunWriter, kind: MetricKind, name: &str) -> MediaKey {
    MediaKey { run: Arc::from(writer.path()), kind, name: name.into() }
}

fn listed(reader: &MediaReader, key: &MediaKey) -> Vec<u64> {
    reader.want(vec![Want { key: key.clone(), ids: vec![] }]);
    reader.media().listing(key).unwrap().rows.iter().map(|row| row.step).collect()
}

fn read(reader: &MediaReader, key: &MediaKey, ids: &[i64]) -> Arc<Media> {
    reader.want(vec![Want { key: key.clone(), ids: ids.to_vec() }]);
    reader.media()
}

#[test]
fn a_listing_finds_the_step_to_show() {
    let steps = [10, 10, 20, 40, 40, 40];
    let rows = steps.iter().enumerate().map(|(index, &step)| MediaRow { id: index as i64 + 1, step }).collect();
    let listing = Listing { rows, problem: None };
    assert_eq!((listing.at(10), listing.at(19), listing.at(20), listing.at(u64::MAX)), (0..2, 0..2, 2..3, 3..6));
    // Before the first step the first is shown.
    assert_eq!(listing.at(3), 0..2);
    assert_eq!(
        (listing.step_before(20), listing.step_before(10), listing.step_after(20), listing.step_after(40)),
        (Some(10), None, Some(40), None)
    );
    assert_eq!(listing.steps(), Some((10, 40)));
    assert_eq!((Listing::default().at(5), Listing::default().steps()), (0..0, None));
}

#[test]
fn each_kind_is_read_as_it_was_logged() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path());
    let histogram = Histogram { edges: vec![0.0, 1.0, 3.0], counts: vec![4, 2], not_finite: 1 };
    let table = Table { columns: vec!["a".into(), "b".into()], rows: vec![vec![json!(1), json!("x")]] };
    let matrix = Matrix { row_labels: vec!["r".into()], column_labels: vec!["c".into(), "d".into()], cells: vec![1.0, f64::NAN] };
    writer.image(1, "m", png(3, 2, [200, 100, 50]));
    writer.histogram(1, "m", histogram.clone());
    writer.text(1, "m", "hello");
    writer.table(1, "m", table.clone());
    writer.matrix(1, "m", matrix);
    writer.flush().unwrap();
    let reader = MediaReader::still();
    let item = |kind: MetricKind| {
        let key = key(&writer, kind, "m");
        assert_eq!(listed(&reader, &key), [1]);
        let id = reader.media().listing(&key).unwrap().rows[0].id;
        (*read(&reader, &key, &[id]).item(&key, id).unwrap().clone()).clone()
    };
    let Item::Picture(picture) = item(MetricKind::Image) else { panic!("no picture") };
    assert_eq!((picture.size, picture.original, picture.caption.as_str()), ([3, 2], [3, 2], "[200, 100, 50]"));
    assert_eq!(picture.rgba, [200, 100, 50, 255].repeat(6));
    assert_eq!(item(MetricKind::Histogram), Item::Histogram(histogram));
    assert_eq!(item(MetricKind::Text), Item::Text("hello".into()));
    assert_eq!(item(MetricKind::Table), Item::Table(table));
    let Item::Matrix(matrix) = item(MetricKind::Matrix) else { panic!("no matrix") };
    assert!(matrix.cells[0] == 1.0 && matrix.cells[1].is_nan());
}

#[test]
fn ten_thousand_pictures_are_listed_and_the_wanted_one_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path());
    let image = png(8, 8, [1, 2, 3]);
    for step in 0..10_000 {
        writer.image(step, "many", image.clone());
        if step % 1000 == 999 {
            writer.flush().unwrap();
        }
    }
    let reader = MediaReader::still();
    let key = key(&writer, MetricKind::Image, "many");
    assert_eq!(listed(&reader, &key), (0..10_000).collect::<Vec<u64>>());
    assert_eq!(reader.media().item_count(), 0);
    let id = reader.media().listing(&key).unwrap().rows[4321].id;
    let media = read(&reader, &key, &[id]);
    assert!(matches!(**media.item(&key, id).unwrap(), Item::Picture(_)));
    assert_eq!(media.item_count(), 1);
    // The same again is no change.
    assert_eq!(read(&reader, &key, &[id]).version, media.version);
}

#[test]
fn what_is_damaged_unknown_or_odd_becomes_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path());
    let good = png(16, 16, [9, 9, 9]);
    let half = Image { data: good.data[..good.data.len() / 2].to_vec(), ..good.clone() };
    let noise = Image { data: vec![7; 300], ..good.clone() };
    let webp = Image { format: "webp".into(), ..good };
    for (step, image) in [half, noise, webp].into_iter().enumerate() {
        writer.image(step as u64, "m", image);
    }
    writer.histogram(1, "h", Histogram { edges: vec![0.0, 1.0], counts: vec![1, 2], not_finite: 0 });
    writer.matrix(1, "x", Matrix { row_labels: vec!["a".into()], column_labels: vec!["b".into()], cells: vec![1.0, 2.0] });
    writer.flush().unwrap();
    let reader = MediaReader::still();
    let sentences = |kind: MetricKind, name: &str| -> Vec<String> {
        let key = key(&writer, kind, name);
        listed(&reader, &key);
        let ids: Vec<i64> = reader.media().listing(&key).unwrap().rows.iter().map(|row| row.id).collect();
        let media = read(&reader, &key, &ids);
        let sentence = |id: &i64| match &**media.item(&key, *id).unwrap() {
            Item::Problem(sentence) => sentence.clone(),
            other => panic!("{other:?}"),
        };
        ids.iter().map(sentence).collect()
    };
    let pictures = sentences(MetricKind::Image, "m");
    assert!(pictures[0].contains("damaged") && pictures[1].contains("damaged") && pictures[2].contains("webp"), "{pictures:?}");
    assert!(sentences(MetricKind::Histogram, "h")[0].contains("2 edges for 2 counts"));
    assert!(sentences(MetricKind::Matrix, "x")[0].contains("2 cells, but 1 rows of 1"));
}

#[test]
fn new_rows_come_and_a_rewind_drops_what_it_took_back() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path());
    let log = |step: u64, text: &str| {
        writer.text(step, "samples/text", text);
        writer.flush().unwrap();
    };
    log(1, "one");
    log(2, "two");
    let reader = MediaReader::still();
    let key = key(&writer, MetricKind::Text, "samples/text");
    assert_eq!(listed(&reader, &key), [1, 2]);
    log(3, "three");
    assert_eq!(listed(&reader, &key), [1, 2, 3]);
    writer.rewind(1).unwrap();
    assert_eq!(listed(&reader, &key), [1]);
    log(2, "two again");
    log(3, "three again");
    assert_eq!(listed(&reader, &key), [1, 2, 3]);
    let id = reader.media().listing(&key).unwrap().rows[1].id;
    assert_eq!(**read(&reader, &key, &[id]).item(&key, id).unwrap(), Item::Text("two again".into()));
    // Rewound and written on to between two looks.
    writer.rewind(2).unwrap();
    log(5, "five");
    assert_eq!(listed(&reader, &key), [1, 2, 5]);
}

#[test]
fn a_run_that_is_gone_says_so_and_one_in_its_place_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path());
    writer.text(1, "m", "first");
    writer.flush().unwrap();
    let path = writer.path().to_path_buf();
    let key = key(&writer, MetricKind::Text, "m");
    drop(writer);
    let reader = MediaReader::still();
    assert_eq!(listed(&reader, &key), [1]);
    let id = reader.media().listing(&key).unwrap().rows[0].id;
    read(&reader, &key, &[id]);
    std::fs::remove_dir_all(&path).unwrap();
    listed(&reader, &key);
    let listing = reader.media().listing(&key).unwrap().clone();
    assert!(listing.problem.as_ref().unwrap().contains("no such folder"), "{listing:?}");
    assert_eq!(listing.rows.len(), 1, "what was read stays");

    let other = create(folder.path());
    other.text(7, "m", "second");
    other.flush().unwrap();
    let other_path = other.path().to_path_buf();
    drop(other);
    std::fs::rename(other_path, &path).unwrap();
    assert_eq!(listed(&reader, &key), [7]);
    assert_eq!(reader.media().listing(&key).unwrap().problem, None);
    assert_eq!(**read(&reader, &key, &[id]).item(&key, id).unwrap(), Item::Text("second".into()));
}

#[test]
fn memory_is_bounded_and_the_least_used_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path());
    // 512 x 512 pixels take 1 MB: three fit in 3.5 MB, four do not.
    for step in 0..6 {
        writer.image(step, "m", png(512, 512, [step as u8; 3]));
    }
    writer.flush().unwrap();
    let reader = MediaReader::still_within(7 << 19);
    let key = key(&writer, MetricKind::Image, "m");
    listed(&reader, &key);
    let ids: Vec<i64> = reader.media().listing(&key).unwrap().rows.iter().map(|row| row.id).collect();
    for id in &ids[..3] {
        read(&reader, &key, &[*id]);
    }
    assert_eq!(reader.media().item_count(), 3);
    read(&reader, &key, &[ids[0]]);
    let media = read(&reader, &key, &[ids[3]]);
    assert!(media.item(&key, ids[0]).is_some() && media.item(&key, ids[1]).is_none() && media.item(&key, ids[2]).is_some());
    // All at once find no room: the first ones are shown, the others say why not.
    let media = read(&reader, &key, &ids);
    let shown: Vec<bool> = ids.iter().map(|id| matches!(**media.item(&key, *id).unwrap(), Item::Picture(_))).collect();
    assert_eq!(shown.iter().filter(|is_shown| **is_shown).count(), 3, "{shown:?}");
    let media = read(&reader, &key, &[ids[5]]);
    assert!(matches!(**media.item(&key, ids[5]).unwrap(), Item::Picture(_)));
}

#[test]
fn a_very_large_picture_is_kept_smaller_and_saved_whole() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path());
    let image = png(SIDE_MAX + 1000, 40, [5, 6, 7]);
    writer.image(3, "wide", image.clone());
    writer.flush().unwrap();
    let reader = MediaReader::still();
    let key = key(&writer, MetricKind::Image, "wide");
    listed(&reader, &key);
    let id = reader.media().listing(&key).unwrap().rows[0].id;
    let media = read(&reader, &key, &[id]);
    let Item::Picture(picture) = &**media.item(&key, id).unwrap() else { panic!("no picture") };
    assert_eq!((picture.original, picture.size[0]), ([SIDE_MAX + 1000, 40], SIDE_MAX as usize));
    assert_eq!(picture.rgba.len(), picture.size[0] * picture.size[1] * 4);

    let path = folder.path().join("saved.png");
    reader.save(&key, id, &path);
    assert_eq!(reader.media().saved.last().unwrap().problem, None);
    assert_eq!(std::fs::read(&path).unwrap(), image.data);
    // What is there is left as it is.
    reader.save(&key, id, &path);
    assert!(reader.media().saved.last().unwrap().problem.as_ref().unwrap().contains("is there already"));
    reader.save(&key, id, &folder.path().join("no/such/folder.png"));
    assert!(reader.media().saved.last().unwrap().problem.as_ref().unwrap().contains("cannot be written"));
}

#[test]
fn a_live_reader_follows_while_somebody_looks() {
    let folder = tempfile::tempdir().unwrap();
    let writer = create(folder.path());
    writer.text(1, "m", "one");
    writer.flush().unwrap();
    let wakes = Arc::new(AtomicUsize::new(0));
    let counter = wakes.clone();
    let reader = MediaReader::live(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let key = key(&writer, MetricKind::Text, "m");
    // No limit of its own: the test runner's holds. Like a window it asks again in every frame.
    let wait_for = |is: &dyn Fn(&Media) -> bool, ids: &[i64]| loop {
        reader.want(vec![Want { key: key.clone(), ids: ids.to_vec() }]);
        let media = reader.media();
        if is(&media) {
            return media;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let steps = |media: &Media| media.listing(&key).map(|listing| listing.rows.iter().map(|row| row.step).collect::<Vec<_>>());
    let media = wait_for(&|media| steps(media) == Some(vec![1]), &[]);
    let id = media.listing(&key).unwrap().rows[0].id;
    wait_for(&|media| media.item(&key, id).is_some_and(|item| **item == Item::Text("one".into())), &[id]);
    writer.text(2, "m", "two");
    writer.flush().unwrap();
    wait_for(&|media| steps(media) == Some(vec![1, 2]), &[id]);
    writer.rewind(1).unwrap();
    wait_for(&|media| steps(media) == Some(vec![1]), &[id]);
    assert!(wakes.load(Ordering::Relaxed) >= 4);
}
