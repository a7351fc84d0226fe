//! `solstice plugin new NAME`: a plugin crate that builds, with a passing test.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Makes the crate and says what to do next. Nothing is left behind when it cannot be finished.
pub fn run(name: &str, folder: Option<&Path>) -> Result<()> {
    let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.split('-').all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
    if !well_formed {
        bail!("`{name}` is no name for a plugin: wanted lower-case words with dashes, for example `my-model`");
    }
    let workspace = workspace_root(&std::env::current_dir()?);
    let parent = match (folder, &workspace) {
        (Some(folder), _) => folder.to_path_buf(),
        (None, Some(root)) => root.join("plugins"),
        (None, None) => PathBuf::from("."),
    };
    let target = parent.join(name);
    if target.exists() {
        bail!("{} is already there: choose another name or folder", target.display());
    }
    fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let in_workspace = workspace
        .as_ref()
        .is_some_and(|root| parent.canonicalize().ok().zip(root.join("plugins").canonicalize().ok()).is_some_and(|(a, b)| a == b));
    let manifest = if in_workspace { workspace_manifest(name) } else { standalone_manifest(name)? };
    // Written beside and renamed, so that a full disk leaves no half of a crate.
    let draft = parent.join(format!(".{name}.partial"));
    let written = write_crate(&draft, name, &manifest).and_then(|()| fs::rename(&draft, &target).map_err(Into::into));
    if let Err(error) = written {
        let _ = fs::remove_dir_all(&draft);
        return Err(error.context(format!("cannot make the plugin in {}", target.display())));
    }
    println!("Made {} with the model `{name}`. Next:", target.display());
    if in_workspace {
        println!("  cargo test -p {name}");
        println!("  cargo build --release");
        println!("  solstice train experiments/digits.ron --set model={}", name.replace('-', "_"));
    } else {
        println!("  cd {} && cargo test && cargo build --release", target.display());
        println!("  solstice plugin trust target/release/{}", crate::loader::library_file_name(name));
        println!("  SOLSTICE_PLUGIN_PATH={}/target/release solstice describe {name}", target.display());
    }
    Ok(())
}

/// The Solstice checkout around `from`, if there is one.
fn workspace_root(from: &Path) -> Option<PathBuf> {
    from.ancestors().find(|folder| folder.join("plugin-api/abi").is_dir() && folder.join("plugins").is_dir()).map(Path::to_path_buf)
}

fn write_crate(folder: &Path, name: &str, manifest: &str) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("Cargo.toml"), manifest)?;
    fs::write(folder.join("src/lib.rs"), source(name))?;
    fs::write(
        folder.join("README.md"),
        format!("# {name}\n\nA model plugin for Solstice. `cargo test` needs no host; `solstice describe {name}` shows its settings.\n"),
    )?;
    Ok(())
}

fn workspace_manifest(name: &str) -> String {
    format!(
        r#"[package]
name = "{name}"
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
publish = false

[lib]
crate-type = ["cdylib", "rlib"]

[lints]
workspace = true

[dependencies]
solstice-plugin-api.workspace = true
"#
    )
}

fn standalone_manifest(name: &str) -> Result<String> {
    // The plugin-api that this host was built from: same ABI, so that the plugin loads here.
    let api = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugin-api");
    let Ok(api) = api.canonicalize() else {
        bail!("the source of solstice-plugin-api is not at {}: run this inside a checkout of Solstice", api.display());
    };
    Ok(format!(
        r#"[package]
name = "{name}"
version = "0.1.0"
edition = "2024"
publish = false

[lib]
crate-type = ["cdylib", "rlib"]

[dependencies]
solstice-plugin-api = {{ path = {:?} }}

[workspace]
"#,
        api.display().to_string()
    ))
}

fn source(name: &str) -> String {
    let type_name: String = name
        .split('-')
        .map(|part| {
            let mut chars = part.chars();
            chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
        })
        .collect();
    format!(
        r#"//! The model `{name}`.

use solstice_plugin_api::prelude::*;

/// Two dense layers; say here what your model is, `solstice describe {name}` shows it.
#[config]
pub struct {type_name} {{
    /// Width of the hidden layer.
    #[schemars(range(min = 1, max = 65536))]
    pub hidden: u32,
    /// Width of the last layer; by default what the data set says.
    pub outputs: Option<u32>,
}}

impl Default for {type_name} {{
    fn default() -> Self {{
        {type_name} {{ hidden: 128, outputs: None }}
    }}
}}

impl Model for {type_name} {{
    const ID: &'static str = "{name}";

    fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {{
        let outputs = self.outputs.map(|outputs| outputs as usize).or(g.fact("classes")).or(g.fact("targets")).unwrap_or(10);
        let x = g.flatten(x); // [batch, features]
        let h = g.linear("fc1", x, self.hidden)?; // [batch, hidden]
        let h = g.relu(h);
        g.linear("fc2", h, outputs) // [batch, outputs]
    }}
}}

export_plugin! {{ models: [{type_name}] }}

#[cfg(test)]
mod tests {{
    use super::*;
    use solstice_plugin_api::testing::trace_model;

    #[test]
    fn maps_a_batch_to_its_outputs() {{
        let model = {type_name} {{ hidden: 16, outputs: Some(3) }};
        let graph = trace_model(&model, TensorType::new(DType::F32, [8, 28, 28])).unwrap();
        let y = graph.output("y").unwrap();
        assert_eq!(graph.ty(y).shape, [8, 3]);
    }}
}}
"#
    )
}
