//! A checkpoint loads as it was saved, or is refused with a sentence; never a crash, never a silent wrong tensor.

mod common;

use std::fs;

use common::{Random, checkpoint_at, new_run, tensors};
use solstice_store::{
    DType, NewCheckpoint, RunReader, RunWriter, StoreError, Tensor, load_checkpoint, load_tensors, save_checkpoint, save_tensors,
};

#[test]
fn a_checkpoint_loads_as_it_was_saved_and_equal_states_are_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    let saved = save_checkpoint(&path, &checkpoint_at(120), &tensors()).unwrap();
    let loaded = load_checkpoint(&path).unwrap();
    assert_eq!(loaded.sha256, saved.sha256);
    assert_eq!(loaded.tensors.len(), tensors().len());
    for tensor in tensors() {
        assert_eq!(loaded.tensor(&tensor.name), Some(&tensor));
    }
    let (info, wanted) = (&loaded.info, checkpoint_at(120));
    assert_eq!((info.at, info.position, &info.reason, &info.metadata), (wanted.at, wanted.position, &wanted.reason, &wanted.metadata));
    assert_eq!((info.metrics["val/loss"], info.metrics["val/far"]), (0.5, f64::NEG_INFINITY));
    assert!(info.metrics["val/odd"].is_nan());

    let mut shuffled = tensors();
    shuffled.reverse();
    save_checkpoint(&other, &checkpoint_at(120), &shuffled).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(&other).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().len(), saved.bytes);
    assert!(!folder.path().join("a.safetensors.partial").exists());
}

/// The `safetensors` crate stands for every other program that reads the format.
#[test]
fn other_programs_read_our_files_and_we_read_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ours.safetensors");
    save_checkpoint(&path, &checkpoint_at(1), &tensors()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("step").unwrap().data(), 0xdead_beef_u32.to_le_bytes());
    assert_eq!(theirs.tensor("mask").unwrap().dtype(), safetensors::Dtype::BOOL);
    assert_eq!(theirs.tensor("conv1.weight").unwrap().shape(), [2, 3]);

    let data = 1.5f32.to_le_bytes();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &data).unwrap();
    let path = folder.path().join("theirs.safetensors");
    fs::write(&path, safetensors::serialize([("w", view)], None).unwrap()).unwrap();
    let (tensors, metadata) = load_tensors(&path).unwrap();
    assert_eq!(tensors, [Tensor { name: "w".into(), dtype: DType::F32, shape: vec![1], bytes: data.to_vec() }]);
    assert!(metadata.is_empty());
    let error = load_checkpoint(&path).unwrap_err().to_string();
    assert!(error.contains("no checksum") && error.contains("--init"), "{error}");

    // Tensors for other programs carry the caller's strings and nothing of ours.
    let strings: std::collections::BTreeMap<String, String> = [("format".to_string(), "pt".to_string())].into();
    let path = folder.path().join("plain.safetensors");
    let bytes = save_tensors(&path, &strings, &common::tensors()).unwrap();
    let file = fs::read(&path).unwrap();
    assert_eq!(file.len() as u64, bytes);
    let (_, header) = safetensors::SafeTensors::read_metadata(&file).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap().iter().collect::<Vec<_>>(), [(&"format".to_string(), &"pt".to_string())]);
    let theirs = safetensors::SafeTensors::deserialize(&file).unwrap();
    for tensor in common::tensors() {
        let view = theirs.tensor(&tensor.name).unwrap();
        assert_eq!((view.shape(), view.data()), (&tensor.shape[..], &tensor.bytes[..]), "{}", tensor.name);
    }
    assert_eq!(load_tensors(&path).unwrap().1, strings);
    let sentence = save_tensors(folder.path(), &strings, &[]).unwrap_err().to_string();
    assert!(sentence.starts_with("cannot write the tensors to"), "{sentence}");
}

