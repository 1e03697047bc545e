//! The counts of one commit as a file, and the newest file before it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::callgrind::{self, Count};

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Changes when a field changes its meaning.
    schema: u32,
    /// What was counted; `-dirty` behind it if files were changed.
    pub(crate) commit: String,
    /// When, in seconds since 1970.
    counted_at: u64,
    rustc: String,
    valgrind: String,
    /// CPU features that the compiler was allowed to use.
    target_features: Vec<String>,
    /// What the figures do not say.
    note: String,
    /// By the name of the case.
    pub(crate) cases: BTreeMap<String, Count>,
}

const NOTE: &str = "Instructions as valgrind's CPU model has them: libraries that look at the CPU, AES-GCM foremost, take the way for a CPU \
                    without AVX-512 and VAES. The column without the cipher does not depend on that.";

/// Where the files are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../perf/results/instructions")
}

fn told(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Record {
    /// Of the sources as they are.
    pub(crate) fn new(cases: BTreeMap<String, Count>) -> Result<Self> {
        let features = told("rustc", &["--print", "cfg"]).unwrap_or_default();
        let feature = |line: &str| Some(line.strip_prefix("target_feature=\"")?.strip_suffix('"')?.to_owned());
        Ok(Self {
            schema: 1,
            commit: told("git", &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]).unwrap_or_else(|| "unknown".into()),
            counted_at: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            rustc: told("rustc", &["--version"]).unwrap_or_default(),
            valgrind: callgrind::version()?,
            target_features: features.lines().filter_map(feature).collect(),
            note: NOTE.into(),
            cases,
        })
    }

    /// Writes the file of this commit.
    pub(crate) fn write(&self) -> Result<PathBuf> {
        let folder = folder();
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{}.json", self.commit));
        std::fs::write(&path, serde_json::to_string_pretty(self)? + "\n").with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// The newest file of another commit.
    pub(crate) fn before(commit: &str) -> Result<Option<Self>> {
        let mut newest: Option<Self> = None;
        for entry in std::fs::read_dir(folder()).into_iter().flatten() {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            let record: Self = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            if record.commit != commit && newest.as_ref().is_none_or(|newest| newest.counted_at < record.counted_at) {
                newest = Some(record);
            }
        }
        Ok(newest)
    }
}
