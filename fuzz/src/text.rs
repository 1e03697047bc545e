//! Text that people and programs write: configuration, keys, and the lines between command and daemon.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use penstock::admin::{Request, Response};
use penstock::config::Config;
use penstock::psk;
use penstock::show::{Options, render};

/// A folder for files, one a thread; taken away at its end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in a folder for temporary files does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    thread_local!(static FOLDER: OnceCell<Folder> = const { OnceCell::new() });
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| {
            let name = format!("penstock-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).expect("a folder for temporary files");
            // The key that the configurations of the corpus name.
            let _ = psk::generate_file(&path.join("london.psk"));
            Folder(path)
        });
        let path = folder.0.join(name);
        std::fs::write(&path, bytes).expect("a file in a folder for temporary files");
        path
    })
}

/// A whole configuration file.
///
/// # Panics
/// If it is refused without a reason, or with one that is no single line or names no file.
pub fn config(bytes: &[u8]) {
    let path = file("penstock.toml", bytes);
    match Config::load(&path) {
        Ok(config) => assert!(config.peers.iter().all(|peer| peer.window.is_power_of_two() || peer.window >= 1024)),
        Err(findings) => {
            assert!(!findings.is_empty(), "a refusal has a reason");
            for finding in findings {
                let line = finding.to_string();
                assert!(line.lines().count() == 1 && line.contains("penstock.toml"), "{line:?}");
                assert!(!finding.problem.is_empty() && !finding.remedy.is_empty(), "{line:?}");
            }
        }
    }
}

/// The text of a key file.
///
/// # Panics
/// If a refusal or a judgement repeats the key.
pub fn psk(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let text = text.trim();
    let said = match psk::decode(text) {
        Ok(judged) => {
            assert!(!judged.psk.as_bytes().is_empty());
            format!("{judged:?} {:?}", judged.weak)
        }
        Err(problem) => problem.to_owned(),
    };
    assert!(text.len() < 24 || !said.contains(text), "a key is never printed");
}

/// A request line at the daemon.
///
/// # Panics
/// If a good one is not what it says, or if a refusal has no reason.
pub fn request(bytes: &[u8]) {
    let Ok(line) = std::str::from_utf8(bytes) else { return };
    match Request::parse(line.trim_end()) {
        Ok(request) => assert_eq!(Request::parse(request.to_line().trim_end()), Ok(request)),
        Err(refusal) => {
            assert!(!refusal.ok && refusal.error.as_deref().is_some_and(|error| !error.is_empty()));
            assert!(Response::parse(&refusal.to_line()).is_ok(), "the command understands its refusal");
        }
    }
}

/// A response line at the command, shown in each way.
///
/// # Panics
/// If what is shown could change a terminal beyond colours.
pub fn response(bytes: &[u8]) {
    let Ok(line) = std::str::from_utf8(bytes) else { return };
    let Ok(response) = Response::parse(line) else { return };
    assert_eq!(Response::parse(&response.to_line()).map_err(|error| error.to_string()), Ok(response.clone()));
    let Some(state) = response.state else { return };
    let first = state.peers.first().map(|peer| peer.name.as_str());
    let before = Some((&*state, Duration::from_secs(1)));
    for options in [
        Options::default(),
        Options { peer: first, before, colour: true, detail: true },
        Options { peer: None, before, colour: false, detail: false },
    ] {
        let screen = render(&state, options);
        let plain = options.colour || screen.chars().all(|c| c == '\n' || !c.is_control());
        assert!(plain, "a control character reaches the terminal: {screen:?}");
    }
}
