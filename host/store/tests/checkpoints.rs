//! A checkpoint loads as it was saved, or is refused with a sentence; never a crash, never a silent wrong tensor.

mod common;

use std::fs;

use common::{Random, checkpoint_at, new_run, tensors};
use solstice_store::{DType, RunReader, RunWriter, StoreError, Tensor, load_checkpoint, load_tensors, save_checkpoint};

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

#[test]
fn cut_and_flipped_files_are_refused_with_a_sentence_or_load_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    save_checkpoint(&path, &checkpoint_at(120), &tensors()).unwrap();
    let whole = fs::read(&path).unwrap();
    let right = load_checkpoint(&path).unwrap();
    let seed = std::env::var("SOLSTICE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42);
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut refused = 0;
    for trial in 0..300 {
        let mut damaged = whole.clone();
        match trial % 3 {
            0 => damaged.truncate(random.below(whole.len())),
            1 => damaged[random.below(whole.len())] ^= 1 << random.below(8),
            _ => {
                for _ in 0..1 + random.below(20) {
                    damaged[random.below(whole.len())] = random.next() as u8;
                }
            }
        }
        fs::write(&path, &damaged).unwrap();
        match load_checkpoint(&path) {
            // A flip among the padding, or in the case of a JSON escape, changes nothing that is read.
            Ok(loaded) => assert_eq!(format!("{:?}", loaded), format!("{right:?}"), "trial {trial}"),
            Err(error) => {
                refused += 1;
                let sentence = error.to_string();
                assert!(sentence.contains("a.safetensors") && sentence.len() > 40, "trial {trial}: {sentence}");
            }
        }
    }
    assert!(refused > 280, "{refused} of 300 were refused");
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
