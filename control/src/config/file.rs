//! Reading the files: `penstock.toml`, then `peers.d/*.toml` beside it in the order of their names.

use std::fs;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::local::{INTERFACE_KEYS, SITE_KEYS};
use super::peer::{Here, KEYS as PEER_KEYS};
use super::section::{Document, Key, Section};
use super::{Config, Finding, Place, Texts, cross, local, peer};
use crate::psk::plain;

const MAIN_KEYS: &[Key] = &[("site", "[site]"), ("interface", "[interface.pen0]"), ("peer", "[peer.london]")];
const PEERS_KEYS: &[Key] = &[("peer", "[peer.london]")];

/// The most bytes of one file.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// One file, read.
struct Source {
    document: Document,
    text: String,
}

/// As [`Config::load_with_texts`].
pub(super) fn load(path: &Path) -> Result<(Config, Texts), Vec<Finding>> {
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    let files: Vec<PathBuf> = std::iter::once(path.to_owned()).chain(peers_files(path, &mut findings)).collect();
    for file in &files {
        match read(file) {
            Ok(source) => sources.push(source),
            Err(finding) => findings.push(finding),
        }
    }
    let config = check(path, &files, &sources, findings)?;
    Ok((config, Texts(sources.into_iter().map(|source| (source.document.file, source.text)).collect())))
}

/// As [`Config::of`].
pub(super) fn of(path: &Path, Texts(texts): &Texts) -> Result<Config, Vec<Finding>> {
    let files: Vec<PathBuf> = texts.iter().map(|(file, _)| file.clone()).collect();
    let source = |(file, text): &(PathBuf, String)| Source { document: Document::new(file.clone(), text.as_bytes()), text: text.clone() };
    check(path, &files, &texts.iter().map(source).collect::<Vec<_>>(), Vec::new())
}

/// The whole configuration, or every mistake: those of `files`, in this order.
fn check(path: &Path, files: &[PathBuf], sources: &[Source], mut findings: Vec<Finding>) -> Result<Config, Vec<Finding>> {
    let loaded = walk(path, sources, &mut findings);
    findings.sort_by_cached_key(|finding| (files.iter().position(|file| *file == finding.place.file), finding.clone()));
    findings.dedup();
    match loaded {
        Some(config) if findings.is_empty() => Ok(config),
        _ => Err(findings),
    }
}

fn peers_files(path: &Path, findings: &mut Vec<Finding>) -> Vec<PathBuf> {
    let directory = path.parent().map_or_else(|| PathBuf::from("peers.d"), |parent| parent.join("peers.d"));
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let place = Place { file: directory, line: 0, key: String::new() };
            findings.push(place.finding(format!("cannot be listed ({})", plain(&error)), "make it a directory that penstockd may read"));
            return Vec::new();
        }
    };
    let hidden = |file: &Path| file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml") && !hidden(file));
    files.sort();
    files
}

fn read(file: &Path) -> Result<Source, Finding> {
    let here = Place { file: file.to_owned(), line: 0, key: String::new() };
    let cannot = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => "write it as docs/configuration.md shows, or name another file",
            _ => "let the user who runs penstockd read it",
        };
        here.finding(format!("cannot be read ({})", plain(&error)), remedy)
    };
    let about = fs::metadata(file).map_err(cannot)?;
    if !about.is_file() || about.len() > FILE_BYTES_MAX {
        return Err(here.finding("is not a regular file of at most 16 MiB", "name a TOML file"));
    }
    let octets = fs::read(file).map_err(cannot)?;
    let document = Document::new(file.to_owned(), &octets);
    match String::from_utf8(octets) {
        Ok(text) => Ok(Source { document, text }),
        Err(error) => Err(document.place(error.utf8_error().valid_up_to(), "syntax").finding("is not UTF-8", "save the file as UTF-8")),
    }
}

