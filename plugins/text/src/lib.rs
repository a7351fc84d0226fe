//! The `text` data set: any UTF-8 file, one character a token, for language models.
//!
//! The plugin API's `fetch` finds and downloads; here text becomes windows of tokens.

use solstice_plugin_api::fetch;
use solstice_plugin_api::prelude::*;
use std::path::PathBuf;

/// Characters of a UTF-8 text file, in windows, each with the characters that follow.
///
/// Fields: `tokens` and `targets` (i32 `[context]`, targets one character later). Splits: `train` (a window begins at every character) and `val` (the end of
/// the text, windows that do not overlap). The vocabulary is the file's distinct characters in order of their code points.
#[config]
pub struct Text {
    /// The file, plain or `.gz`. A relative path is looked for in the working folder, then in the data folder. `tinyshakespeare.txt` is downloaded when
    /// it is not there.
    pub path: String,
    /// Characters of a window.
    #[schemars(range(min = 1, max = 1048576))]
    pub context: u32,
    /// Part of the text, from its end, that is kept for `val`.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub val_fraction: f64,
}

impl Default for Text {
    fn default() -> Self {
        Text { path: SHAKESPEARE.into(), context: 64, val_fraction: 0.1 }
    }
}

/// Forty thousand lines of Shakespeare, put together by Andrej Karpathy: github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt.
const SHAKESPEARE: &str = "tinyshakespeare.txt";
const SHAKESPEARE_SHA256: &str = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed";
const SHAKESPEARE_MIRRORS: [&str; 2] = [
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "https://cdn.jsdelivr.net/gh/karpathy/char-rnn@master/data/tinyshakespeare/input.txt",
];

impl Dataset for Text {
    const ID: &'static str = "text";

    fn open(&self, host: &dyn DataHost) -> Result<Box<dyn Samples>> {
        let path = self.locate(host).map_err(problem)?;
        let bytes = fetch::read(&path).map_err(problem)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let (at, line) = (error.valid_up_to(), 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count());
            problem(format!(
                "{}: wanted UTF-8 text, got the byte {:#04x} at offset {at} (line {line}); convert the file",
                path.display(),
                bytes[at]
            ))
        })?;
        // A byte order mark is not part of the text.
        let windows = self.windows(text.strip_prefix('\u{feff}').unwrap_or(text));
        Ok(Box::new(windows.map_err(|message| problem(format!("{}: {message}", path.display())))?))
    }
}

impl Text {
    fn locate(&self, host: &dyn DataHost) -> Result<PathBuf, String> {
        if self.path.is_empty() {
            return Err("text: `path` is empty; name a text file".into());
        }
        let cache = host.cache_dir().join("text");
        let mut dirs = vec![PathBuf::new()];
        dirs.extend(host.data_dir());
        let ours = self.path == SHAKESPEARE;
        if ours {
            dirs.push(cache.clone());
        }
        // Joined to an absolute path, a folder has no say.
        if let Some(path) = fetch::find(&dirs, std::slice::from_ref(&self.path)) {
            return Ok(path);
        }
        let mut looked: Vec<String> = dirs.iter().map(|dir| dir.join(&self.path).display().to_string()).collect();
        looked.dedup();
        let (looked, remedy) = (looked.join(", "), "name a text file with `path`, or its folder with `--data-dir DIR`");
        if !ours {
            return Err(format!("text: there is no file {looked}; {remedy}"));
        }
        if host.offline() {
            return Err(format!("text: there is no file {looked}, and downloads are switched off; {remedy}"));
        }
        let target = cache.join(SHAKESPEARE);
        match fetch::download(host, &SHAKESPEARE_MIRRORS.map(String::from), SHAKESPEARE_SHA256, &target) {
            Ok(()) => Ok(target),
            Err(error) => Err(format!("text: there is no file {looked}, and no mirror could be used ({error}); {remedy}")),
        }
    }

