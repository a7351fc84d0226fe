//! `solstice`: the command line, and the worker that it starts. Wiring only: graphs are the engine's, runs the store's, components the plugins'.

mod assemble;
mod cli;
mod commands;
mod data;
mod diagnose;
mod loader;
mod outcome;
mod recipe;
mod side;
mod span;
mod supervise;
mod train;
mod worker;

use clap::Parser;
use cli::{Cli, Command, PluginCommand};
use outcome::exit;

fn main() {
    // clap ends the process with 2 (`exit::USAGE`) for a wrong command line.
    let command = Cli::parse().command;
    let outcome = match &command {
        Command::Worker => match std::env::var_os("SOLSTICE_SIDE_DIR") {
            Some(folder) => Ok(worker::main(folder.as_ref())),
            None => Err(anyhow::anyhow!("`solstice worker` is started by the other commands")),
        },
        Command::Train(args) => commands::follow::run(args, &command),
        Command::Runs(args) => commands::runs::run(args),
        Command::Bench(args) => commands::bench::run(args).map(|()| exit::OK),
        Command::Plugin(PluginCommand::New { name, dir }) => commands::plugin_new::run(name, dir.as_deref()).map(|()| exit::OK),
        Command::Plugin(PluginCommand::Trust { path }) => commands::plugins::trust(path).map(|()| exit::OK),
        Command::Devices | Command::Eval(_) | Command::Plugins(_) | Command::Describe(_) | Command::Check(_) | Command::Inspect(_) => {
            supervise::run_attached(&command)
        }
    };
    let code = outcome.unwrap_or_else(|error| {
        eprintln!("error: {}", outcome::sentence(&error));
        exit::FAILED
    });
    std::process::exit(code);
}
