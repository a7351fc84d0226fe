//! `solstice plugins`, `solstice plugin trust`.

use super::catalog_of;
use crate::cli::{DataArgs, PluginsArgs};
use crate::loader::{LoadError, Loader};
use crate::outcome::exit;
use anyhow::Result;
use serde_json::json;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Lists what is found; returns the exit code.
pub fn list(args: &PluginsArgs) -> Result<i32> {
    if args.try_again {
        let count = Loader::from_env().clear_quarantine();
        eprintln!("{count} plugins may be tried again.");
    }
    let catalog = catalog_of(&args.paths, &DataArgs::default())?;
    if catalog.found().is_empty() && !args.json {
        println!("No plugins found. They are looked for in:");
        for folder in &catalog.loader().search_dirs {
            println!("  {}", folder.path.display());
        }
    }
    for found in catalog.found() {
        let kinds: Vec<&str> = found.kinds().into_iter().map(|kind| kind.name()).collect();
        if args.json {
            let reason = found.refusal.as_ref().map(ToString::to_string);
            let is_quarantined = matches!(found.refusal, Some(LoadError::Quarantined(_)));
            let modified = found.path.metadata().and_then(|file| file.modified()).ok();
            let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|time| time.as_secs_f64());
            let line = json!({
                "name": found.name(), "version": found.version(), "path": found.path, "kinds": kinds, "refused": reason,
                "quarantined": is_quarantined, "modified": modified,
            });
            println!("{line}");
            continue;
        }
        println!("{:<22} {:<8} {:<40} {}", found.name(), found.version(), kinds.join(", "), found.path.display());
        if let Some(reason) = &found.refusal {
            println!("    refused: {reason}");
        }
    }
    Ok(exit::OK)
}

/// Trusts a file from now on.
pub fn trust(path: &Path) -> Result<()> {
    let manifest = Loader::from_env().trust(path)?;
    println!("{} {} ({}) is trusted until its file changes.", manifest.name, manifest.version, path.display());
    Ok(())
}
