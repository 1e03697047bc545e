//! What people type and what they get: each test is one call of the command, some against a daemon that only answers.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::{Cli, ERROR, Key, NO, PeerOrder, Streams, UNREACHABLE, Verb, YES, code};
use crate::admin::{Command, PeerState, Plan, Request, Response, State};

/// A run directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("penstock-cli-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// A daemon for one connection; it ends when the command hangs up.
    fn daemon(&self, mut answer: impl FnMut(Result<Request, Response>) -> String + Send + 'static) -> JoinHandle<()> {
        let listener = UnixListener::bind(self.0.join("control.sock")).expect("a socket");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
            for line in lines.map_while(Result::ok) {
                if stream.write_all(answer(Request::parse(&line)).as_bytes()).is_err() {
                    return;
                }
            }
        })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the command: exit code, stdout, stderr.
fn run(directory: &Path, words: &[&str]) -> (u8, String, String) {
    let run_dir = directory.to_str().expect("a path in UTF-8");
    let cli = Cli::try_parse_from(["penstock", "--run-dir", run_dir].iter().chain(words)).expect("a good command line");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = code(&cli, &mut Streams::new(&mut out, &mut err, false));
    (code, String::from_utf8(out).expect("UTF-8"), String::from_utf8(err).expect("UTF-8"))
}

fn state() -> State {
    crate::show::example()
}