#[test]
fn a_tensor_that_does_not_fit_its_shape_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let tensor = |name: &str, dtype, shape: &[usize], bytes: usize| Tensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        bytes: vec![2; bytes],
    };
    let refused = |tensors: &[Tensor]| save_checkpoint(&path, &checkpoint_at(1), tensors).unwrap_err().to_string();
    assert_eq!(
        refused(&[tensor("fc1.weight", DType::F32, &[2, 3], 20)]),
        "tensor `fc1.weight`: f32 of shape [2, 3] takes 24 bytes, got 20"
    );
    assert!(refused(&[tensor("huge", DType::F32, &[usize::MAX, 9], 4)]).contains("more bytes than memory holds"));
    assert!(refused(&[tensor("m", DType::Bool, &[1], 1)]).contains("got a byte of 2"));
    assert!(refused(&[tensor("w", DType::U8, &[1], 1), tensor("w", DType::U8, &[1], 1)]).contains("needs its own"));
    let mut new = checkpoint_at(1);
    new.metadata.insert("solstice.step".into(), "1".into());
    assert!(save_checkpoint(&path, &new, &[]).unwrap_err().to_string().contains("`solstice.step` is taken"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing half-written");
}

/// A checkpoint of random names, types, shapes, values and strings: some hundred bytes to some thousand.
fn random_checkpoint(random: &mut Random, step: u64) -> (NewCheckpoint, Vec<Tensor>) {
    let dtypes = ["bool", "u8", "i8", "f16", "bf16", "i32", "u32", "f32", "i64", "u64", "f64"];
    let strings = ["model.fc1.weight", "größe", "a \"quoted\" name", "\u{1f600}", "x", "optimizer/μ"];
    let mut tensors = vec![];
    for index in 0..random.below(8) {
        let dtype = DType::from_tag(dtypes[random.below(dtypes.len())]).unwrap();
        let shape: Vec<usize> = (0..random.below(4)).map(|_| random.below(6)).collect();
        let byte_count = shape.iter().product::<usize>() * dtype.size();
        let mask = if dtype == DType::Bool { 1 } else { 255 };
        let bytes = (0..byte_count).map(|_| random.next() as u8 & mask).collect();
        tensors.push(Tensor { name: format!("{}.{index}", strings[random.below(strings.len())]), dtype, shape, bytes });
    }
    let mut new = checkpoint_at(step);
    for _ in 0..random.below(4) {
        let text = strings[random.below(strings.len())].repeat(random.below(20));
        new.metadata.insert(format!("{}{}", strings[random.below(strings.len())], random.below(9)), text);
    }
    (new, tensors)
}

/// As a full disk, a power cut, a bad cable or a curious editor leaves a file.
fn damage(random: &mut Random, whole: &[u8], kind: usize) -> Vec<u8> {
    let mut damaged = whole.to_vec();
    let place = random.below(whole.len());
    match kind {
        0 => damaged.truncate(place),
        1 => damaged[place] ^= 1 << random.below(8),
        2 => {
            for _ in 0..1 + random.below(20) {
                damaged[random.below(whole.len())] = random.next() as u8;
            }
        }
        // A block that was never written.
        3 => {
            let end = (place + 1 + random.below(512)).min(whole.len());
            damaged[place..end].fill(0);
        }
        // The length of the header.
        4 => damaged[random.below(8)] = random.next() as u8,
        // Bytes that belong to nothing, in the middle or at the end.
        _ => {
            let more = 1 + random.below(16);
            let place = if random.below(2) == 0 { whole.len() } else { place };
            damaged.splice(place..place, (0..more).map(|_| random.next() as u8).collect::<Vec<_>>());
        }
    }
    damaged
}

#[test]
fn a_thousand_damaged_files_are_refused_with_a_sentence_or_load_right_and_the_one_before_is_found() {
    let seed = std::env::var("SOLSTICE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42);
    println!("seed {seed}");
    let mut random = Random(seed);
    let runs = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
    let reader = RunReader::open(writer.path()).unwrap();
    let good = writer.save_checkpoint(&checkpoint_at(100), &tensors()).unwrap();
    let mut refused = 0;
    for file in 0..40 {
        let (new, tensors) = random_checkpoint(&mut random, 200);
        let path = writer.save_checkpoint(&new, &tensors).unwrap().path;
        writer.flush().unwrap();
        let whole = fs::read(&path).unwrap();
        // Compared as text: a NaN among the metrics is not equal to itself.
        let right = format!("{:?}", load_checkpoint(&path).unwrap());
        for trial in 0..25 {
            let damaged = damage(&mut random, &whole, trial % 6);
            fs::write(&path, &damaged).unwrap();
            let place = format!("seed {seed}, file {file}, trial {trial}");
            // Neither does the reader of other programs' files crash on it.
            let _ = load_tensors(&path);
            let (found, checkpoint, problems) = reader.latest_good().unwrap();
            match load_checkpoint(&path) {
                // A flip among the padding, or in the case of a JSON escape, changes nothing that is read.
                Ok(loaded) => {
                    assert_eq!(format!("{loaded:?}"), right, "{place}");
                    assert_eq!((found, problems), (path.clone(), vec![]), "{place}");
                }
                Err(error) => {
                    refused += 1;
                    let sentence = error.to_string();
                    assert!(sentence.contains("step-000000200.safetensors") && sentence.len() > 40, "{place}: {sentence}");
                    assert_eq!((&found, checkpoint.info.at.step), (&good.path, 100), "{place}");
                    assert_eq!(problems, [sentence], "{place}");
                }
            }
        }
    }
    println!("{refused} of 1000 were refused");
    // What is not refused is as it was: bytes that were zero before, a header length that was drawn as it stood.
    assert!(refused > 900, "{refused} of 1000 were refused");
}

/// `/dev/full` answers every write as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn a_save_that_the_disk_refuses_leaves_no_half_file_and_all_older_checkpoints() {
    let runs = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
    let reader = RunReader::open(writer.path()).unwrap();
    let folder = writer.path().join("checkpoints");
    writer.save_checkpoint(&checkpoint_at(100), &tensors()).unwrap();
    for (step, byte_count) in [(200, 10), (300, 3 << 20)] {
        let large = [Tensor { name: "w".into(), dtype: DType::U8, shape: vec![byte_count], bytes: vec![1; byte_count] }];
        std::os::unix::fs::symlink("/dev/full", folder.join(format!("step-{step:09}.safetensors.partial"))).unwrap();
        let sentence = writer.save_checkpoint(&checkpoint_at(step), &large).unwrap_err().to_string();
        assert!(sentence.contains(&format!("step-{step:09}")) && sentence.contains("free some space"), "{sentence}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "only the checkpoint of step 100 is there");
        writer.flush().unwrap();
        assert_eq!(reader.checkpoints().unwrap().len(), 1);
        assert_eq!(reader.latest_good().unwrap().1.info.at.step, 100);
        // The next try finds space.
        writer.save_checkpoint(&checkpoint_at(step), &large).unwrap();
        assert_eq!(reader.latest_good().unwrap().1.info.at.step, step);
        writer.remove_checkpoint(&format!("step-{step:09}.safetensors")).unwrap();
    }
    // A checkpoint of the same step that cannot be replaced stays too.
    let before = fs::read(folder.join("step-000000100.safetensors")).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.join("step-000000100.safetensors.partial")).unwrap();
    assert!(writer.save_checkpoint(&checkpoint_at(100), &[]).is_err());
    assert_eq!(fs::read(folder.join("step-000000100.safetensors")).unwrap(), before);
}

/// For every user, root too.
#[test]
fn a_run_whose_checkpoints_cannot_be_written_goes_on_and_says_why() {
    let runs = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
    let folder = writer.path().join("checkpoints");
    fs::remove_dir(&folder).unwrap();
    fs::write(&folder, "a file where the folder was").unwrap();
    let sentence = writer.save_checkpoint(&checkpoint_at(1), &tensors()).unwrap_err().to_string();
    assert!(sentence.starts_with("cannot write the checkpoint") && sentence.contains("step-000000001"), "{sentence}");
    writer.scalar(1, "train/loss", 1.0);
    writer.flush().unwrap();
    let reader = RunReader::open(writer.path()).unwrap();
    assert_eq!((reader.series("train/loss").unwrap().len(), reader.checkpoints().unwrap()), (1, vec![]));
    assert!(reader.latest_good().unwrap_err().to_string().contains("none was saved yet"));
    let path = writer.path().to_path_buf();
    drop(writer);
    let sentence = RunWriter::open(&path).unwrap_err().to_string();
    assert!(sentence.contains("checkpoints folder"), "{sentence}");
    fs::remove_file(&folder).unwrap();
    RunWriter::open(&path).unwrap().save_checkpoint(&checkpoint_at(1), &tensors()).unwrap();
}

#[test]
fn the_newest_whole_checkpoint_is_found_behind_damaged_ones() {
    let runs = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
    let reader = RunReader::open(writer.path()).unwrap();
    assert!(reader.latest_good().unwrap_err().to_string().contains("none was saved yet"));
    for step in [100, 200, 300, 400] {
        writer.save_checkpoint(&checkpoint_at(step), &tensors()).unwrap();
    }
    writer.flush().unwrap();
    let rows = reader.checkpoints().unwrap();
    assert_eq!(rows.iter().map(|row| row.at.step).collect::<Vec<_>>(), [100, 200, 300, 400]);
    assert!(rows[0].metrics["val/odd"].is_nan());
    fs::remove_file(&rows[3].path).unwrap();
    let bytes = fs::read(&rows[2].path).unwrap();
    fs::write(&rows[2].path, &bytes[..bytes.len() - 1]).unwrap();
    let (path, checkpoint, problems) = reader.latest_good().unwrap();
    assert_eq!((path, checkpoint.info.at.step, problems.len()), (rows[1].path.clone(), 200, 2));
    assert!(problems[0].contains("step-000000400") && problems[1].contains("cut off"), "{problems:?}");

    writer.remove_checkpoint(&rows[1].file).unwrap();
    writer.pin_checkpoint(&rows[0].file, true);
    writer.flush().unwrap();
    let (_, checkpoint, _) = reader.latest_good().unwrap();
    assert_eq!(checkpoint.info.at.step, 100);
    assert!(reader.checkpoints().unwrap()[0].pinned);
}

#[test]
fn a_checkpoint_that_was_renamed_but_not_indexed_is_not_lost() {
    let runs = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(runs.path(), &new_run()).unwrap();
    let path = writer.path().to_path_buf();
    writer.save_checkpoint(&checkpoint_at(100), &tensors()).unwrap();
    drop(writer);
    // What a kill between rename and index leaves, and one in the middle of a write.
    save_checkpoint(&path.join("checkpoints/step-000000250.safetensors"), &checkpoint_at(250), &tensors()).unwrap();
    fs::write(path.join("checkpoints/step-000000300.safetensors.partial"), "half").unwrap();
    let reader = RunReader::open(&path).unwrap();
    assert_eq!(reader.latest_good().unwrap().1.info.at.step, 250);
    let writer = RunWriter::open(&path).unwrap();
    let rows = reader.checkpoints().unwrap();
    assert_eq!(rows.iter().map(|row| (row.at.step, row.reason.as_str())).collect::<Vec<_>>(), [(100, "cadence"), (250, "cadence")]);
    assert!(!path.join("checkpoints/step-000000300.safetensors.partial").exists());
    assert!(matches!(writer.remove_checkpoint("no-such-file"), Ok(())));
    assert!(matches!(load_checkpoint(&path.join("nowhere")), Err(StoreError::Io { .. })));
}
