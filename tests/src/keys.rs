//! Finds AES-256 keys in the memory of running processes: not by asking for them, but by their expanded form, which nothing else
//! looks like (FIPS 197 section 5.2); and looks for given keys in memory and files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// An AES-256 key.
pub type Key = [u8; 32];

/// An expanded AES-256 key: 15 round keys.
const SCHEDULE_BYTES: usize = 240;

/// How much memory is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The S-box, by its definition: the inverse in GF(2^8), and an affine map (FIPS 197 section 5.1.1).
fn s_box() -> [u8; 256] {
    let double = |x: u8| (x << 1) ^ if x & 0x80 == 0 { 0 } else { 0x1b };
    let (mut table, mut power, mut inverse) = ([0; 256], 1_u8, 1_u8);
    loop {
        // 3 generates the field; 0xf6 is its inverse.
        power ^= double(power);
        inverse ^= inverse << 1;
        inverse ^= inverse << 2;
        inverse ^= inverse << 4;
        inverse ^= if inverse & 0x80 == 0 { 0 } else { 0x09 };
        let turned = (1..5).fold(inverse, |sum, bits| sum ^ inverse.rotate_left(bits));
        table[usize::from(power)] = turned ^ 0x63;
        if power == 1 {
            break;
        }
    }
    table[0] = 0x63;
    table
}

/// Tells expanded keys from everything else.
struct Scanner {
    s_box: [u8; 256],
}

impl Scanner {
    /// The key whose expanded form begins here.
    fn key_at(&self, memory: &[u8]) -> Option<Key> {
        let word = |at: usize| -> [u8; 4] { std::array::from_fn(|byte| memory[4 * at + byte]) };
        let mut round = 1_u8;
        for at in 8..SCHEDULE_BYTES / 4 {
            let [a, b, c, d] = word(at - 1);
            let before = match at % 8 {
                0 => {
                    let [x, y, z, w] = [b, c, d, a].map(|byte| self.s_box[usize::from(byte)]);
                    let turned = [x ^ round, y, z, w];
                    round <<= 1;
                    turned
                }
                4 => [a, b, c, d].map(|byte| self.s_box[usize::from(byte)]),
                _ => [a, b, c, d],
            };
            let (now, old) = (word(at), word(at - 8));
            if (0..4).any(|byte| now[byte] != old[byte] ^ before[byte]) {
                return None;
            }
        }
        memory[..32].try_into().ok()
    }

    fn keys(&self, memory: &[u8]) -> BTreeSet<Key> {
        let starts = (0..memory.len().saturating_sub(SCHEDULE_BYTES - 1)).step_by(4);
        starts.filter_map(|start| self.key_at(&memory[start..start + SCHEDULE_BYTES])).collect()
    }
}

/// Reads all that a process can write, a piece at a time; pieces overlap, so that nothing is cut.
fn each_piece(pid: u32, mut take: impl FnMut(&[u8], &str)) -> io::Result<()> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut buffer = vec![0; CHUNK_BYTES + SCHEDULE_BYTES];
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { continue };
        let ends = range.split_once('-').map(|(start, end)| (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)));
        let Some((Ok(start), Ok(end))) = ends.filter(|_| rights.starts_with("rw")) else { continue };
        let name = fields.nth(3).unwrap_or("heap");
        let mut at = start;
        while at < end {
            let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            // A device's memory cannot be read; it holds no key of ours.
            let Ok(read) = memory.read_at(&mut buffer[..wanted], at) else { break };
            if read == 0 {
                break;
            }
            if buffer[..read].iter().any(|byte| *byte != 0) {
                take(&buffer[..read], name);
            }
            at += read.min(CHUNK_BYTES) as u64;
        }
    }
    Ok(())
}

/// Every AES-256 key that this process has expanded.
///
/// # Errors
/// If its memory may not be read.
pub fn expanded(pid: u32) -> io::Result<BTreeSet<Key>> {
    let scanner = Scanner { s_box: s_box() };
    let mut found = BTreeSet::new();
    each_piece(pid, |piece, _| found.extend(scanner.keys(piece)))?;
    Ok(found)
}

