//! The command line: one list that feeds the parser, `--help` and the README.

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
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    /// Train a recipe.
    Train(TrainArgs),
    /// Evaluate the last checkpoint of a run.
    Eval(EvalArgs),
    /// List runs.
    Runs(RunsArgs),
    /// List plugins: what is found, where, version, kinds; refused ones with the reason.
    Plugins(PluginsArgs),
    /// Make, trust or build plugins.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Show a component: fields, docs, ranges, defaults.
    Describe(DescribeArgs),
    /// List devices.
    Devices,
    /// Check a recipe: plugins, settings, shapes, shaders, two steps.
    Check(CheckArgs),
    /// Print a recipe's training step at a stage of the compiler.
    Inspect(InspectArgs),
    /// Time the three benchmark models on each device.
    Bench(BenchArgs),
    /// The child process that loads plugins; started by the other commands.
    #[command(hide = true)]
    Worker,
}

/// A recipe and what changes in it.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct RecipeArgs {
    /// The recipe, a RON file.
    pub recipe: PathBuf,
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
    /// One JSON object a line: `step` and the metrics by name.
    #[arg(long)]
    pub json: bool,
    /// Also print where the start-up time went.
    #[arg(short, long)]
    pub verbose: bool,
    /// No progress, only the result.
    #[arg(short, long)]
    pub quiet: bool,
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
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: DataArgs,
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
    /// The component's JSON: schema and defaults.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `check`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct CheckArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub recipe: RecipeArgs,
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

/// Arguments of `bench`.
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
pub struct BenchArgs {
    /// Devices to time, comma-separated.
    #[arg(long, default_value = "cpu,gpu", value_delimiter = ',')]
    pub devices: Vec<String>,
    /// Models to time, comma-separated: `mlp`, `convnet`, `gpt`.
    #[arg(long, default_value = "mlp,convnet,gpt", value_delimiter = ',')]
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

/// What a worker is told on its standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The command to carry out.
    pub command: Command,
    /// Standard error is a terminal.
    pub color: bool,
}
