//! Builds the programs that a tool runs, so that `cargo demo` is the only command: cargo builds just the tool itself. And says
//! what they are, by asking them and not by what this program is.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::binary;
use anyhow::{Context, Result, bail};

/// The programs of a site.
pub const PROGRAMS: [&str; 3] = ["penstockd", "penstock-engine", "penstock"];
/// The source tree that this program was built from.
const TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// What the tree was when [`build_daemons`] had built them from it.
static BUILT_FROM: OnceLock<String> = OnceLock::new();

/// Builds the daemons and the command, in this program's own profile, where cargo has started it; else they must stand
/// beside this program, as in a package.
///
/// # Errors
/// If they cannot be built or are not there.
pub fn build_daemons() -> Result<()> {
    if let Some(cargo) = std::env::var_os("CARGO").filter(|_| std::env::var_os("PENSTOCK_BIN_DIR").is_none()) {
        let mut command = Command::new(cargo);
        command.args(["build", "-p", "penstock", "-p", "penstock-engine", "--bins", "--manifest-path"]);
        command.arg(format!("{TREE}/Cargo.toml"));
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        eprintln!("building the daemons and the command (some minutes the first time)");
        if !command.status().context("cargo cannot be run")?.success() {
            bail!("the daemons cannot be built");
        }
        let _ = BUILT_FROM.set(first_line("git", &["-C", TREE, "describe", "--always", "--dirty", "--abbrev=12"]));
    }
    PROGRAMS.iter().try_for_each(|name| binary(name).map(drop))
}

/// What the programs of a site are: for each its version, the commit that this run built it from (or that it was found ready made),
/// the profile that cargo built it in, and the beginning of its SHA-256.
///
/// # Errors
/// If one is not there.
pub fn daemons() -> Result<BTreeMap<String, String>> {
    let tell = |name: &&str| -> Result<(String, String)> {
        let path = binary(name)?;
        let version = first_line(&path.display().to_string(), &["--version"]);
        let origin = match BUILT_FROM.get().filter(|commit| !commit.is_empty()) {
            Some(commit) => format!("built by this run from {commit}"),
            None => "found ready made, commit not known".into(),
        };
        let hash: String = first_line("sha256sum", &[&path.display().to_string()]).chars().take(16).collect();
        Ok(((*name).to_owned(), format!("{version}, {origin}, {}, sha256 {hash}", profile(&path))))
    };
    PROGRAMS.iter().map(tell).collect()
}

/// The profile whose folder of cargo's the program stands in.
fn profile(path: &Path) -> String {
    let folder = path.parent().filter(|folder| folder.join(".fingerprint").is_dir());
    match folder.and_then(Path::file_name) {
        Some(name) => format!("{} build", name.to_string_lossy()),
        None => "build profile not known".into(),
    }
}

/// What `penstockd --without` takes: the daemon itself is asked, by a name that it must refuse.
///
/// # Errors
/// If it is not there, or does not answer with a list.
pub fn features() -> Result<Vec<String>> {
    let output = Command::new(binary("penstockd")?).args(["--without", "?", "--version"]).output().context("penstockd cannot be run")?;
    let answer = String::from_utf8_lossy(&output.stderr).into_owned();
    let list = answer.lines().find_map(|line| Some(line.split_once("there are ")?.1)).unwrap_or_default();
    let features: Vec<String> = list.split(", ").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if features.is_empty() {
        bail!("penstockd does not say which features it can do without: {}", answer.trim());
    }
    Ok(features)
}

/// The first line that a program prints; empty if it fails.
pub(crate) fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}
