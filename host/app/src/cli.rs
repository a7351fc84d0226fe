//! The command line: one list that feeds the parser, `--help` and the README.

use crate::weights;
use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed: a component, a device or a file; the message says which
  2    the command line, the recipe or a setting is wrong; nothing was started
  3    stopped on request (Ctrl-C once); the state is saved
  4    the loss or a gradient was not finite; the last good state is saved
  5    a data set is not there and could not be downloaded
  6    the worker died: a plugin crashed, or the system killed it
  130  stopped at once (Ctrl-C twice)";

/// A workbench for training neural networks on any GPU, or on none.
#[derive(Parser, Debug)]
#[command(name = "solstice", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do; without it the dashboard opens, where there is a display.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Subcommand, Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    /// Train a recipe.
    Train(TrainArgs),
    /// Go on with a run.
    Resume(ResumeArgs),
    /// Make a new run that goes on from a checkpoint of another.
    Fork(ForkArgs),
    /// Steer a run that is going on.
    Ctl(CtlArgs),
    /// Evaluate the last checkpoint of a run.
    Eval(EvalArgs),
    /// Write the weights of a checkpoint to a safetensors file, for other programs or another run.
    Export(ExportArgs),
    /// Train a recipe many times with other settings and rank the results.
    Sweep(SweepArgs),
    /// Train a recipe once per fold of its training data and average what the held-out folds say.
    CrossValidate(CrossValidateArgs),
    /// List runs.
    Runs(RunsArgs),
    /// Show a run in the terminal while it goes on, and steer it with keys; without a terminal, in lines.
    Watch(WatchArgs),
    /// Open a window that shows runs while they go on, and steers them.
    Dashboard(DashboardArgs),
    /// Serve a folder of runs on standard input and output: what `solstice dashboard --ssh` starts on the other machine.
    Stream(StreamArgs),
    /// List plugins: what is found, where, version, kinds; refused ones with the reason.
    Plugins(PluginsArgs),
    /// Make, trust or build plugins.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Show a component: fields, docs, ranges, defaults.
    Describe(DescribeArgs),
    /// List devices.
    Devices(DevicesArgs),
    /// Check a recipe: plugins, settings, shapes, shaders, two steps.
    Check(CheckArgs),
    /// Show a recipe's model before training: parameters, shapes, bytes, FLOPs by module; memory and kernels.
    Summary(SummaryArgs),
    /// Print a recipe's training step at a stage of the compiler.
    Inspect(InspectArgs),
    /// Train a recipe for some steps and show where their time goes: each kernel with its bytes, FLOPs and percent of the roofline, each part of the loop.
    Profile(ProfileArgs),
    /// Measure which kernels a recipe runs best with on a GPU; later runs there use them.
    Tune(TuneArgs),
    /// Time the three benchmark models on each device.
    Bench(BenchArgs),
    /// The child process that loads plugins; started by the other commands.
    #[command(hide = true)]
    Worker,
}

/// A recipe and what changes in it.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct RecipeArgs {
    /// The recipe, a RON file; `-` reads it from standard input.
    pub recipe: PathBuf,
    /// What stood on standard input, where that is the recipe.
    #[arg(skip)]
    #[serde(default)]
    pub text: Option<String>,
    /// Change a field of any component: `model.hidden=[64]`, `trainer.budget=3ep`, `optimizer=sgd(lr: 0.1)`.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    /// `auto`, `cpu`, `gpu`, or part of an adapter's name.
    #[arg(long, default_value = "auto")]
    pub device: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: DataArgs,
}

/// Where data comes from.
#[derive(Args, Debug, Clone, Default, Serialize, Deserialize)]
pub struct DataArgs {
    /// Folder with data sets [env: SOLSTICE_DATA].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Do not download anything.
    #[arg(long)]
    pub offline: bool,
    /// Seconds after which a plugin's call without a sign of life is taken for an endless loop [env: SOLSTICE_PLUGIN_TIMEOUT]; 300 by default.
    #[arg(long, value_name = "SECS")]
    pub plugin_timeout: Option<f64>,
}