/// Answers `show` with `state`, everything else with "done".
fn answering(state: State) -> impl FnMut(Result<Request, Response>) -> String + Send {
    move |request| match request {
        Ok(Request { id, command: Command::Show }) => Response::show(id, state.clone()).to_line(),
        Ok(Request { id, command }) => Response::done(id, format!("{command:?}")).to_line(),
        Err(refusal) => refusal.to_line(),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn verbs_may_be_shortened_and_none_means_show() {
    let verb = |words: &[&str]| Cli::try_parse_from(["penstock"].iter().chain(words)).map(|cli| cli.verb);
    let london = Some("london".to_owned());
    for (words, expected) in [
        (["show", "london"].as_slice(), Verb::Show { peer: vec!["london".to_owned()] }),
        (&["s"], Verb::Show { peer: Vec::new() }),
        (&["up", "london"], Verb::Up { peer: london.clone(), wait: 10 }),
        (&["up", "--wait", "0"], Verb::Up { peer: None, wait: 0 }),
        (&["dow", "london"], Verb::Down { peer: london }),
        (&["peer", "rekey", "london"], Verb::Peer { what: PeerOrder::Rekey { peer: "london".into(), wait: 10 } }),
        (&["check"], Verb::Check { file: "/etc/penstock/penstock.toml".into() }),
        (&["ch", "x.toml"], Verb::Check { file: "x.toml".into() }),
        (&["a", "--dry-run"], Verb::Apply { dry_run: true, confirm: None }),
        (&["apply", "--confirm", "1m"], Verb::Apply { dry_run: false, confirm: Some(Duration::from_secs(60)) }),
        (&["conf"], Verb::Confirm),
        (&["k", "p"], Verb::Key { what: Key::Psk { out: None } }),
        (&["key", "psk", "--out", "x.psk"], Verb::Key { what: Key::Psk { out: Some("x.psk".into()) } }),
    ] {
        assert_eq!(verb(words).expect("good"), Some(expected), "{words:?}");
    }
    assert_eq!(verb(&[]).expect("good"), None);
    for words in [
        ["dance"].as_slice(),
        &["show", "a", "b", "c"],
        &["wait"],
        &["key"],
        &["up", "--wait", "-1"],
        &["--nonsense"],
        &["apply", "--confirm", "30"],
    ] {
        let error = verb(words).expect_err("misuse");
        assert_eq!(error.exit_code(), i32::from(ERROR), "{words:?}");
    }
    let cli = Cli::try_parse_from(["penstock", "show", "--json", "--run-dir", "/x"]).expect("options may stand behind the verb");
    assert_eq!((cli.json, cli.run_dir.as_path()), (true, Path::new("/x")));
}

#[test]
fn help_teaches() {
    let mut command = Cli::command();
    let help = command.render_long_help().to_string();
    for part in ["penstock key psk --out", "penstock check", "penstockd", "Exit codes: 0 yes or done, 1 no, 2 misuse or error, 3"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        assert!(verb.get_about().is_some(), "{}", verb.get_name());
    }
}

#[test]
fn the_configuration_in_the_help_is_a_good_one() {
    let directory = Directory::new("help");
    let lines = super::AFTER_HELP.lines().skip_while(|line| !line.contains("[site]")).take_while(|line| !line.contains("3. "));
    let text: String = lines.map(|line| format!("{}\n", line.trim())).collect();
    std::fs::write(directory.path().join("penstock.toml"), text).expect("written");
    crate::psk::generate_file(&directory.path().join("london.psk")).expect("a key");
    let file = directory.path().join("penstock.toml").display().to_string();
    let (code, out, err) = run(directory.path(), &["check", &file]);
    assert_eq!((code, out, err), (YES, format!("{file}: good: site frankfurt, interface pen0, 1 peer\n"), String::new()));
}

#[test]
fn show_prints_the_screen_or_the_state() {
    let directory = Directory::new("show");
    let daemon = directory.daemon(answering(state()));
    let (code, out, err) = run(directory.path(), &[]);
    assert_eq!((code, err.as_str()), (YES, ""));
    assert!(out.starts_with("frankfurt: 1 of 2 peers not up\n\nCONNECTING  london") && out.contains("0 bit/s"), "{out}");
    daemon.join().expect("ended");

    let directory = Directory::new("show-json");
    let daemon = directory.daemon(answering(state()));
    let (code, out, _) = run(directory.path(), &["show", "--json"]);
    assert_eq!((code, serde_json::from_str::<State>(&out).expect("the state")), (YES, state()));
    daemon.join().expect("ended");

    let directory = Directory::new("show-remedy");
    let mut unknowing = state();
    unknowing.peers.iter_mut().for_each(|peer| peer.remedy = None);
    let daemon = directory.daemon(answering(unknowing));
    let (_, out, _) = run(directory.path(), &["show", "--json"]);
    let shown: State = serde_json::from_str(&out).expect("the state");
    let remedies: Vec<bool> = shown.peers.iter().map(|peer| peer.remedy.is_some()).collect();
    assert_eq!(remedies, [false, true], "there is always something to try for what is not up");
    daemon.join().expect("ended");
}

#[test]
fn showing_one_peer_answers_whether_it_is_up() {
    for (words, expected) in [(["show", "london"].as_slice(), NO), (&["show", "berlin"], YES), (&["show", "london", "--json"], NO)] {
        let directory = Directory::new("show-one");
        let daemon = directory.daemon(answering(state()));
        let (code, out, err) = run(directory.path(), words);
        assert_eq!((code, err.as_str()), (expected, ""), "{words:?}");
        assert!(!out.contains(if expected == NO { "berlin" } else { "london" }), "{out}");
        daemon.join().expect("ended");
    }
    let directory = Directory::new("show-none");
    let daemon = directory.daemon(answering(state()));
    let (code, out, err) = run(directory.path(), &["show", "paris"]);
    assert_eq!((code, out.as_str(), err.as_str()), (ERROR, "", "penstock: no peer \"paris\"; there are: berlin, london\n"));
    daemon.join().expect("ended");
}

#[test]
fn without_a_daemon_every_question_ends_with_3_and_what_to_do() {
    let directory = Directory::new("nobody");
    for words in [[].as_slice(), &["show", "london"], &["up"], &["down", "london"]] {
        let (code, out, err) = run(directory.path(), words);
        assert_eq!((code, out.as_str()), (UNREACHABLE, ""), "{words:?}");
        assert!(
            err.starts_with("penstock: penstockd does not run here")
                && err.contains("start it as root: penstockd")
                && err.lines().count() == 1,
            "{err}"
        );
    }
    let (code, out, _) = run(directory.path(), &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &json["ok"], &json["code"], &json["schema"]), (UNREACHABLE, &false.into(), &3.into(), &1.into()));

    // A socket that a dead daemon left behind.
    drop(UnixListener::bind(directory.path().join("control.sock")).expect("a socket"));
    let (code, _, err) = run(directory.path(), &["show"]);
    assert!(code == UNREACHABLE && err.contains("start it as root"), "{err}");
}

#[test]
fn a_daemon_that_hangs_up_or_talks_nonsense_is_said_so() {
    for (answer, expected, part) in [
        ("", UNREACHABLE, "hung up"),
        ("{\"id\":1,\"ok\":true", UNREACHABLE, "hung up"),
        ("nonsense\n", ERROR, "use the same version"),
        ("{\"id\":9,\"ok\":true}\n", ERROR, "answered request 9 instead of 1"),
        ("{\"id\":1,\"ok\":true}\n", ERROR, "sent no state"),
        ("{\"id\":1,\"ok\":false,\"error\":\"no\\u001b[2J\",\"code\":1}\n", NO, "penstock: no\u{fffd}[2J"),
        ("{\"id\":1,\"ok\":false,\"code\":0}\n", ERROR, "gives no reason"),
    ] {
        let directory = Directory::new("nonsense");
        let listener = UnixListener::bind(directory.path().join("control.sock")).expect("a socket");
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            BufReader::new(&stream).read_line(&mut String::new()).expect("a request");
            stream.write_all(answer.as_bytes()).expect("written");
        });
        let (code, out, err) = run(directory.path(), &["show"]);
        assert_eq!((code, out.as_str()), (expected, ""), "{answer}");
        assert!(err.contains(part), "{answer}: {err}");
        daemon.join().expect("ended");
    }
    let directory = Directory::new("schema");
    let daemon = directory.daemon(answering(State { schema: 99, ..state() }));
    let (code, _, err) = run(directory.path(), &["show"]);
    assert!(code == ERROR && err.contains("speaks schema 99"), "{err}");
    daemon.join().expect("ended");
}

