//! `cargo xtask bench --peers`: the same models, batches and products in other frameworks, timed in turn with ours, and the ratios.
//!
//! Every side is a program called as `solstice bench --child` is, which times itself in the same way (`host/app/src/commands/bench.rs`) and prints one line
//! of JSON. `peers/get.rs` gets the programs, this file chooses, runs and compares. The programs stand in `xtask/peers`, outside the workspace.

mod get;
mod table;

use crate::target;
use anyhow::{Context, Result, bail};
pub use get::{Python, child_python};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// Another framework on one device.
pub struct Peer {
    /// As tables have it, and the device that its program is asked for.
    pub name: &'static str,
    /// Names by which `--peers` chooses it, beside its own.
    chosen_by: &'static str,
    /// Whether it takes part when nothing is chosen.
    by_default: bool,
    /// Our device that it is compared with.
    beside: &'static str,
    models: bool,
    products: bool,
    program: Program,
}

/// Where a peer's program comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Burn,
    Gemm,
    GemmAvx512,
    Python,
}

const fn peer(name: &'static str, chosen_by: &'static str, beside: &'static str, models: bool, products: bool, program: Program) -> Peer {
    Peer { name, chosen_by, by_default: true, beside, models, products, program }
}

const PEERS: [Peer; 9] = [
    peer("flex", "burn-cpu", "cpu", true, false, Program::Burn),
    peer("ndarray", "burn-cpu", "cpu", true, false, Program::Burn),
    peer("wgpu", "burn-wgpu", "gpu", true, false, Program::Burn),
    peer("torch", "torch-cpu", "cpu", true, true, Program::Python),
    Peer { by_default: false, ..peer("torch-compile", "torch-compile", "cpu", true, false, Program::Python) },
    peer("torch-cuda", "torch-cuda", "gpu", true, true, Program::Python),
    peer("openblas", "numpy", "cpu", false, true, Program::Python),
    peer("gemm", "gemm", "cpu", false, true, Program::Gemm),
    peer("gemm-avx512", "gemm", "cpu", false, true, Program::GemmAvx512),
];

impl Peer {
    fn times(&self, model: &str) -> bool {
        if model.starts_with("matmul-") { self.products } else { self.models }
    }

    /// `burn-flex`, `torch`.
    fn title(&self) -> String {
        if self.program == Program::Burn { format!("burn-{}", self.name) } else { self.name.into() }
    }
}

/// What was asked for.
#[derive(Debug, PartialEq)]
struct Request {
    /// Places in [`PEERS`].
    peers: Vec<usize>,
    /// Chosen by name: what is not to be had is then an error.
    is_explicit: bool,
    models: Vec<String>,
    rounds: usize,
    seconds: String,
    json: Option<PathBuf>,
}

/// Whether `bench` is asked for peers.
pub fn are_wanted(args: &[String]) -> bool {
    args.iter().any(|arg| arg == "--peers" || arg.starts_with("--peers="))
}

