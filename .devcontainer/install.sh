#!/usr/bin/env bash
# What both containers need, and what a bare Debian or Ubuntu needs: a C compiler, Vulkan with Mesa's software driver, Rust.
# Run as root. Takes the Rust version from rust-toolchain.toml beside the repository.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends \
    build-essential ca-certificates curl git libvulkan1 mesa-vulkan-drivers vulkan-tools

if ! command -v cargo >/dev/null; then
    version="$(sed -n 's/^channel = "\(.*\)"/\1/p' "$here/../rust-toolchain.toml" 2>/dev/null || true)"
    export RUSTUP_HOME="${RUSTUP_HOME:-/usr/local/rustup}" CARGO_HOME="${CARGO_HOME:-/usr/local/cargo}"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
        sh -s -- -y --no-modify-path --profile minimal --component rustfmt,clippy --default-toolchain "${version:-stable}"
    ln -sf "$CARGO_HOME"/bin/* /usr/local/bin/
    chmod -R a+w "$RUSTUP_HOME" "$CARGO_HOME"
fi