impl DataArgs {
    /// The limit of a plugin's call.
    pub fn call_limit(&self) -> std::time::Duration {
        let from_env = || std::env::var("SOLSTICE_PLUGIN_TIMEOUT").ok()?.parse().ok();
        let secs = self.plugin_timeout.or_else(from_env).filter(|secs: &f64| *secs > 0.0 && secs.is_finite());
        std::time::Duration::from_secs_f64(secs.unwrap_or(300.0))
    }
}

impl Command {
    /// The limit of a plugin's call in this command.
    pub fn call_limit(&self) -> std::time::Duration {
        match self {
            Command::Train(args) => args.recipe.data.call_limit(),
            Command::Resume(args) => args.go_on.data.call_limit(),
            Command::Fork(args) => args.go_on.data.call_limit(),
            Command::Eval(args) => args.data.call_limit(),
            Command::Check(args) => args.recipe.data.call_limit(),
            Command::Inspect(args) => args.recipe.data.call_limit(),
            Command::Profile(args) => args.recipe.data.call_limit(),
            Command::Tune(args) => args.recipe.data.call_limit(),
            _ => DataArgs::default().call_limit(),
        }
    }
}

/// Arguments of `train`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct TrainArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub recipe: RecipeArgs,
    /// Folder of the runs.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub runs_dir: PathBuf,
    /// Go on with the newest run of this recipe in the runs folder, if there is one: from its `last` or `best` checkpoint, from `step:N`, or from the
    /// checkpoint file or run folder given. A run that has reached its budget is left as it is.
    #[arg(long, value_name = "WHERE")]
    pub resume: Option<String>,
    /// Begin with the weights of a safetensors file: an export or checkpoint of Solstice, or a file of another program.
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Rename tensors of the `--init` file, in order: `old.=new.` changes a beginning, `/regex/=new` every match (`${1}` is a group).
    #[arg(long, value_name = "FROM=TO", requires = "init", value_parser = weights::checked_map)]
    pub init_map: Vec<String>,
    /// Leave weights whose name matches at their first value.
    #[arg(long, value_name = "REGEX", requires = "init", value_parser = weights::checked_regex)]
    pub init_skip: Vec<String>,
    /// Print which weights the `--init` file has, and do not train.
    #[arg(long, requires = "init")]
    pub init_dry_run: bool,
    /// Take what fits of a checkpoint or of the `--init` file whose tensors differ from what the plugins trace now; the rest has its first value.
    #[arg(long)]
    pub partial: bool,
    /// Try everything in a few steps: train, evaluate, end; without loggers, and without leaving a run.
    #[arg(long, value_name = "STEPS", num_args = 0..=1, default_missing_value = "2", require_equals = true)]
    pub fast_dev_run: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub show: ShowArgs,
}

/// What is shown of a run under way.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct ShowArgs {
    /// One JSON object a line: `step` and the metrics by name.
    #[arg(long)]
    pub json: bool,
    /// Also print where the start-up time went.
    #[arg(short, long)]
    pub verbose: bool,
    /// No progress, only the result.
    #[arg(short, long)]
    pub quiet: bool,
    /// Build a plugin again when its source is saved, and go on with it from the same step; the same for shaders in a development build.
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `resume`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct ResumeArgs {
    /// Folder of the run, its id in the runs folder or the beginning or end of one, or `last`.
    pub run: String,
    /// From which checkpoint: `last`, `best`, `step:N`, or a checkpoint file of the run.
    #[arg(long, value_name = "WHERE")]
    pub at: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub go_on: GoOnArgs,
}

/// Arguments of `fork`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct ForkArgs {
    /// The run, and after an `@` where: `RUN@last`, `RUN@best`, `RUN@1200`.
    #[arg(value_name = "RUN@STEP")]
    pub run: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub go_on: GoOnArgs,
}

