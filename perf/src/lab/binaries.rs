//! Finding our own programs: next to the running one, where cargo puts them all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The environment variable that names another folder.
const FOLDER: &str = "PENSTOCK_BIN_DIR";

/// The path of one of our programs: from `PENSTOCK_BIN_DIR` if set, else next to this executable (a test's executable is one
/// folder further down).
///
/// # Errors
/// If it has not been built, with the command that builds it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folders: Vec<PathBuf> = match std::env::var_os(FOLDER) {
        Some(folder) => vec![folder.into()],
        None => {
            let own = std::env::current_exe().context("the path of this program is unknown")?;
            own.ancestors().skip(1).take(2).map(Path::to_owned).collect()
        }
    };
    in_folders(name, &folders)
}

/// The same in this folder, or where [`binary`] looks if there is none.
pub(super) fn binary_in(name: &str, folder: Option<&Path>) -> Result<PathBuf> {
    folder.map_or_else(|| binary(name), |folder| in_folders(name, &[folder.to_owned()]))
}

fn in_folders(name: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    let Some(path) = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()) else {
        let looked = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" and ");
        bail!(
            "{name} is not in {looked}: build it with `cargo build -p penstock -p penstock-engine` (and --release if this is), or set {FOLDER}"
        );
    };
    Ok(path)
}