#[test]
fn up_waits_until_the_peers_are_up_and_answers_whether_they_are() {
    // Given a daemon whose peer comes up at the third look.
    let directory = Directory::new("up");
    let mut looks = 0;
    let daemon = directory.daemon(move |request| match request {
        Ok(Request { id, command: Command::Up { peer } }) => Response::done(id, format!("{peer:?}")).to_line(),
        Ok(Request { id, .. }) => {
            looks += 1;
            let mut state = state();
            if let Some(london) = state.peers.last_mut().filter(|_| looks >= 3) {
                london.state = PeerState::Up;
            }
            Response::show(id, state).to_line()
        }
        Err(refusal) => refusal.to_line(),
    });
    assert_eq!(run(directory.path(), &["up", "london"]), (YES, "london: up\n".into(), String::new()));
    daemon.join().expect("ended");

    // Given one whose peer does not.
    let directory = Directory::new("up-not");
    let daemon = directory.daemon(answering(state()));
    let (code, out, _) = run(directory.path(), &["up", "--wait", "1"]);
    let expected =
        "berlin: up\nlondon: not up after 1 s: no answer from 203.0.113.7:4500; is UDP port 4500 open there? does its penstockd run?\n";
    assert_eq!((code, out.as_str()), (NO, expected));
    daemon.join().expect("ended");
}

#[test]
fn wait_only_looks_and_says_why_a_peer_is_not_up() {
    let directory = Directory::new("wait");
    let mut looks = 0;
    let daemon = directory.daemon(move |request| match request {
        Ok(Request { id, command: Command::Show }) => {
            looks += 1;
            let mut state = state();
            if let Some(london) = state.peers.last_mut().filter(|_| looks >= 4) {
                london.state = PeerState::Up;
            }
            Response::show(id, state).to_line()
        }
        Ok(Request { command, .. }) => panic!("it asked for {command:?}"),
        Err(refusal) => refusal.to_line(),
    });
    assert_eq!(run(directory.path(), &["wait", "london"]), (YES, "london: up\n".into(), String::new()));
    daemon.join().expect("ended");

    let asked = |name: &str, words: &[&str]| {
        let directory = Directory::new(name);
        let daemon = directory.daemon(answering(state()));
        let answer = run(directory.path(), words);
        daemon.join().expect("ended");
        answer
    };
    let (code, out, _) = asked("wait-not", &["wait", "london", "--timeout", "1s"]);
    assert_eq!(code, NO);
    assert!(out.starts_with("london: not up after 1 s: no answer from 203.0.113.7:4500; "), "{out}");
    let (code, out, err) = asked("wait-unknown", &["wait", "paris", "--timeout", "1s"]);
    assert_eq!((code, out.as_str()), (ERROR, ""));
    assert!(err.contains("no peer \"paris\"; there are: berlin, london"), "{err}");
    assert!(Cli::try_parse_from(["penstock", "wait"]).is_err(), "wait needs a peer");
}