/// How training goes on from a checkpoint.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct GoOnArgs {
    /// Folder of the runs.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub runs_dir: PathBuf,
    /// Change a field. A fork may change any, as for `train`; a run that is resumed only what does not change what it trains: `trainer.budget=10ep`,
    /// `trainer.log_every=1st`, `callbacks=[..]`, `loggers=[..]`.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    /// Take what fits of a checkpoint whose tensors differ from what the plugins trace now.
    #[arg(long)]
    pub partial: bool,
    /// `auto`, `cpu`, `gpu`, or part of an adapter's name; as the run had it by default.
    #[arg(long)]
    pub device: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: DataArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub show: ShowArgs,
}

/// Arguments of `ctl`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct CtlArgs {
    /// Folder of the run, its id in the runs folder or the beginning or end of one, or `last`.
    pub run: String,
    /// What to do.
    #[command(subcommand)]
    pub command: CtlCommand,
    /// Folder of the runs.
    #[arg(long, default_value = "runs", value_name = "DIR", global = true)]
    pub runs_dir: PathBuf,
}

/// What a run under way can be told.
#[derive(Subcommand, Debug, Clone, Serialize, Deserialize)]
pub enum CtlCommand {
    /// Wait after the present step.
    Pause,
    /// Go on.
    Resume,
    /// Do some steps, then wait.
    Step {
        /// How many.
        #[arg(default_value_t = 1)]
        steps: u64,
    },
    /// Evaluate now.
    Eval,
    /// Save now; this checkpoint is kept for good.
    Checkpoint,
    /// Finish the step, save, and end.
    Stop,
    /// Change a live value: `optimizer.lr`, `trainer.budget`.
    Set {
        /// Dotted key.
        key: String,
        /// New value.
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Time every kernel of the next steps; the table is in the run's store and in the dashboard.
    Profile {
        /// How many steps.
        #[arg(long, default_value_t = crate::control::PROFILED_STEPS, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        steps: u64,
    },
}

/// Arguments of `tune`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct TuneArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub recipe: RecipeArgs,
    /// Measure anew what is known already, and forget the rest.
    #[arg(long)]
    pub again: bool,
    /// One JSON object a class of products.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `eval`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct EvalArgs {
    /// Folder of the run, its id in the runs folder or the beginning or end of one, or `last`.
    pub run: String,
    /// Folder of the runs.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub runs_dir: PathBuf,
    /// `auto`, `cpu`, `gpu`, or part of an adapter's name.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Take what fits of a checkpoint whose tensors differ from what the plugins trace now.
    #[arg(long)]
    pub partial: bool,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: DataArgs,
}

/// Arguments of `export`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct ExportArgs {
    /// The run as for `eval`; `RUN@1200`, `RUN@best` or `RUN@last` names the checkpoint.
    #[arg(value_name = "RUN[@STEP]")]
    pub run: String,
    /// The file to write.
    #[arg(short, long, value_name = "FILE.safetensors")]
    pub output: PathBuf,
    /// Folder of the runs.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub runs_dir: PathBuf,
    /// Only tensors whose name begins so.
    #[arg(long, default_value = weights::WEIGHT_PREFIX)]
    pub prefix: String,
    /// Leave the prefix out of the names.
    #[arg(long)]
    pub strip_prefix: bool,
    /// The averaged copy of the weights of this name, under the weights' own names: `ema`.
    #[arg(long, value_name = "COPY")]
    pub shadow: Option<String>,
    /// Everything in the checkpoint: optimizer state, metrics, averaged copies.
    #[arg(long, conflicts_with_all = ["prefix", "strip_prefix", "shadow"])]
    pub all: bool,
}

