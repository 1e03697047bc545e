//! Builds the programs that a tool runs, so that `cargo demo` is the only command: cargo builds just the tool itself.

use std::process::Command;

use super::binary;
use anyhow::{Context, Result, bail};

/// Builds the daemons and the command, in this program's own profile, where cargo has started it; else they must stand
/// beside this program, as in a package.
///
/// # Errors
/// If they cannot be built or are not there.
pub fn build_daemons() -> Result<()> {
    if let Some(cargo) = std::env::var_os("CARGO").filter(|_| std::env::var_os("PENSTOCK_BIN_DIR").is_none()) {
        let mut command = Command::new(cargo);
        command.args(["build", "-p", "penstock", "-p", "penstock-engine", "--bins", "--manifest-path"]);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        eprintln!("building the daemons and the command (some minutes the first time)");
        if !command.status().context("cargo cannot be run")?.success() {
            bail!("the daemons cannot be built");
        }
    }
    ["penstockd", "penstock-engine", "penstock"].iter().try_for_each(|name| binary(name).map(drop))
}