/// Reads `--peers [LIST] --models LIST --rounds N --seconds S --json FILE`, each also as `--name=value`.
fn request(args: &[String]) -> Result<Request> {
    let mut request = Request {
        peers: (0..PEERS.len()).filter(|place| PEERS[*place].by_default).collect(),
        is_explicit: false,
        models: ["mlp", "convnet", "gpt", "matmul-512", "matmul-1024"].map(str::to_owned).to_vec(),
        rounds: 3,
        seconds: "3".into(),
        json: None,
    };
    let mut rest = args.iter().peekable();
    while let Some(arg) = rest.next() {
        let (name, mut value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        if value.is_none() {
            value = rest.next_if(|next| !next.starts_with("--")).cloned();
        }
        if name == "--peers" {
            if let Some(list) = value {
                (request.peers, request.is_explicit) = (chosen(&list)?, true);
            }
            continue;
        }
        let known = ["--models", "--rounds", "--seconds", "--json"];
        if !known.contains(&name) {
            bail!("`cargo xtask bench --peers` takes {} besides, not `{name}`", known.join(", "));
        }
        let value = value.with_context(|| format!("`{name}` wants a value"))?;
        match name {
            "--models" => request.models = value.split(',').map(str::to_owned).collect(),
            "--rounds" => {
                request.rounds =
                    value.parse().ok().filter(|rounds| *rounds > 0).with_context(|| format!("`--rounds {value}` is no number above 0"))?;
            }
            "--seconds" => {
                value.parse::<f64>().with_context(|| format!("`--seconds {value}` is no number"))?;
                request.seconds = value;
            }
            _ => request.json = Some(value.into()),
        }
    }
    Ok(request)
}

/// Places in [`PEERS`] of the names in a list.
fn chosen(list: &str) -> Result<Vec<usize>> {
    let mut places = vec![];
    for name in list.split(',').map(str::trim) {
        let found: Vec<usize> = (0..PEERS.len())
            .filter(|place| PEERS[*place].chosen_by == name || PEERS[*place].name == name || PEERS[*place].title() == name)
            .collect();
        if found.is_empty() {
            let mut names: Vec<String> = PEERS.iter().flat_map(|peer| [peer.chosen_by.to_owned(), peer.title()]).collect();
            names.sort();
            names.dedup();
            bail!("there is no peer `{name}`; there are {}", names.join(", "));
        }
        places.extend(found);
    }
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

/// A program that takes part.
struct Contestant {
    title: String,
    /// Our device that it is compared with; `None` for ours.
    beside: Option<&'static str>,
    program: PathBuf,
    /// What stands before the options of every call.
    first: Vec<String>,
    device: String,
    place: Option<usize>,
}

/// What a child says of one model.
#[derive(Clone, Debug)]
struct Figure(Value);

impl Figure {
    fn number(&self, name: &str) -> Option<f64> {
        self.0[name].as_f64()
    }

    fn samples_per_sec(&self) -> f64 {
        self.number("samples_per_sec").unwrap_or(f64::NAN)
    }
}

/// Gets the peers, runs everybody round by round, prints the figures and the ratios.
pub fn bench(args: &[String]) -> Result<ExitCode> {
    let request = request(args)?;
    let mut missing = vec![];
    let contestants = contestants(&request, &mut missing)?;
    for sentence in &missing {
        eprintln!("{sentence}");
    }
    if request.is_explicit && contestants.iter().all(|contestant| contestant.place.is_none()) {
        bail!("none of the peers that were asked for can be had here");
    }
    let mut rounds: Vec<Vec<Vec<Option<Figure>>>> = vec![]; // [round][model][contestant]
    let mut failures: Vec<(usize, usize, String)> = vec![]; // model, contestant, sentence
    for round in 0..request.rounds {
        let mut figures = vec![];
        for (m, model) in request.models.iter().enumerate() {
            let mut one = |(c, contestant): (usize, &Contestant)| -> Option<Figure> {
                let takes_part = contestant.place.is_none_or(|place| PEERS[place].times(model));
                // Who fails once is not asked again.
                if !takes_part || failures.iter().any(|failure| (failure.0, failure.1) == (m, c)) {
                    return None;
                }
                let what = format!("{model} by {}", contestant.title);
                eprintln!("round {} of {}: {what}", round + 1, request.rounds);
                let error = match run(contestant, model, &request.seconds) {
                    Ok(figure) => return Some(figure),
                    Err(error) => format!("{what} failed: {error:#}"),
                };
                eprintln!("{error}");
                failures.push((m, c, error));
                None
            };
            figures.push(contestants.iter().enumerate().map(&mut one).collect());
        }
        rounds.push(figures);
    }
    let titles: Vec<table::Column> = contestants.iter().map(|c| table::Column { title: &c.title, beside: c.beside }).collect();
    print!("{}", table::report(&titles, &request.models, &rounds));
    for sentence in missing.iter().chain(failures.iter().map(|(.., sentence)| sentence)) {
        println!("{sentence}");
    }
    if let Some(path) = &request.json {
        let all: Vec<Value> = rounds
            .iter()
            .enumerate()
            .flat_map(|(round, models)| models.iter().flatten().flatten().map(move |figure| json!({ "round": round, "figure": figure.0 })))
            .collect();
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let ours_failed = failures.iter().any(|(_, contestant, _)| contestants[*contestant].place.is_none());
    Ok(if ours_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Ours on each device that a peer stands beside, then the peers that can be had; a sentence for each that cannot.
fn contestants(request: &Request, missing: &mut Vec<String>) -> Result<Vec<Contestant>> {
    let mut peers = vec![];
    let wants = |program: Program| request.peers.iter().any(|place| PEERS[*place].program == program);
    let python = wants(Program::Python).then(get::python);
    let burn = wants(Program::Burn).then(|| get::crate_program("burn", "peers", &[]));
    let gemm = wants(Program::Gemm).then(|| get::crate_program("gemm", "peers", &[]));
    let gemm_avx512 = wants(Program::GemmAvx512).then(|| get::crate_program("gemm", "peers/avx512", &["--features", "x86-v4"]));
    let mut said: Vec<Program> = vec![];
    for place in &request.peers {
        let peer = &PEERS[*place];
        let found = match peer.program {
            Program::Burn => burn.as_ref().expect("asked for").clone().map(|program| (program, vec![])),
            Program::Gemm => gemm.as_ref().expect("asked for").clone().map(|program| (program, vec![])),
            Program::GemmAvx512 => gemm_avx512.as_ref().expect("asked for").clone().map(|program| (program, vec![])),
            Program::Python => match python.as_ref().expect("asked for") {
                Ok(python) => python.offers(peer.name).map(|()| (python.program.clone(), python.arguments())),
                Err(sentence) => Err(sentence.clone()),
            },
        };
        match found {
            Ok((program, first)) => peers.push(Contestant {
                title: peer.title(),
                beside: Some(peer.beside),
                program,
                first,
                device: peer.name.into(),
                place: Some(*place),
            }),
            // One sentence for a program, whatever the number of its devices, unless it is a device that is missing.
            Err(_) if said.contains(&peer.program) && !matches!(python, Some(Ok(_))) => {}
            Err(sentence) => {
                said.push(peer.program);
                missing.push(sentence);
            }
        }
    }
    let mut all: Vec<Contestant> = vec![];
    for device in ["cpu", "gpu"] {
        if peers.iter().any(|peer| peer.beside == Some(device)) || !request.is_explicit {
            all.push(Contestant {
                title: format!("ours-{device}"),
                beside: None,
                program: target().join("release/solstice"),
                first: vec!["bench".into(), "--child".into()],
                device: device.into(),
                place: None,
            });
        }
    }
    all.extend(peers);
    Ok(all)
}

/// One call of a program.
fn run(contestant: &Contestant, model: &str, seconds: &str) -> Result<Figure> {
    // Caches that a peer leaves stay in the target folder; where Burn's go is said in a file beside them.
    let folder = target().join("peers/run");
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join("cubecl.toml"), "[environment]\npath = \"local\"\n"))
        .with_context(|| format!("cannot write in {}", folder.display()))?;
    let output = Command::new(&contestant.program)
        .args(&contestant.first)
        .args(["--models", model, "--devices", &contestant.device, "--seconds", seconds])
        .current_dir(if contestant.place.is_some() { folder } else { crate::root() })
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", contestant.program.display()))?;
    if !output.status.success() {
        bail!("{} ({})", last_words(&String::from_utf8_lossy(&output.stderr)), output.status);
    }
    figure(&String::from_utf8_lossy(&output.stdout))
}

/// The last line of a child's output is its figure.
fn figure(stdout: &str) -> Result<Figure> {
    let line = stdout.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let value: Value = serde_json::from_str(line).with_context(|| format!("it printed no figure but `{line}`"))?;
    let figure = Figure(value);
    if !figure.samples_per_sec().is_finite() {
        bail!("it printed no samples a second but `{line}`");
    }
    Ok(figure)
}

/// What a program said before it failed: the line of a panic or an error, else the last one.
pub fn last_words(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let after_panic = lines.iter().position(|line| line.contains("panicked at")).and_then(|at| lines.get(at + 1));
    let error = lines.iter().find(|line| line.starts_with("error:"));
    after_panic.or(error).or(lines.last()).map_or_else(|| "it said nothing".into(), |line| line.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Request> {
        request(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    fn titles(places: &[usize]) -> Vec<String> {
        places.iter().map(|place| PEERS[*place].title()).collect()
    }

    #[test]
    fn peers_are_chosen_by_group_or_by_name() {
        let all = read(&["--peers"]).unwrap();
        assert!(!all.is_explicit && !titles(&all.peers).contains(&"torch-compile".into()));
        let some = read(&["--peers", "burn-cpu,torch", "--rounds", "5"]).unwrap();
        assert_eq!(titles(&some.peers), ["burn-flex", "burn-ndarray", "torch"]);
        assert!(some.is_explicit && some.rounds == 5);
        assert_eq!(titles(&read(&["--peers=burn-wgpu"]).unwrap().peers), ["burn-wgpu"]);
        assert_eq!(titles(&read(&["--peers=gemm,openblas"]).unwrap().peers), ["openblas", "gemm", "gemm-avx512"]);
        assert_eq!(titles(&read(&["--peers=gemm-avx512"]).unwrap().peers), ["gemm-avx512"]);
    }

    #[test]
    fn a_wrong_word_is_answered_with_the_right_ones() {
        let sentence = |args: &[&str]| format!("{:#}", read(args).unwrap_err());
        assert!(sentence(&["--peers", "jax"]).contains("there is no peer `jax`; there are burn-cpu, burn-flex"));
        assert!(sentence(&["--peers", "--devices", "cpu"]).contains("not `--devices`"));
        assert!(sentence(&["--peers", "--rounds", "0"]).contains("--rounds 0"));
        assert!(sentence(&["--peers", "--seconds", "x"]).contains("--seconds x"));
        assert!(sentence(&["--peers", "--models"]).contains("`--models` wants a value"));
    }

    #[test]
    fn a_child_speaks_last_of_its_figure() {
        let figure = figure("a warning\n{\"samples_per_sec\": 12.5, \"ms_per_step\": 80}\n\n").unwrap();
        assert_eq!((figure.samples_per_sec(), figure.number("ms_per_step"), figure.number("peak")), (12.5, Some(80.0), None));
        assert!(format!("{:#}", super::figure("hello").unwrap_err()).contains("`hello`"));
        assert!(format!("{:#}", super::figure("{\"samples_per_sec\": null}").unwrap_err()).contains("no samples"));
    }

    #[test]
    fn a_failure_is_told_by_its_own_words() {
        let rust = "note\nthread 'main' (1) panicked at src/main.rs:3:5:\nthe device is lost\nnote: run with `RUST_BACKTRACE=1`\n";
        assert_eq!(last_words(rust), "the device is lost");
        let python = "Traceback (most recent call last):\n  File \"x.py\"\nModuleNotFoundError: No module named 'torch'\n";
        assert_eq!(last_words(python), "ModuleNotFoundError: No module named 'torch'");
        assert_eq!(last_words("error: there is no model\nmore\n"), "error: there is no model");
        assert_eq!(last_words(""), "it said nothing");
    }
}
