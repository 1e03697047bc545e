//! Folders and sockets that are ours alone: made so whatever the umask is, and refused by name where somebody else has put something in their place.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::sys;

/// Read, write and enter, for others than the owner; and write alone.
const OTHERS: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;

fn refused(path: &Path, what: &str) -> io::Error {
    io::Error::other(format!("{} {what}", path.display()))
}

/// Makes a folder that only its owner can enter, with those above it. One that is there must be ours and never have been open to what others write.
///
/// # Errors
/// If it cannot be had, with its name.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    let named = |error: io::Error| refused(path, &format!("cannot be made private ({error})"));
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        // Something else is there, of which more is said below.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(named(error)),
        _ => (),
    }
    let about = fs::symlink_metadata(path).map_err(named)?;
    if about.is_symlink() {
        return Err(refused(path, "is a symbolic link, and is not followed; name the folder itself, or remove the link"));
    }
    if !about.is_dir() {
        return Err(refused(path, "is no folder; remove it"));
    }
    if about.uid() != sys::user() {
        return Err(refused(path, &format!("belongs to user {}; remove it, or name another", about.uid())));
    }
    if about.mode() & OTHERS_WRITE != 0 {
        return Err(refused(
            path,
            &format!("can be written by others (mode {:04o}); see what they put there, then chmod 700", about.mode() & 0o7777),
        ));
    }
    if about.mode() & OTHERS != 0 || about.mode() & 0o700 != 0o700 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(named)?;
    }
    Ok(())
}

/// Whether a socket is there, of a process that runs or ran.
///
/// # Errors
/// If something else is there and in the way, with its name.
pub(crate) fn is_socket(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(refused(path, &format!("cannot be examined ({error})"))),
        Ok(about) if about.file_type().is_socket() => Ok(true),
        Ok(_) => Err(refused(path, "is in the way: it is no socket that an earlier daemon left; remove it")),
    }
}

/// Makes room for a socket: one that an earlier process left goes, anything else stays and is in the way.
///
/// # Errors
/// If something is in the way, with its name.
pub(crate) fn room_for_socket(path: &Path) -> io::Result<()> {
    if !is_socket(path)? {
        return Ok(());
    }
    fs::remove_file(path).map_err(|error| refused(path, &format!("cannot be removed ({error})")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};

    use super::{directory, room_for_socket};

    /// A folder for one test, empty.
    fn place(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("penstock-private-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("a folder");
        folder
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
    }

    #[test]
    fn a_folder_is_private_whoever_made_it() {
        let at = place("modes");
        directory(&at.join("new/below")).expect("made");
        assert_eq!((mode(&at.join("new")), mode(&at.join("new/below"))), (0o700, 0o700));
        for before in [0o755, 0o700, 0o500, 0o000] {
            fs::set_permissions(at.join("new"), fs::Permissions::from_mode(before)).expect("ours");
            directory(&at.join("new")).expect("ours");
            assert_eq!(mode(&at.join("new")), 0o700, "from {before:o}");
        }
        for open in [0o777, 0o1777, 0o770, 0o702] {
            fs::set_permissions(at.join("new"), fs::Permissions::from_mode(open)).expect("ours");
            let error = directory(&at.join("new")).expect_err("others may have written there").to_string();
            assert!(error.contains("/new can be written by others"), "{error}");
            assert_eq!(mode(&at.join("new")), open, "nothing is changed");
        }
        fs::remove_dir_all(at).expect("ours");
    }

    #[test]
    fn what_stands_in_the_place_of_a_folder_is_refused_by_name() {
        let at = place("folders");
        let (path, other) = (at.join("run"), at.join("other"));
        fs::create_dir(&other).expect("a folder");
        symlink(&other, &path).expect("a link");
        let error = directory(&path).expect_err("a link").to_string();
        assert!(error.contains("/run is a symbolic link"), "{error}");
        fs::remove_file(&path).expect("ours");
        symlink(at.join("nothing"), &path).expect("a link");
        let error = directory(&path).expect_err("a link that leads nowhere").to_string();
        assert!(error.contains("/run"), "{error}");
        assert!(!at.join("nothing").exists());
        fs::remove_file(&path).expect("ours");
        fs::write(&path, "").expect("a file");
        let error = directory(&path).expect_err("a file").to_string();
        assert!(error.contains("/run is no folder"), "{error}");
        fs::remove_dir_all(at).expect("ours");
    }

    #[test]
    fn only_a_socket_makes_room_for_a_socket() {
        let at = place("sockets");
        let (path, other) = (at.join("a.sock"), at.join("other"));
        room_for_socket(&path).expect("nothing is there");
        drop(UnixListener::bind(&path).expect("a socket"));
        room_for_socket(&path).expect("it goes");
        assert!(!path.exists());
        fs::write(&other, "precious").expect("a file");
        let planted: [(&str, &dyn Fn()); 5] = [
            ("a symbolic link", &|| symlink(&other, &path).expect("a link")),
            ("a link that leads nowhere", &|| symlink(at.join("nothing"), &path).expect("a link")),
            ("a hard link", &|| fs::hard_link(&other, &path).expect("a link")),
            ("a FIFO", &|| assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success())),
            ("a file", &|| fs::write(&path, "").expect("a file")),
        ];
        for (what, plant) in planted {
            plant();
            let error = room_for_socket(&path).expect_err(what).to_string();
            assert!(error.contains("/a.sock is in the way"), "{what}: {error}");
            fs::remove_file(&path).expect("it is still there");
        }
        assert_eq!(fs::read_to_string(&other).expect("untouched"), "precious");
        fs::remove_dir_all(at).expect("ours");
    }
}