/// Which of these keys stand here, whole or one half of them.
fn those_in(keys: &BTreeSet<Key>, bytes: &[u8], found: &mut BTreeSet<Key>) {
    let halves: Vec<(&[u8], &Key)> = keys.iter().flat_map(|key| key.chunks(16).map(move |half| (half, key))).collect();
    let mut begins = vec![false; 1 << 16];
    let two = |bytes: &[u8]| usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    halves.iter().for_each(|(half, _)| begins[two(half)] = true);
    for window in bytes.windows(16).filter(|window| begins[two(window)]) {
        found.extend(halves.iter().filter(|(half, _)| *half == window).map(|(_, key)| **key));
    }
}

/// Which of these keys stand anywhere in the memory of a process, expanded or not, and in what part of it.
///
/// # Errors
/// If it may not be read.
pub fn in_memory(pid: u32, keys: &BTreeSet<Key>) -> io::Result<BTreeMap<Key, String>> {
    let mut all = BTreeMap::new();
    each_piece(pid, |piece, name| {
        let mut found = BTreeSet::new();
        those_in(keys, piece, &mut found);
        all.extend(found.into_iter().map(|key| (key, name.to_owned())));
    })?;
    Ok(all)
}

/// Which of these keys stand in the files of a folder and those below it.
///
/// # Errors
/// If one cannot be read.
pub fn in_files(folder: &Path, keys: &BTreeSet<Key>) -> io::Result<BTreeSet<Key>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            found.extend(in_files(&path, keys)?);
        } else if kind.is_file() {
            those_in(keys, &fs::read(&path)?, &mut found);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{SCHEDULE_BYTES, Scanner, s_box, those_in};

    /// The key of FIPS 197 appendix A.3, and the last round key of its expansion there.
    const KEY: &str = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
    const LAST: &str = "fe4890d1e6188d0b046df344706c631e";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
    }

    fn expand(key: &[u8]) -> Vec<u8> {
        let (table, mut all, mut round) = (s_box(), key.to_vec(), 1);
        for at in 8..SCHEDULE_BYTES / 4 {
            let mut word: [u8; 4] = all[all.len() - 4..].try_into().expect("four");
            if at % 8 == 0 {
                word.rotate_left(1);
            }
            if at % 4 == 0 {
                word = word.map(|byte| table[usize::from(byte)]);
            }
            if at % 8 == 0 {
                word[0] ^= round;
                round <<= 1;
            }
            let old: Vec<u8> = all[4 * (at - 8)..4 * (at - 7)].to_vec();
            all.extend(word.iter().zip(old).map(|(new, old)| new ^ old));
        }
        all
    }

    #[test]
    fn an_expanded_key_is_found_among_other_memory_and_one_flipped_bit_hides_it() {
        let schedule = expand(&bytes(KEY));
        assert_eq!(schedule[SCHEDULE_BYTES - 16..], bytes(LAST));
        let mut memory = vec![0x5a; 1000];
        memory[400..400 + SCHEDULE_BYTES].copy_from_slice(&schedule);
        let scanner = Scanner { s_box: s_box() };
        assert_eq!(scanner.keys(&memory).into_iter().collect::<Vec<_>>(), [bytes(KEY).as_slice()]);
        memory[600] ^= 1;
        assert!(scanner.keys(&memory).is_empty() && scanner.keys(&[0; 1000]).is_empty());
    }

    #[test]
    fn half_a_key_at_any_place_is_found() {
        let key: super::Key = bytes(KEY).try_into().expect("32 bytes");
        let mut memory = vec![7; 333];
        memory[101..117].copy_from_slice(&key[16..]);
        let mut found = Default::default();
        those_in(&[key, [9; 32]].into(), &memory, &mut found);
        assert_eq!(found, [key].into());
    }
}