/// Arguments of `sweep`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct SweepArgs {
    /// The sweep, a RON file: recipe, metric, search and fields. The same file goes on where it was left. `-` reads it from standard input.
    pub file: PathBuf,
    /// Trials at once, each a process of its own.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: u16,
    /// Folder of the runs; the sweep has a folder in it.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub runs_dir: PathBuf,
    /// `auto`, `cpu`, `gpu`, or part of an adapter's name.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// One JSON object a line: rank, settings, metric of each trial.
    #[arg(long)]
    pub json: bool,
    /// Only print the table as it is now; runs nothing.
    #[arg(long, conflicts_with_all = ["export", "trial"])]
    pub table: bool,
    /// Write a script for a cluster's queue instead of running.
    #[arg(long, value_enum, conflicts_with = "trial")]
    pub export: Option<Export>,
    /// Run just this trial, in the foreground; what an array job calls.
    #[arg(long, value_name = "N")]
    pub trial: Option<usize>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: DataArgs,
}

/// Queues that `sweep --export` writes for.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Export {
    /// An array job for `sbatch`.
    Slurm,
}

/// Arguments of `cross-validate`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct CrossValidateArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub recipe: RecipeArgs,
    /// Parts of the training data; each is held out once.
    #[arg(long, default_value_t = 5, value_name = "K", value_parser = clap::value_parser!(u32).range(2..))]
    pub folds: u32,
    /// Of the division into folds.
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    pub fold_seed: u32,
    /// Folds at once, each a process of its own.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: u16,
    /// Folder of the runs; the cross-validation has a folder in it.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub runs_dir: PathBuf,
    /// One JSON object a line: mean, standard deviation and values of each metric.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `runs`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct RunsArgs {
    /// Folder of the runs.
    #[arg(default_value = "runs")]
    pub runs_dir: PathBuf,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `watch`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct WatchArgs {
    /// Folder of the run, its id in the runs folder or the beginning or end of one, or `last`.
    #[arg(default_value = "last")]
    pub run: String,
    /// Folder of the runs.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub runs_dir: PathBuf,
    /// Draw this metric; several may be given. The losses by default.
    #[arg(long, value_name = "NAME")]
    pub metric: Vec<String>,
}

/// Arguments of `dashboard`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct DashboardArgs {
    /// Folders of runs; one may also be the folder of a single run. `runs` where neither a folder nor `--ssh` is given.
    #[arg(value_name = "RUNS_DIR")]
    pub runs_dirs: Vec<PathBuf>,
    /// Also the runs of a folder on another machine, over ssh; may be given several times. The folder is `runs` where none is named.
    /// `SOLSTICE_SSH` is another command than `ssh`, such as `ssh -p 2222`.
    #[arg(long, value_name = "HOST:DIR")]
    pub ssh: Vec<String>,
    /// Where the `solstice` program is on the other machines, where their shells do not find it: `~/.cargo/bin/solstice`.
    #[arg(long, value_name = "PATH", default_value = "solstice", requires = "ssh")]
    pub remote_program: String,
    /// What draws the window; `auto` takes glow where the only adapter is software.
    #[arg(long, default_value = "auto", value_parser = ["auto", "wgpu", "glow"])]
    pub renderer: String,
}

impl Default for DashboardArgs {
    fn default() -> DashboardArgs {
        DashboardArgs { runs_dirs: Vec::new(), ssh: Vec::new(), remote_program: "solstice".into(), renderer: "auto".into() }
    }
}

/// Arguments of `stream`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct StreamArgs {
    /// Folder of the runs; it may also be the folder of a sweep or of a single run.
    #[arg(default_value = "runs", value_name = "DIR")]
    pub runs_dir: PathBuf,
}

/// Arguments of `plugins`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct PluginsArgs {
    /// Also look at these files or folders.
    pub paths: Vec<PathBuf>,
    /// Try quarantined plugins again.
    #[arg(long)]
    pub try_again: bool,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// Commands on plugins.
