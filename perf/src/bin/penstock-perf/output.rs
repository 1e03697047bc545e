//! Where a run's results go: a folder with a JSON file a run, its plots and tables, and one page for all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use penstock_perf::compare::{self, Record};

/// The folder.
pub(crate) struct Output(PathBuf);

impl Output {
    /// Makes the folder; without a name one that tells the time.
    pub(crate) fn new(folder: Option<&PathBuf>) -> Result<Self> {
        let folder = folder.cloned().map_or_else(default_folder, Ok)?;
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        Ok(Self(folder))
    }

    /// The folder that a record was read from.
    pub(crate) fn beside(record: &Path) -> Self {
        Self(record.parent().map(Path::to_owned).unwrap_or_default())
    }

    /// Where the page is.
    pub(crate) fn report(&self) -> PathBuf {
        self.0.join("report.html")
    }

    /// Writes a record with its plots and tables. Their names begin with the record's.
    pub(crate) fn save(&self, name: &str, record: &Record) -> Result<()> {
        self.write(&format!("{name}.json"), &serde_json::to_string(record).context("the record")?)?;
        self.show(name, record)
    }

    /// Writes what follows from a record.
    pub(crate) fn show(&self, name: &str, record: &Record) -> Result<()> {
        let tables: String = compare::grids(record).iter().map(|grid| grid.markdown() + "\n").collect();
        if !tables.is_empty() {
            self.write(&format!("{name}.md"), &tables)?;
        }
        compare::plots(record).iter().try_for_each(|(plot, content)| self.write(&format!("{name}-{plot}"), content))
    }

    /// Writes the page.
    pub(crate) fn page(&self, records: &[Record]) -> Result<()> {
        self.write("report.html", &compare::report(records)?)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        fs::write(&path, text).with_context(|| format!("{}", path.display()))
    }
}

fn default_folder() -> Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    Ok(PathBuf::from(format!("penstock-perf-{seconds}")))
}
