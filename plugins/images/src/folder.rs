//! Finds the images of a folder: splits, classes, files. Opens none of them.

use std::fs;
use std::path::{Path, PathBuf};

/// An image and its class.
#[derive(Clone)]
pub struct ImageFile {
    pub path: PathBuf,
    pub label: i32,
}

/// Classes, and splits by name: `train` first, one or two others, none of them empty. `train` has every class.
pub struct Folder {
    pub classes: Vec<String>,
    pub splits: Vec<(String, Vec<ImageFile>)>,
}

/// Reads `root`: with a folder `train` its splits are folders, otherwise its class folders are split.
pub fn read(root: &Path, val_fraction: f64, seed: u64) -> Result<Folder, String> {
    let train_root = root.join("train");
    if !train_root.is_dir() {
        let (classes, files) = train_images(root)?;
        return split(root, classes, &files, val_fraction, seed);
    }
    let (classes, files) = train_images(&train_root)?;
    let others = [("test", "test"), ("val", "val"), ("valid", "val"), ("validation", "val")];
    let others: Vec<(&str, PathBuf)> =
        others.iter().map(|(folder, name)| (*name, root.join(folder))).filter(|(_, folder)| folder.is_dir()).collect();
    if others.is_empty() {
        return split(&train_root, classes, &files, val_fraction, seed);
    }
    let mut splits = vec![("train".to_owned(), files)];
    for (name, folder) in others {
        if splits.iter().any(|(known, _)| known == name) {
            return Err(format!("{}: there is another folder for the split `{name}`; keep one", folder.display()));
        }
        splits.push((name.to_owned(), other_images(&folder, &classes)?));
    }
    Ok(Folder { classes, splits })
}

/// Class names and the images of all classes, in the order of their names.
fn train_images(root: &Path) -> Result<(Vec<String>, Vec<ImageFile>), String> {
    let classes = class_folders(root)?;
    if let [only] = classes.as_slice() {
        return Err(format!("{}: wanted at least two class folders, got only `{only}`", root.display()));
    }
    let mut files = Vec::new();
    for (label, class) in (0..).zip(&classes) {
        files.extend(class_images(&root.join(class), label)?);
    }
    Ok((classes, files))
}

/// The images of a split whose classes are known. Not every class need be there.
fn other_images(root: &Path, classes: &[String]) -> Result<Vec<ImageFile>, String> {
    let mut files = Vec::new();
    for class in class_folders(root)? {
        let folder = root.join(&class);
        let label = classes.iter().position(|known| *known == class);
        let label = label.ok_or_else(|| {
            format!("{}: there is no class `{class}` in `train`, whose classes are {}", folder.display(), classes.join(", "))
        })?;
        files.extend(class_images(&folder, label as i32)?);
    }
    Ok(files)
}

fn class_folders(root: &Path) -> Result<Vec<String>, String> {
    let classes: Vec<String> = entries(root)?.into_iter().filter(|name| root.join(name).is_dir()).collect();
    if classes.is_empty() { Err(format!("{}: wanted a folder for each class, got none", root.display())) } else { Ok(classes) }
}

fn class_images(folder: &Path, label: i32) -> Result<Vec<ImageFile>, String> {
    let names = entries(folder)?;
    let paths = names.iter().map(|name| folder.join(name)).filter(|path| is_image(path) && path.is_file());
    let files: Vec<ImageFile> = paths.map(|path| ImageFile { path, label }).collect();
    if files.is_empty() {
        let others = if names.is_empty() { String::new() } else { format!(" among {} entries", names.len()) };
        return Err(format!("{}: wanted at least one image (.jpg, .jpeg, .png), got none{others}", folder.display()));
    }
    Ok(files)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    ["jpg", "jpeg", "png"].iter().any(|known| extension == *known)
}

/// Sorted names of what is in a folder and not hidden: file systems list in any order.
fn entries(folder: &Path) -> Result<Vec<String>, String> {
    let at = folder.display();
    let cannot = |error: std::io::Error| format!("{at}: cannot be read: {error}");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        let name = name.into_string().map_err(|name| format!("{at}: wanted a file name in UTF-8, got {name:?}; rename the file"))?;
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Keeps `round(images * val_fraction)` of each class for `val`: the first in the order of splitmix64(seed, class, place among the sorted names).
fn split(root: &Path, classes: Vec<String>, files: &[ImageFile], val_fraction: f64, seed: u64) -> Result<Folder, String> {
    let (mut train, mut val) = (Vec::new(), Vec::new());
    for class in files.chunk_by(|one, next| one.label == next.label) {
        let class_key = mix(mix(seed) ^ class[0].label as u64);
        let mut order: Vec<usize> = (0..class.len()).collect();
        order.sort_by_key(|&place| mix(class_key ^ place as u64));
        let val_count = ((class.len() as f64 * val_fraction).round() as usize).min(class.len() - 1);
        let mut is_val = vec![false; class.len()];
        order[..val_count].iter().for_each(|&place| is_val[place] = true);
        for (file, is_val) in class.iter().zip(is_val) {
            if is_val { &mut val } else { &mut train }.push(file.clone());
        }
    }
    if val.is_empty() {
        let (root, count) = (root.display(), files.len());
        return Err(format!(
            "{root}: wanted images for `train` and `val`, got 0 for `val` of {count} in all (`val_fraction` is {val_fraction})"
        ));
    }
    Ok(Folder { classes, splits: vec![("train".into(), train), ("val".into(), val)] })
}

/// The finaliser of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
