//! `solstice`: the command line, and the worker that it starts. Wiring only: graphs are the engine's, runs the store's, components the plugins'.

mod assemble;
mod cli;
mod commands;
mod control;
mod data;
mod device_cache;
mod diagnose;
mod drive;
mod journal;
mod launch;
mod loader;
mod model_graph;
mod observers;
mod outcome;
mod pool;
mod precision;
mod probe;
mod recipe;
mod reload;
mod saver;
mod side;
mod summary;
mod supervise;
mod sweep;
mod timing;
mod trace;
mod train;
mod watch;
mod weights;
mod worker;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command, DashboardArgs, PluginCommand};
use outcome::{Exit, exit};

fn main() {
    end_with_the_reader();
    // clap ends the process with 2 (`exit::USAGE`) for a wrong command line.
    let mut command = match Cli::parse().command {
        Some(command) => command,
        None if commands::dashboard::has_display() => Command::Dashboard(DashboardArgs::default()),
        None => {
            eprint!("{}", Cli::command().render_help());
            std::process::exit(exit::USAGE);
        }
    };
    if let Err(error) = commands::take_input(&mut command) {
        eprintln!("error: {}", outcome::sentence(&error));
        std::process::exit(exit::USAGE);
    }
    let outcome = match &command {
        Command::Worker => match std::env::var_os("SOLSTICE_SIDE_DIR") {
            Some(folder) => Ok(worker::main(folder.as_ref())),
            None => Err(anyhow::anyhow!("`solstice worker` is started by the other commands")),
        },
        Command::Resume(args) => commands::follow::run(&args.go_on.show, &command),
        Command::Fork(args) => commands::follow::run(&args.go_on.show, &command),
        Command::Ctl(args) => commands::ctl::run(args),
        Command::Train(args) => {
            pool::stop_with_starter();
            commands::follow::run(&args.show, &command)
        }
        Command::Sweep(args) => Ok(commands::sweep::run(args)),
        Command::CrossValidate(args) => Ok(commands::cross_validate::run(args)),
        Command::Runs(args) => commands::runs::run(args),
        Command::Watch(args) => commands::watch_run::run(args),
        Command::Dashboard(args) => Ok(commands::dashboard::run(args)),
        Command::Stream(args) => commands::stream::run(args),
        Command::Export(args) => Ok(commands::export::run(args).unwrap_or_else(|Exit { code, error }| {
            eprintln!("error: {}", outcome::sentence(&error));
            code
        })),
        Command::Bench(args) => commands::bench::run(args).map(|()| exit::OK),
        Command::Plugin(PluginCommand::New { name, dir }) => commands::plugin_new::run(name, dir.as_deref()).map(|()| exit::OK),
        Command::Plugin(PluginCommand::Trust { path }) => commands::plugins::trust(path).map(|()| exit::OK),
        Command::Devices(_)
        | Command::Eval(_)
        | Command::Plugins(_)
        | Command::Describe(_)
        | Command::Check(_)
        | Command::Inspect(_)
        | Command::Profile(_)
        | Command::Summary(_)
        | Command::Tune(_) => supervise::run_attached(&command),
    };
    let code = outcome.unwrap_or_else(|error| {
        eprintln!("error: {}", outcome::sentence(&error));
        exit::FAILED
    });
    std::process::exit(code);
}

/// `solstice describe mlp | head`: a reader that has seen enough is no error. Rust turns it into a panic of `println!`.
fn end_with_the_reader() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str().is_some_and(|message| message.starts_with("failed printing to stdout")) {
            std::process::exit(exit::OK);
        }
        print(panic);
    }));
}
