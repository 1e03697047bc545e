//! Pre-shared keys: how they are made, written down, read, and judged.
//!
//! A PSK only authenticates a fresh key exchange, but whoever guesses it can pretend to be the peer, and an attacker
//! who answered one handshake can test guesses at home. So a key that could be guessed is refused unless the
//! configuration insists ([`strength`] has the rule).
//!
//! The notation is one that other IKE daemons read too: `0s` and base64, `0x` and hex, or else the text itself.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

pub use strength::Form;

pub mod strength;

/// The octets of a new key: 256 bits, so that nothing else on the way is stronger.
const OCTETS: usize = 32;

/// The most bytes of a key file; a longer one is some other file.
const FILE_BYTES_MAX: u64 = 4096;

/// Standard base64, with or without its padding.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// The octets of a pre-shared key. Wiped when dropped; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk(Zeroizing<Vec<u8>>);

impl Psk {
    /// The octets for the AUTH payload's prf (RFC 7296 section 2.15).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Psk {
    fn from(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(hidden)")
    }
}

/// A key that was read, and what is to be said about it.
#[derive(Debug)]
pub struct Judged {
    /// The key.
    pub psk: Psk,
    /// Why it could be guessed; `None`: strong.
    pub weak: Option<String>,
}

/// What is wrong with a key file, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The cause.
    pub problem: String,
    /// The remedy.
    pub remedy: String,
}

fn fault(problem: impl Into<String>, remedy: impl Into<String>) -> Fault {
    Fault { problem: problem.into(), remedy: remedy.into() }
}

/// Reads a key file. A symbolic link is followed (secret stores hand out links); what it leads to must be a regular
/// file that only its owner can read.
///
/// # Errors
/// What is wrong with the file or the notation. A weak key is no error here: the configuration decides.
pub fn read(path: &Path) -> Result<Judged, Fault> {
    let name = path.display();
    let make = || format!("make one with: penstock key psk --out {name}");
    // Without O_NONBLOCK a FIFO would hold up the daemon's start.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => make(),
            _ => format!("let the user who runs penstockd read it: chown and chmod 600 {name}"),
        };
        fault(format!("{name} cannot be read ({})", plain(&error)), remedy)
    })?;
    let about = file.metadata().map_err(|error| fault(format!("{name} cannot be examined ({})", plain(&error)), "use a regular file"))?;
    if !about.is_file() {
        return Err(fault(format!("{name} is not a regular file"), make()));
    }
    if about.mode() & 0o077 != 0 {
        return Err(fault(
            format!("{name} is open to other users (mode {:04o})", about.mode() & 0o7777),
            format!("run: chmod 600 {name}, and make a new key if others may have read it"),
        ));
    }
    if about.len() > FILE_BYTES_MAX {
        return Err(fault(format!("{name} has {} bytes and cannot be a key", about.len()), make()));
    }
    let mut octets = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
    (&mut file)
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut octets)
        .map_err(|error| fault(format!("{name} cannot be read ({})", plain(&error)), make()))?;
    let text = std::str::from_utf8(&octets)
        .map_err(|_| fault(format!("{name} is not text"), "write the key as 0s and base64, as 0x and hex, or as text"))?;
    decode(text.trim()).map_err(|problem| fault(format!("{name} {problem}"), make()))
}

/// Reads the notation of a key.
///
/// # Errors
/// What is wrong with it, to follow the name of its file.
pub fn decode(text: &str) -> Result<Judged, &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.contains(['\n', '\r']) {
        return Err("holds more than one line");
    }
    let (octets, form) = if let Some(base64) = text.strip_prefix("0s") {
        (BASE64.decode(base64).map_err(|_| "begins with 0s, but no base64 follows")?, Form::Octets)
    } else if let Some(hex) = text.strip_prefix("0x") {
        (decode_hex(hex).ok_or("begins with 0x, but no pairs of hex digits follow")?, Form::Octets)
    } else {
        (text.as_bytes().to_vec(), Form::Text)
    };
    let psk = Psk::from(octets);
    if psk.as_bytes().is_empty() {
        return Err("is empty");
    }
    let weak = strength::weakness(psk.as_bytes(), form);
    Ok(Judged { psk, weak })
}

/// Makes a new key and writes it down, without a newline.
///
/// # Errors
/// If the system has no randomness to give.
pub fn generate() -> io::Result<Zeroizing<String>> {
    let mut octets = Zeroizing::new([0_u8; OCTETS]);
    SystemRandom::new().fill(octets.as_mut_slice()).map_err(|_| io::Error::other("the system has no randomness to give"))?;
    let mut text = Zeroizing::new(String::with_capacity(2 + OCTETS.div_ceil(3) * 4));
    text.push_str("0s");
    base64::engine::general_purpose::STANDARD.encode_string(octets.as_slice(), &mut text);
    Ok(text)
}

/// Makes a new key in a new file that only its owner can read. A file that is there stays as it is.
///
/// # Errors
/// If the file exists or cannot be written; then nothing of it is left behind.
pub fn generate_file(path: &Path) -> io::Result<()> {
    let text = generate()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // Whatever the umask is.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all());
    written.inspect_err(|_| {
        // Best effort: the error that is reported is the one of the write.
        let _ = std::fs::remove_file(path);
    })
}

/// An error of the system without its number: `No such file or directory`.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// Decodes pairs of hex digits; `None` where something else stands between, or one digit is left over.
pub(crate) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut octets = Vec::with_capacity(text.len() / 2);
    for pair in text.as_bytes().chunks(2) {
        let [high, low] = pair else { return None };
        octets.push(digit(*high)? << 4 | digit(*low)?);
    }
    Some(octets)
}

#[cfg(test)]
mod tests;
