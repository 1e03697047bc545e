//! What ran before a change that has to be confirmed, kept in the run directory: control that dies before must not make the change permanent.
//!
//! It is there from before the change until it is confirmed, or something else is applied. Control that starts meanwhile, and finds the files
//! as they were applied, takes what ran before. Files that were written anew are somebody's later will, unless they have mistakes.
//! A clean stop ends it: a start after that reads the files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Finding, Texts};
use crate::launcher::Options;
use crate::{log, sys};

const NAME: &str = "unconfirmed.json";

/// The text of both sides of a change.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    before: Texts,
    applied: Texts,
}

/// Keeps what runs, readable by its owner only.
///
/// # Errors
/// If it cannot be written; then what was kept earlier still is.
pub(super) fn keep(run_dir: &Path, before: &Texts, applied: &Texts) -> io::Result<()> {
    let (new, path) = (run_dir.join(format!("{NAME}.new")), run_dir.join(NAME));
    let kept = serde_json::to_vec(&Kept { before: before.clone(), applied: applied.clone() })?;
    // What a dead control left half written.
    let _ = fs::remove_file(&new);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&kept)?;
        fs::rename(&new, &path)
    };
    write().map_err(named).inspect_err(|_| drop(fs::remove_file(&new)))
}

/// Nothing has to be confirmed any more.
pub(super) fn forget(run_dir: &Path) {
    // Mostly there is nothing.
    let _ = fs::remove_file(run_dir.join(NAME));
}

/// The configuration to start with: that of the files, unless they wait to be confirmed.
pub(super) fn start(options: &Options) -> Result<(Config, Texts), Vec<Finding>> {
    let files = Config::load_with_texts(&options.config);
    let kept = match read(&options.run_dir.join(NAME)) {
        Ok(Some(kept)) => kept,
        Ok(None) => return files,
        Err(error) => {
            log::error("config-not-rolled-back", &[("reason", &error)]);
            return files;
        }
    };
    if files.as_ref().is_ok_and(|(_, texts)| *texts != kept.applied) {
        forget(&options.run_dir);
        return files;
    }
    match Config::of(&options.config, &kept.before) {
        Ok(config) => {
            log::warning("config-not-confirmed", &[("then", &"what ran before comes back")]);
            Ok((config, kept.before))
        }
        Err(findings) => {
            findings.iter().for_each(|finding| log::error("config-not-rolled-back", &[("reason", finding)]));
            files
        }
    }
}

