//! Builds the daemons that the demo runs, so that `cargo demo` is the only command: cargo builds just the demo itself.

use std::process::Command;

use anyhow::{Context, Result, bail};
use penstock_perf::lab::binary;

/// Builds them where cargo can be found; else they must stand beside this program, as in a package.
pub(crate) fn daemons() -> Result<()> {
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