#[test]
fn show_peer_shows_everything_about_one() {
    let shown = |name: &str, words: &[&str]| {
        let directory = Directory::new(name);
        let daemon = directory.daemon(answering(state()));
        let answer = run(directory.path(), words);
        daemon.join().expect("ended");
        answer
    };
    let (code, out, _) = shown("show-peer", &["show", "peer", "berlin"]);
    assert_eq!(code, YES);
    assert!(out.contains("no error since penstockd started") && !out.contains("london"), "{out}");
    let (_, brief, _) = shown("show-brief", &["show", "berlin"]);
    assert!(!brief.contains("no error since"), "{brief}");
    let (code, _, err) = run(Directory::new("show-what").path(), &["show", "berlin", "london"]);
    assert!(code == ERROR && err.contains("show peer NAME"), "{err}");
}

#[test]
fn orders_reach_the_daemon_as_typed() {
    for (words, expected) in [
        (["up", "london", "--wait", "0"].as_slice(), "Up { peer: Some(\"london\") }\n"),
        (&["down"], "Down { peer: None }\n"),
        (&["down", "london"], "Down { peer: Some(\"london\") }\n"),
    ] {
        let directory = Directory::new("orders");
        let daemon = directory.daemon(answering(state()));
        assert_eq!(run(directory.path(), words), (YES, expected.into(), String::new()));
        daemon.join().expect("ended");
    }
}

#[test]
fn check_speaks_as_monitoring_plugins_do() {
    let directory = Directory::new("check");
    let file = directory.path().join("penstock.toml");
    let name = file.display().to_string();
    let check = |text: &str, words: &[&str]| {
        std::fs::write(&file, text).expect("written");
        run(directory.path(), &[&["check", name.as_str()], words].concat())
    };
    let good = "[site]\nname = \"a\"\n[interface.pen0]\naddress = [\"10.0.0.1/24\"]\n";
    let (code, out, _) = check(good, &[]);
    assert_eq!(code, 1, "no peer is a warning: {out}");
    assert!(out.starts_with("warning: ") && out.contains("usable: site a, interface pen0, 0 peers\n"), "{out}");

    let (code, out, err) = check(&good.replace("name = \"a\"", "name = 1\nprot = 2"), &[]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((code, lines.len(), err.as_str()), (2, 2, ""), "{out}");
    assert!(lines.iter().all(|line| line.starts_with(&format!("{name}:"))), "{out}");

    let (code, out, _) = check(&good.replace("pen0", "lo"), &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &json["status"], &json["code"], &json["schema"]), (2, &"critical".into(), &2.into(), &1.into()));
    let finding = &json["findings"][0];
    assert_eq!((&finding["severity"], &finding["line"], &finding["key"]), (&"mistake".into(), &3.into(), &"interface.lo".into()));

    std::fs::remove_file(&file).expect("removed");
    let (code, out, _) = run(directory.path(), &["check", &name]);
    assert_eq!(code, 3, "{out}");
}

#[test]
fn keys_go_to_stdout_or_to_a_new_private_file() {
    let directory = Directory::new("key");
    let (code, out, err) = run(directory.path(), &["key", "psk"]);
    assert_eq!((code, err.as_str(), out.len()), (YES, "", 47));
    assert!(out.starts_with("0s") && out.ends_with("=\n"), "{out}");
    assert_eq!(crate::psk::decode(out.trim()).expect("a key").weak, None);
    let (_, out, _) = run(directory.path(), &["key", "psk", "--json"]);
    assert!(out.contains("\"psk\": \"0s"), "{out}");

    let file = directory.path().join("london.psk").display().to_string();
    let (code, out, err) = run(directory.path(), &["key", "psk", "--out", &file]);
    assert_eq!((code, out.as_str()), (YES, ""));
    assert!(err.contains("bring the same file to the other site") && !err.contains("0s"), "{err}");
    let before = std::fs::read(&file).expect("the key");
    let (code, _, err) = run(directory.path(), &["key", "psk", "--out", &file]);
    assert!(code == ERROR && err.contains("is left as it is"), "{err}");
    assert_eq!(std::fs::read(&file).expect("the key"), before);
}

/// A stdout that fails as given.
struct Broken(io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(self.0.into())
    }
}