#[derive(Subcommand, Debug, Clone, Serialize, Deserialize)]
pub enum PluginCommand {
    /// A new plugin crate that builds, with a passing test.
    New {
        /// Name of the crate and of its model, in kebab-case.
        name: String,
        /// Folder to make it in; `plugins` inside a workspace of Solstice, else the current folder.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Trust a plugin file from now on, by its SHA-256.
    Trust {
        /// The library.
        path: PathBuf,
    },
}

/// Arguments of `describe`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct DescribeArgs {
    /// Id of a component: `mlp`; `kind/id` where several kinds share it. Without it, all components are listed.
    pub component: Option<String>,
    /// The component's JSON: schema and defaults. Of all components one a line, and last of the trainer.
    #[arg(long)]
    pub json: bool,
    /// Also list the recipes in this folder, with their text.
    #[arg(long, value_name = "DIR", requires = "json", conflicts_with = "component")]
    pub recipes: Option<PathBuf>,
}

/// Arguments of `devices`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct DevicesArgs {
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// Measure one adapter, `gpu` or part of a name: features, limits, peak arithmetic, memory, what a dispatch costs.
    #[arg(long, value_name = "DEVICE")]
    pub measure: Option<String>,
}

/// Arguments of `check`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct CheckArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub recipe: RecipeArgs,
    /// Only plugins and settings: reads no data, opens no device.
    #[arg(long)]
    pub settings_only: bool,
    /// One JSON object: every mistake with its field, line and column; the recipe with all its settings; the learning rate over the run.
    #[arg(long, requires = "settings_only")]
    pub json: bool,
    /// Steps of an epoch, where they are known: a budget in epochs then gives the learning rate at its steps.
    #[arg(long, value_name = "N", requires = "json", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps_per_epoch: Option<u64>,
}

/// Arguments of `summary`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct SummaryArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub recipe: RecipeArgs,
    /// One JSON object, with exact numbers.
    #[arg(long)]
    pub json: bool,
}

/// Stages that `inspect` can print.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// As the experiment traced it.
    Traced,
    /// Gradients expanded.
    Grad,
    /// Composites inlined, simplified.
    Simplified,
    /// Kernels after fusion.
    Fused,
    /// Kernels with buffers and memory.
    Plan,
    /// The shaders.
    Wgsl,
}

/// Arguments of `inspect`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct InspectArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub recipe: RecipeArgs,
    /// Which stage.
    #[arg(long, value_enum, default_value = "fused")]
    pub stage: Stage,
    /// Which split's step: `train`, or a split to evaluate.
    #[arg(long, default_value = "train")]
    pub split: String,
}

/// Arguments of `profile`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
#[command(mut_arg("recipe", |recipe| recipe.value_name("RECIPE|RUN").help(
    "The recipe, a RON file, or the run whose recipe it is: its folder, its id or the beginning or end of one, or `last`; `-` reads a recipe from standard input"
)))]
pub struct ProfileArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub recipe: RecipeArgs,
    /// Folder of the runs.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub runs_dir: PathBuf,
    /// Steps to measure: as many as they are, and as many with every kernel timed.
    #[arg(long, default_value_t = crate::control::PROFILED_STEPS, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Steps before them.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub warmup: u64,
    /// Only the kernels that take most; of the table the first 20 otherwise, of `--json` all.
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
    /// Also write the first timed steps, loop and kernels, for <https://ui.perfetto.dev> or chrome://tracing.
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
    /// One JSON object, with exact numbers.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bench`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct BenchArgs {
    /// Devices to time, comma-separated.
    #[arg(long, default_value = "cpu,gpu", value_delimiter = ',')]
    pub devices: Vec<String>,
    /// What to time, comma-separated: `mlp`, `convnet`, `gpt`; products and convolutions as `matmul-512` and `conv-64x32x26-64x3`; and `loop`, what the
    /// loop adds to a step.
    #[arg(long, default_value = "loop,mlp,convnet,gpt", value_delimiter = ',')]
    pub models: Vec<String>,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds to measure in each round.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Also write the figures to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[arg(long, hide = true)]
    #[allow(missing_docs)]
    pub child: bool,
}