/// Reads every section of every file; the first source is `path` unless that could not be read.
fn walk(path: &Path, sources: &[Source], findings: &mut Vec<Finding>) -> Option<Config> {
    let trees: Vec<(&Source, Option<DeTable<'_>>)> = sources.iter().map(|source| (source, parse(source, findings))).collect();
    let (mut site, mut interface, mut warnings) = (None, None, Vec::new());
    let root = |source: &'_ Source| source.document.file == path;
    if let Some((source, Some(tree))) = trees.first().filter(|(source, _)| root(source)) {
        let section = Section::root(&source.document, tree, MAIN_KEYS);
        section.refuse_unknown(findings);
        site = read_site(&section, findings);
        interface = read_interface(&section, findings);
    }
    let here = Here { site: site.as_ref(), interface: interface.as_ref() };
    let (mut peers, mut meetings, mut places) = (Vec::new(), Vec::new(), Vec::<(String, Place)>::new());
    for (source, tree) in &trees {
        let Some(tree) = tree else { continue };
        let section = Section::root(&source.document, tree, if root(source) { MAIN_KEYS } else { PEERS_KEYS });
        if !root(source) {
            refuse_others(&section, findings);
        }
        let Some(table) = section.table("peer", &[], findings) else { continue };
        for section in table.tables(PEER_KEYS, findings) {
            if let Some((_, first)) = places.iter().find(|(name, _)| name == section.name) {
                let problem = format!("peer {} stands in {}:{} already", section.name, first.file.display(), first.line);
                findings.push(section.place.finding(problem, "rename or remove one of them"));
            }
            places.push((section.name.to_owned(), section.place.clone()));
            let (meeting, peer) = peer::peer(&section, &here, findings, &mut warnings);
            meetings.push(meeting);
            peers.extend(peer);
        }
    }
    meetings.sort_by(|a, b| a.name.cmp(&b.name));
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    let notes = cross::check(interface.as_ref(), &meetings, findings);
    if meetings.is_empty() {
        let place = Place { file: path.to_owned(), line: 0, key: "peer".into() };
        warnings.push(place.finding("no peer is configured", "add [peer.NAME] here or in a file in peers.d"));
    }
    warnings.sort();
    Some(Config { site: site?, interface: interface?, peers, warnings, notes })
}

fn read_site(root: &Section<'_>, findings: &mut Vec<Finding>) -> Option<super::Site> {
    if !root.has("site") {
        let place = Place { key: "site".into(), ..root.place.clone() };
        findings.push(place.finding("missing", "add: [site], and under it: name = \"frankfurt\""));
        return None;
    }
    local::site(&root.table("site", SITE_KEYS, findings)?, findings)
}

fn read_interface(root: &Section<'_>, findings: &mut Vec<Finding>) -> Option<super::Interface> {
    let place = Place { key: "interface".into(), ..root.place_of("interface") };
    let missing = place.finding("missing", "add: [interface.pen0], and under it: address = [\"192.168.192.1/30\"]");
    if !root.has("interface") {
        findings.push(missing);
        return None;
    }
    let before = findings.len();
    let sections = root.table("interface", &[], findings)?.tables(INTERFACE_KEYS, findings);
    let Some((first, rest)) = sections.split_first() else {
        if findings.len() == before {
            findings.push(missing);
        }
        return None;
    };
    for further in rest {
        findings.push(further.place.finding(format!("a second interface beside {}", first.name), "keep one; a daemon has one interface"));
    }
    let read: Vec<_> = sections.iter().map(|section| local::interface(section, findings)).collect();
    read.into_iter().next().flatten()
}

/// What does not belong into a file in `peers.d`.
fn refuse_others(root: &Section<'_>, findings: &mut Vec<Finding>) {
    root.refuse_unknown(findings);
    let elsewhere = ["site", "interface"].map(|key| root.place_of(key)).into_iter().filter(|place| !place.key.is_empty());
    for place in elsewhere {
        findings.retain(|finding| finding.place != place);
        findings.push(place.finding("does not belong into peers.d", "move it to penstock.toml, files in peers.d hold [peer.NAME] only"));
    }
}

/// Reads the TOML. A file with mistakes of syntax is not looked into any further, because what its lines mean is
/// uncertain then.
fn parse<'a>(source: &'a Source, findings: &mut Vec<Finding>) -> Option<DeTable<'a>> {
    let (tree, errors) = DeTable::parse_recoverable(&source.text);
    if errors.is_empty() {
        return Some(tree.into_inner());
    }
    let mut errors: Vec<(usize, &str)> = errors.iter().map(|error| (error.span().map_or(0, |span| span.start), error.message())).collect();
    errors.sort_unstable();
    let mut last = None;
    for (offset, message) in errors {
        let place = source.document.place(offset, nearest_key(&source.text, offset));
        // One slip often makes the parser stumble several times in its line.
        if last != Some(place.line) {
            last = Some(place.line);
            let (problem, remedy) = explain(message);
            findings.push(place.finding(problem, remedy));
        }
    }
    None
}

/// The parser's words, in ours where they would mislead: it takes `name = frankfurt` for a misspelt `false`.
fn explain(message: &str) -> (&str, &'static str) {
    let remedy = match message {
        m if m.contains("must be quoted") || m.contains("invalid boolean") => return ("text without quotes", "put it in double quotes"),
        m if m.contains("duplicate key") => "keep one of them",
        m if m.contains("basic string") || m.contains("literal string") => "close the text with the quote that opened it",
        m if m.contains("table") => "write a header as [site], [interface.pen0] or [peer.london]",
        m if m.contains("array") => "write an array as [\"one\", \"two\"]",
        m if m.contains("key with no value") => "write a setting as key = value",
        _ => "correct the line: key = value, text in double quotes",
    };
    (message.strip_suffix(", expected nothing").unwrap_or(message), remedy)
}

/// The dotted key of the line at `offset`, as far as a line can tell: the last header above and the key on it.
fn nearest_key(text: &str, offset: usize) -> String {
    let start = text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let line = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let is_key = |key: &&str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-\"".contains(&b));
    let header = |line: &str| {
        let inner = line.trim().strip_prefix('[')?;
        Some(inner.split([']', '#']).next()?.trim().to_owned()).filter(|name| is_key(&name.as_str()))
    };
    if let Some(name) = header(line) {
        return name;
    }
    let above = text.get(..start).and_then(|above| above.lines().rev().find_map(header));
    let key = line.split_once('=').map(|(key, _)| key.trim()).filter(is_key);
    match (above, key) {
        (Some(header), Some(key)) => format!("{header}.{key}"),
        (None, Some(key)) => key.to_owned(),
        (Some(header), None) => header,
        (None, None) => "syntax".into(),
    }
}