#[test]
fn a_reader_that_has_gone_is_no_error_but_a_full_disk_is() {
    for (kind, expected, complaint) in [(io::ErrorKind::BrokenPipe, YES, ""), (io::ErrorKind::StorageFull, ERROR, "cannot be written")] {
        for words in [["penstock", "key", "psk"].as_slice(), &["penstock", "check", "/nonexistent"]] {
            let cli = Cli::try_parse_from(words).expect("a good command line");
            let mut err = Vec::new();
            let code = code(&cli, &mut Streams::new(&mut Broken(kind), &mut err, false));
            let err = String::from_utf8(err).expect("UTF-8");
            assert_eq!((code, err.contains(complaint), err.is_empty()), (expected, true, complaint.is_empty()), "{words:?}: {err}");
        }
    }
}

/// A daemon whose peer london gets new keys at the third look: of its pair, of its IKE SA.
fn rekeying(pair: bool, ike: bool) -> impl FnMut(Result<Request, Response>) -> String + Send {
    let mut looks = 0;
    move |request| {
        let Ok(Request { id, command }) = request else { panic!("a good request") };
        if command != Command::Show {
            assert_eq!(command, Command::Rekey { peer: "london".into() });
            return Response::done(id, "london: 1 rekeys begun").to_line();
        }
        looks += 1;
        let changed = |change: bool, old: &str, new: &str| if change && looks > 2 { new.to_owned() } else { old.to_owned() };
        let sa = |spi: String, phase: &str| crate::admin::Sa { inbound_spi: spi, phase: phase.into(), ..crate::admin::Sa::default() };
        let mut state = state();
        let london = state.peers.iter_mut().find(|peer| peer.name == "london").expect("there");
        london.sas =
            vec![sa(changed(pair, "0000aaaa", "0000bbbb"), "active"), sa("0000aaaa".into(), if pair { "draining" } else { "active" })];
        london.ike = Some(crate::admin::Ike { initiator_spi: changed(ike, "1", "2"), ..crate::admin::Ike::default() });
        Response::show(id, state).to_line()
    }
}

#[test]
fn a_rekey_is_done_when_every_key_is_another() {
    for (pair, ike, code, text) in [
        (true, true, YES, "london: 1 pairs and the IKE SA have new keys\n"),
        (false, true, NO, "london: after 1 s 1 pairs still have old keys; it goes on, and the log says why\n"),
        (true, false, NO, "london: after 1 s 0 pairs and the IKE SA still have old keys; it goes on, and the log says why\n"),
    ] {
        let directory = Directory::new(&format!("rekey-{pair}-{ike}"));
        let daemon = directory.daemon(rekeying(pair, ike));
        let answer = run(directory.path(), &["peer", "rekey", "london", "--wait", "1"]);
        assert_eq!(answer, (code, text.to_owned(), String::new()));
        daemon.join().expect("ended");
    }
    let directory = Directory::new("rekey-json");
    let daemon = directory.daemon(rekeying(true, true));
    let (code, out, _) = run(directory.path(), &["peer", "rekey", "london", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &value["ok"], &value["pairs"], &value["pairs_with_old_keys"]), (YES, &true.into(), &1.into(), &0.into()));
    daemon.join().expect("ended");
    let directory = Directory::new("rekey-nobody");
    let daemon = directory.daemon(answering(state()));
    let (code, _, err) = run(directory.path(), &["peer", "rekey", "nobody"]);
    assert!(code == ERROR && err.contains("no peer \"nobody\""), "{err}");
    daemon.join().expect("ended");
}

#[test]
fn apply_says_what_it_did_and_every_mistake_that_kept_it_from_doing_so() {
    let directory = Directory::new("apply");
    let daemon = directory.daemon(|request| {
        let Request { id, command } = request.expect("a request");
        let findings =
            vec!["penstock.toml:8: peer.x.endpiont: unknown key; did you mean endpoint?".to_owned(), "penstock.toml:9: b".to_owned()];
        match command {
            Command::Apply { dry_run: true, confirm: None } => {
                let plan = Some(Box::new(Plan { findings, ..Plan::default() }));
                Response { plan, ..Response::refused(id, ERROR, "nothing is changed: the configuration has 2 mistakes") }.to_line()
            }
            other => panic!("{other:?}"),
        }
    });
    let (code, out, err) = run(directory.path(), &["apply", "--dry-run"]);
    assert_eq!((code, out.as_str()), (ERROR, ""));
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines[0], "penstock: penstock.toml:8: peer.x.endpiont: unknown key; did you mean endpoint?");
    assert_eq!((lines[1], lines[2]), ("penstock: penstock.toml:9: b", "penstock: nothing is changed: the configuration has 2 mistakes"));
    daemon.join().expect("it ends with the command");
}
