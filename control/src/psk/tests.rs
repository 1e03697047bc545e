//! Key files and their notations.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use super::{decode, generate, generate_file, read};

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("penstock-psk-{}-{name}", std::process::id()));
    fs::create_dir_all(&path).expect("a directory");
    path
}

#[test]
fn each_notation_gives_its_octets() {
    for (text, octets) in [
        ("0sAQIDBA==", [1_u8, 2, 3, 4].as_slice()),
        ("0sAQIDBA", &[1, 2, 3, 4]),
        ("0x01fFa0", &[1, 255, 160]),
        ("hello", b"hello"),
        ("with space", b"with space"),
        ("1s2x", b"1s2x"),
    ] {
        assert_eq!(decode(text).expect(text).psk.as_bytes(), octets);
    }
    for (text, part) in [
        ("", "empty"),
        ("0s", "empty"),
        ("0x", "empty"),
        ("0s*", "base64"),
        ("0x123", "hex"),
        ("0xzz", "hex"),
        ("a\nb", "more than one line"),
    ] {
        assert!(decode(text).expect_err(text).contains(part), "{text:?}");
    }
}

#[test]
fn a_key_never_shows_in_debug_output() {
    let judged = decode("hello").expect("a key");
    assert_eq!(format!("{:?}", judged.psk), "Psk(hidden)");
    assert!(!format!("{judged:?}").contains("104"));
}

#[test]
fn a_new_key_has_256_bits_and_is_never_the_same() {
    let (one, two) = (generate().expect("a key"), generate().expect("a key"));
    assert_ne!(*one, *two);
    let judged = decode(&one).expect("a key");
    assert_eq!((judged.psk.as_bytes().len(), judged.weak), (32, None));
}

#[test]
fn a_new_key_file_is_private_and_never_replaces_another() {
    let at = directory("new");
    let path = at.join("london.psk");
    generate_file(&path).expect("a key file");
    assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o7777, 0o600);
    let text = fs::read_to_string(&path).expect("the key");
    assert!(text.starts_with("0s") && text.ends_with("=\n") && text.lines().count() == 1, "{text}");
    assert_eq!(read(&path).expect("the key").psk, decode(text.trim()).expect("the key").psk);

    assert_eq!(generate_file(&path).expect_err("refused").kind(), std::io::ErrorKind::AlreadyExists);
    let link = at.join("link.psk");
    symlink(at.join("elsewhere"), &link).expect("a link");
    assert_eq!(generate_file(&link).expect_err("refused").kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(&path).expect("the key"), text);
    fs::remove_dir_all(at).expect("removed");
}

#[test]
fn key_files_that_are_not_private_or_not_keys_are_refused_with_the_remedy() {
    let at = directory("bad");
    let path = at.join("key");
    let write = |octets: &[u8], mode: u32| {
        let _ = fs::remove_file(&path);
        fs::write(&path, octets).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mode set");
    };
    let key: &[u8] = b"  0sSGVsbG8gSGVsbG8gSGVsbG8gSGVsbG8h\n\n";
    write(key, 0o600);
    assert_eq!(read(&path).expect("a key").psk.as_bytes(), b"Hello Hello Hello Hello!");
    write(key, 0o400);
    assert!(read(&path).is_ok());
    let link = at.join("link");
    symlink(&path, &link).expect("a link");
    assert!(read(&link).is_ok(), "links are followed");

    for (octets, mode, problem, remedy) in [
        (key, 0o640, "open to other users (mode 0640)", "chmod 600"),
        (key, 0o604, "open to other users (mode 0604)", "chmod 600"),
        (key, 0o602, "open to other users (mode 0602)", "chmod 600"),
        (key, 0o620, "open to other users (mode 0620)", "chmod 600"),
        (b"", 0o600, "is empty", "penstock key psk --out"),
        (b" \n\n", 0o600, "is empty", "penstock key psk --out"),
        (b"one\ntwo\n", 0o600, "more than one line", "penstock key psk --out"),
        (b"\xff\xfe\x00", 0o600, "is not text", "0s and base64"),
        (&[b'x'; 4097], 0o600, "4097 bytes", "penstock key psk --out"),
    ] {
        write(octets, mode);
        let fault = read(&path).expect_err(problem);
        assert!(fault.problem.contains(problem) && fault.remedy.contains(remedy), "{fault:?}");
    }
    let fault = read(&at).expect_err("a directory");
    assert!(fault.problem.contains("is not a regular file"), "{fault:?}");
    let fifo = at.join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
    assert!(made.success());
    fs::set_permissions(&fifo, Permissions::from_mode(0o600)).expect("mode set");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(read(&fifo).map(|_| ())));
    let answer = receiver.recv_timeout(std::time::Duration::from_secs(5)).expect("a FIFO without a writer holds nobody up");
    assert!(answer.expect_err("a FIFO").problem.contains("is not a regular file"));
    let fault = read(&at.join("none")).expect_err("missing");
    assert!(
        fault.problem.ends_with("cannot be read (No such file or directory)") && fault.remedy.contains("penstock key psk --out"),
        "{fault:?}"
    );
    fs::remove_dir_all(at).expect("removed");
}