    fn windows(&self, text: &str) -> Result<Windows, String> {
        let mut characters: Vec<char> = text.chars().collect();
        let count = characters.len();
        if count == 0 {
            return Err("the file is empty; wanted text".into());
        }
        let context = self.context as usize;
        let train_count = (count as f64 * (1.0 - self.val_fraction)) as usize;
        for (split, characters) in [("train", train_count), ("val", count - train_count)] {
            if characters <= context {
                let wanted = context + 1;
                return Err(format!(
                    "wanted at least {wanted} characters for `{split}` (`context` + 1), got {characters} of the file's {count} (`val_fraction` is {}); use a longer \
                     text or a shorter context",
                    self.val_fraction
                ));
            }
        }
        let letters = characters.clone();
        characters.sort_unstable();
        characters.dedup();
        let vocabulary = characters;
        let token = |letter: &char| vocabulary.binary_search(letter).expect("every character is in the vocabulary") as i32;
        let tokens = letters.iter().map(token).collect();
        Ok(Windows { vocabulary, tokens, train_count, context })
    }
}

/// The text as tokens. Both splits are longer than `context`.
struct Windows {
    vocabulary: Vec<char>,
    tokens: Vec<i32>,
    train_count: usize,
    context: usize,
}

impl Windows {
    /// The tokens of a split, windows in it, and tokens from one window to the next.
    fn split(&self, split: &str) -> Result<(&[i32], usize, usize)> {
        let (train, val) = self.tokens.split_at(self.train_count);
        match split {
            "train" => Ok((train, train.len() - self.context, 1)),
            "val" => Ok((val, (val.len() - 1) / self.context, self.context)),
            _ => Err(problem(format!("text: there is no split `{split}`; there are train, val"))),
        }
    }
}

impl Samples for Windows {
    fn spec(&self) -> DatasetSpec {
        let splits = ["train", "val"].map(|name| {
            let (_, len, _) = self.split(name).expect("a split of ours");
            Split { name: name.into(), len: len as u64 }
        });
        let field =
            |name: &str, role| Field { name: name.into(), role, dtype: DType::I32, shape: vec![self.context], scale: 1.0, offset: 0.0 };
        DatasetSpec {
            splits: splits.into(),
            fields: vec![field("tokens", FieldRole::Input), field("targets", FieldRole::Target)],
            // Overlapping windows: kept as samples they would be `2 * context` times the text.
            resident: false,
            facts: [
                ("vocabulary".into(), self.vocabulary.len().into()),
                ("context".into(), self.context.into()),
                ("characters".into(), self.vocabulary.iter().collect::<String>().into()),
            ]
            .into(),
        }
    }

    fn fill(&self, split: &str, _epoch: u64, indices: &[u64], out: &mut [&mut [u8]]) -> Result<()> {
        let (tokens, len, stride) = self.split(split)?;
        let [tokens_out, targets_out] = out else {
            return Err(problem(format!("text: wanted buffers for tokens and targets, got {}", out.len())));
        };
        let sample_bytes = 4 * self.context;
        for ((&index, window), next) in
            indices.iter().zip(tokens_out.chunks_exact_mut(sample_bytes)).zip(targets_out.chunks_exact_mut(sample_bytes))
        {
            let start = usize::try_from(index).ok().filter(|&at| at < len).map(|at| at * stride);
            let start = start.ok_or_else(|| problem(format!("text: sample {index} of `{split}` was asked for, it has {len}")))?;
            write(&tokens[start..][..self.context], window);
            write(&tokens[start + 1..][..self.context], next);
        }
        Ok(())
    }
}

fn write(tokens: &[i32], out: &mut [u8]) {
    for (token, bytes) in tokens.iter().zip(out.chunks_exact_mut(4)) {
        bytes.copy_from_slice(&token.to_le_bytes());
    }
}

/// What is wrong is in the user's files: the line of this plugin would not help.
fn problem(message: String) -> Error {
    Error::at(message, "")
}