/// Reads what is kept, if there is anything: a file of our own that nobody else may write or read.
fn read(path: &Path) -> io::Result<Option<Kept>> {
    let refused = |what: &str| io::Error::other(format!("{} {what}; remove it", path.display()));
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let mut file: File = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(&format!("cannot be read ({error})"))),
        Ok(file) => file,
    };
    let about = file.metadata()?;
    if !about.is_file() || about.uid() != sys::user() || about.mode() & 0o077 != 0 || about.nlink() != 1 {
        return Err(refused("is not a private file of ours"));
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    serde_json::from_slice(&text).map(Some).map_err(|error| refused(&format!("is not what we wrote ({error})")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
    use std::path::PathBuf;

    use super::{NAME, forget, keep, read, start};
    use crate::config::{Config, Texts};
    use crate::launcher::Options;

    /// A folder with a run directory, a key and a configuration.
    struct Place(PathBuf);

    impl Place {
        fn new(test: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("penstock-kept-{}-{test}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder.join("run")).expect("a folder");
            let mut key = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join("a.psk")).expect("a file");
            let secret = b"0x00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";
            std::io::Write::write_all(&mut key, secret).expect("written");
            Self(folder)
        }

        fn run_dir(&self) -> PathBuf {
            self.0.join("run")
        }

        fn options(&self) -> Options {
            let config = self.0.join("penstock.toml");
            Options { config, run_dir: self.run_dir(), engine: None, without: Vec::new(), no_sandbox: false }
        }

        /// Writes a configuration with this subnet and gives what was read.
        fn write(&self, subnet: &str) -> Texts {
            let text = format!(
                "[site]\nname = \"a\"\n[interface.pen0]\naddress = [\"192.168.192.1/30\"]\n[peer.b]\nendpoint = \"203.0.113.7\"\n\
                 local_subnets = [\"10.0.0.0/24\"]\nsubnets = [\"{subnet}\"]\npsk_file = \"a.psk\"\n"
            );
            fs::write(self.options().config, text).expect("written");
            Config::load_with_texts(&self.options().config).expect("a configuration").1
        }

        /// The subnet that a start comes to.
        fn starts_with(&self) -> String {
            start(&self.options())
                .map(|(config, _)| config.peers[0].subnets[0].to_string())
                .unwrap_or_else(|findings| findings[0].to_string())
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_applied_and_not_confirmed_does_not_come_with_the_next_start() {
        let place = Place::new("start");
        let before = place.write("10.1.0.0/16");
        assert_eq!(place.starts_with(), "10.1.0.0/16");
        let applied = place.write("10.2.0.0/16");
        keep(&place.run_dir(), &before, &applied).expect("there is room");
        let kept = fs::metadata(place.run_dir().join(NAME)).expect("it is kept").permissions().mode();
        assert_eq!(kept & 0o777, 0o600);
        // As often as control dies.
        assert_eq!([place.starts_with(), place.starts_with()], ["10.1.0.0/16", "10.1.0.0/16"]);
        // Once it is confirmed the files are read.
        forget(&place.run_dir());
        assert_eq!(place.starts_with(), "10.2.0.0/16");
    }

    #[test]
    fn files_that_were_written_anew_are_read_unless_they_have_mistakes() {
        let place = Place::new("anew");
        let (before, applied) = (place.write("10.1.0.0/16"), place.write("10.2.0.0/16"));
        keep(&place.run_dir(), &before, &applied).expect("there is room");
        fs::write(place.options().config, "[site]\n").expect("written");
        assert_eq!(place.starts_with(), "10.1.0.0/16");
        place.write("10.3.0.0/16");
        assert_eq!(place.starts_with(), "10.3.0.0/16");
        assert!(!place.run_dir().join(NAME).exists(), "nothing waits any more");
    }

    #[test]
    fn what_runs_and_cannot_be_read_any_more_leaves_the_files() {
        let place = Place::new("gone");
        let before = place.write("10.1.0.0/16");
        fs::rename(place.0.join("a.psk"), place.0.join("b.psk")).expect("ours");
        let text = fs::read_to_string(place.options().config).expect("ours").replace("a.psk", "b.psk").replace("10.1", "10.2");
        fs::write(place.options().config, text).expect("written");
        let (_, applied) = Config::load_with_texts(&place.options().config).expect("a configuration");
        keep(&place.run_dir(), &before, &applied).expect("there is room");
        assert_eq!(place.starts_with(), "10.2.0.0/16");
    }

    #[test]
    fn what_somebody_else_put_there_is_refused_by_name() {
        let place = Place::new("planted");
        let (before, applied) = (place.write("10.1.0.0/16"), place.write("10.2.0.0/16"));
        let (path, other) = (place.run_dir().join(NAME), place.0.join("other"));
        let planted = |what: &str, plant: &dyn Fn()| {
            forget(&place.run_dir());
            keep(&place.run_dir(), &before, &applied).expect("there is room");
            let _ = fs::remove_file(&other);
            fs::rename(&path, &other).expect("ours");
            plant();
            let error = read(&path).expect_err(what).to_string();
            assert!(error.starts_with(&path.display().to_string()), "{what}: {error}");
            assert_eq!(place.starts_with(), "10.2.0.0/16", "{what}");
        };
        planted("a symbolic link", &|| std::os::unix::fs::symlink(&other, &path).expect("a link"));
        planted("a hard link", &|| fs::hard_link(&other, &path).expect("a link"));
        planted("a FIFO", &|| {
            assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
        });
        planted("a folder", &|| fs::create_dir(&path).expect("a folder"));
        fs::remove_dir(&path).expect("ours");
        planted("a file that others may read", &|| {
            fs::copy(&other, &path).expect("copied");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("ours");
        });
        // Nor is a link followed by what is written.
        let _ = fs::remove_file(&other);
        std::os::unix::fs::symlink(&other, place.run_dir().join(format!("{NAME}.new"))).expect("a link");
        keep(&place.run_dir(), &before, &applied).expect("there is room");
        assert!(!other.exists() && read(&path).expect("ours").is_some());
    }
}