export_plugin! { datasets: [Text] }

#[cfg(test)]
mod tests {
    use super::*;
    use solstice_plugin_api::testing::{self, TestHost, read_samples};
    use std::path::Path;

    fn open(bytes: &[u8], context: u32, val_fraction: f64) -> Result<Box<dyn Samples>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("my.txt"), bytes).unwrap();
        testing::open_dataset(&Text { path: "my.txt".into(), context, val_fraction }, folder.path())
    }

    fn refusal(bytes: &[u8], context: u32, val_fraction: f64) -> String {
        open(bytes, context, val_fraction).err().expect("this must not open").to_string()
    }

    fn integers(bytes: &[u8]) -> Vec<i32> {
        bytes.chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    #[test]
    fn windows_begin_at_every_character_of_train_and_do_not_overlap_in_val() {
        // Fourteen characters: nine for train, five for val. Vocabulary: a b c é.
        let samples = open("abcabcabcébaab".as_bytes(), 2, 5.0 / 14.0).unwrap();
        let spec = samples.spec();
        assert_eq!(spec.splits.iter().map(|split| split.len).collect::<Vec<_>>(), [7, 2]);
        assert_eq!((&spec.facts["vocabulary"], &spec.facts["characters"]), (&4.into(), &"abcé".into()));
        let train = read_samples(&*samples, "train", 0, &[0, 6]).unwrap();
        assert_eq!((integers(&train[0]), integers(&train[1])), (vec![0, 1, 0, 1], vec![1, 2, 1, 2]));
        let val = read_samples(&*samples, "val", 0, &[0, 1]).unwrap();
        assert_eq!((integers(&val[0]), integers(&val[1])), (vec![3, 1, 0, 0], vec![1, 0, 0, 1]));
        testing::check_samples(&*samples).unwrap();
        testing::check_config::<Text>().unwrap();
    }

    #[test]
    fn bad_text_is_refused_with_the_file_and_the_place() {
        for (bytes, context, problem) in [
            (&b""[..], 4, "my.txt: the file is empty"),
            (b"0123456789", 9, "wanted at least 10 characters for `train` (`context` + 1), got 5 of the file's 10"),
            (b"0123456789", 5, "wanted at least 6 characters for `train`"),
            (b"one\ntwo\xff", 2, "wanted UTF-8 text, got the byte 0xff at offset 7 (line 2)"),
        ] {
            let error = refusal(bytes, context, 0.5);
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named_with_the_places_and_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let host = TestHost { data_dir: Some(folder.path().into()), cache_dir: folder.path().join("cache") };
        let refusal = |path: &str| {
            let text = Text { path: path.into(), ..Text::default() };
            text.open(&host).err().expect("there is no such file").to_string()
        };
        let (other, ours) = (refusal("poems.txt"), refusal(SHAKESPEARE));
        assert!(other.contains("no file poems.txt, ") && other.contains("--data-dir DIR") && !other.contains("downloads"), "{other}");
        assert!(ours.contains("downloads are switched off") && ours.contains("cache/text/tinyshakespeare.txt"), "{ours}");
        assert_eq!(
            refusal("/not/there"),
            "text: there is no file /not/there; name a text file with `path`, or its folder with `--data-dir DIR`"
        );
    }

    /// The real text, where this machine has it.
    #[test]
    fn shakespeare_opens() {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
        let folder = std::env::var_os("SOLSTICE_DATA").map_or(beside, PathBuf::from);
        if !folder.join(SHAKESPEARE).is_file() {
            return;
        }
        let spec = testing::open_dataset(&Text::default(), &folder).unwrap().spec();
        assert_eq!(spec.facts["vocabulary"], 65);
        // 1,115,394 characters: nine tenths and the rest.
        assert_eq!(spec.splits.iter().map(|split| split.len).collect::<Vec<_>>(), [1_003_854 - 64, (111_540 - 1) / 64]);
    }
}
