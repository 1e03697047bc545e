//! One table of a configuration file, read key by key. Whatever is wrong becomes a [`Finding`] with its line, and
//! reading goes on, so that one run names every mistake.

use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::Fault;
use super::{Finding, Place};

/// A file's name and where its lines begin.
pub(super) struct Document {
    /// As the user named it.
    pub(super) file: PathBuf,
    line_starts: Vec<usize>,
}

impl Document {
    pub(super) fn new(file: PathBuf, text: &[u8]) -> Self {
        let after_newlines = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        Self { file, line_starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// The place of the byte at `offset`.
    pub(super) fn place(&self, offset: usize, key: impl Into<String>) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        Place { file: self.file.clone(), line: u32::try_from(line).unwrap_or(u32::MAX), key: key.into() }
    }
}

/// A key that a section may have, and a line that shows its use.
pub(super) type Key = (&'static str, &'static str);

/// A table: `[site]`, `[interface.pen0]`, `[peer.london]`.
pub(super) struct Section<'a> {
    /// Where its header stands; the key is the path to here.
    pub(super) place: Place,
    /// Its own name, the last part of the path.
    pub(super) name: &'a str,
    document: &'a Document,
    entries: &'a DeTable<'a>,
    keys: &'static [Key],
}

impl<'a> Section<'a> {
    /// The root of a file.
    pub(super) fn root(document: &'a Document, entries: &'a DeTable<'a>, keys: &'static [Key]) -> Self {
        Self { place: document.place(0, ""), name: "", document, entries, keys }
    }

    /// Refuses every key that the section does not have, with the one that was probably meant.
    pub(super) fn refuse_unknown(&self, findings: &mut Vec<Finding>) {
        for key in self.entries.keys() {
            let name = key.get_ref().as_ref();
            if !self.keys.iter().any(|(known, _)| *known == name) {
                let remedy = match self.meant(name) {
                    Some(known) => format!("did you mean {known}?"),
                    None => format!("{} knows {}", self.title(), list(self.keys.iter().map(|(known, _)| *known))),
                };
                findings.push(self.document.place(key.span().start, self.path(name)).finding("unknown key", remedy));
            }
        }
    }

    fn meant(&self, name: &str) -> Option<&'static str> {
        let name = name.to_lowercase().replace('-', "_");
        let near = self.keys.iter().map(|(known, _)| (distance(&name, known), *known)).min()?;
        // A third of the letters may be wrong, two at the most; or one is the beginning of the other.
        let close = near.0 <= 2.min(name.chars().count().max(near.1.len()) / 3);
        let begins = self
            .keys
            .iter()
            .map(|(known, _)| *known)
            .find(|known| name.len() >= 3 && (known.starts_with(&name) || name.starts_with(known)));
        if close { Some(near.1) } else { begins }
    }

    fn title(&self) -> String {
        if self.place.key.is_empty() { "this file".into() } else { format!("[{}]", self.place.key) }
    }

    fn path(&self, key: &str) -> String {
        if self.place.key.is_empty() { key.into() } else { format!("{}.{key}", self.place.key) }
    }

    fn entry(&self, key: &str) -> Option<(Place, &'a Spanned<DeValue<'a>>)> {
        let (name, value) = self.entries.get_key_value(key)?;
        Some((self.document.place(name.span().start, self.path(key)), value))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Where `key` stands, or the header of the section if it is left out.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.entry(key).map_or_else(|| self.place.clone(), |(place, _)| place)
    }

    /// Names a key that must be there and is not. A misspelt key was named already and is not missing.
    pub(super) fn require(&self, key: &str, findings: &mut Vec<Finding>) {
        let misspelt = |name: &str| !self.keys.iter().any(|(known, _)| *known == name) && self.meant(name) == Some(key);
        if self.has(key) || self.entries.keys().any(|name| misspelt(name.get_ref())) {
            return;
        }
        let place = Place { key: self.path(key), ..self.place.clone() };
        findings.push(place.finding("missing", format!("add under {}: {}", self.title(), self.example(key))));
    }

    fn example(&self, key: &str) -> &'static str {
        self.keys.iter().find(|(known, _)| *known == key).map_or("", |(_, example)| example)
    }

    /// What stands where something else belongs.
    fn wrong_type(&self, place: &Place, value: &DeValue<'_>, wanted: &str, key: &str) -> Finding {
        let found = match value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        place.finding(format!("{found} stands where {wanted} belongs"), format!("write for example {}", self.example(key)))
    }

    /// A string.
    pub(super) fn string(&self, key: &str, findings: &mut Vec<Finding>) -> Option<(&'a str, Place)> {
        let (place, value) = self.entry(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some((text, place)),
            other => {
                findings.push(self.wrong_type(&place, other, "a string", key));
                None
            }
        }
    }

    /// A string with a syntax of its own.
    pub(super) fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, Fault>, findings: &mut Vec<Finding>) -> Option<T> {
        let (text, place) = self.string(key, findings)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err((problem, remedy)) => {
                findings.push(place.finding(problem, remedy));
                None
            }
        }
    }

    /// An array that is not empty and holds no item twice; each item is given to `item`, which may find fault with it.
    /// Gives the good items also where others are bad, so that those can still be held against other sections.
    fn array<T: PartialEq>(
        &self,
        key: &str,
        wanted: &str,
        item: impl Fn(&DeValue<'a>) -> Option<Result<T, Fault>>,
        findings: &mut Vec<Finding>,
    ) -> Option<Vec<(T, Place)>> {
        let (place, value) = self.entry(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            findings.push(self.wrong_type(&place, value.get_ref(), &format!("an array of {wanted}s"), key));
            return None;
        };
        if items.is_empty() {
            findings.push(place.finding("is empty", format!("write for example {}", self.example(key))));
        }
        let mut good: Vec<(T, Place)> = Vec::with_capacity(items.len());
        for spanned in items.iter() {
            let place = self.document.place(spanned.span().start, self.path(key));
            match item(spanned.get_ref()) {
                Some(Ok(value)) if good.iter().any(|(earlier, _)| *earlier == value) => {
                    findings.push(place.finding("holds the same item twice", "keep one of them"))
                }
                Some(Ok(value)) => good.push((value, place)),
                Some(Err((problem, remedy))) => findings.push(place.finding(problem, remedy)),
                None => findings.push(self.wrong_type(
                    &place,
                    spanned.get_ref(),
                    if wanted == "string" { "a string" } else { "an integer" },
                    key,
                )),
            }
        }
        Some(good)
    }

    /// An array of strings, each with a syntax of its own, none of them twice.
    pub(super) fn parsed_list<T: PartialEq>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, Fault>,
        findings: &mut Vec<Finding>,
    ) -> Option<Vec<(T, Place)>> {
        self.array(key, "string", |value| value.as_str().map(&parse), findings)
    }

    /// An array of integers within `range`, none of them twice.
    pub(super) fn integers(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<i64>,
        findings: &mut Vec<Finding>,
    ) -> Option<Vec<(i64, Place)>> {
        let item = |value: &DeValue<'a>| match value {
            DeValue::Integer(_) => Some(within(value, &range)),
            _ => None,
        };
        self.array(key, "integer", item, findings)
    }

    /// An integer within `range`.
    pub(super) fn integer(&self, key: &str, range: std::ops::RangeInclusive<i64>, findings: &mut Vec<Finding>) -> Option<i64> {
        let (place, value) = self.entry(key)?;
        let DeValue::Integer(_) = value.get_ref() else {
            findings.push(self.wrong_type(&place, value.get_ref(), "an integer", key));
            return None;
        };
        match within(value.get_ref(), &range) {
            Ok(number) => Some(number),
            Err((problem, remedy)) => {
                findings.push(place.finding(problem, remedy));
                None
            }
        }
    }

    /// True or false.
    pub(super) fn boolean(&self, key: &str, findings: &mut Vec<Finding>) -> Option<bool> {
        let (place, value) = self.entry(key)?;
        let found = value.get_ref().as_bool();
        if found.is_none() {
            findings.push(self.wrong_type(&place, value.get_ref(), "true or false", key));
        }
        found
    }

    /// Whether `key` holds an integer: for keys that take a word or a number.
    pub(super) fn is_integer(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|(_, value)| value.get_ref().is_integer())
    }

    /// The table at `key`.
    pub(super) fn table(&self, key: &str, keys: &'static [Key], findings: &mut Vec<Finding>) -> Option<Section<'a>> {
        let (name, value) = self.entries.get_key_value(key)?;
        let place = self.document.place(name.span().start, self.path(key));
        match value.get_ref() {
            DeValue::Table(entries) => Some(Section { place, name: name.get_ref(), document: self.document, entries, keys }),
            other => {
                findings.push(self.wrong_type(&place, other, "a table", key));
                None
            }
        }
    }

    /// Every table in here, as `[peer.NAME]` are in `peer`.
    pub(super) fn tables(&self, keys: &'static [Key], findings: &mut Vec<Finding>) -> Vec<Section<'a>> {
        let (mut sections, mut nameless) = (Vec::new(), false);
        for (name, value) in self.entries {
            let place = self.document.place(name.span().start, self.path(name.get_ref()));
            match value.get_ref() {
                DeValue::Table(entries) => sections.push(Section { place, name: name.get_ref(), document: self.document, entries, keys }),
                // Under a header without a name every key is one of these; the first says it all.
                _ if nameless => {}
                other => {
                    nameless = true;
                    let finding = self.wrong_type(&place, other, "a table", "");
                    findings.push(Finding {
                        remedy: format!("write the header [{}.NAME] with a name of yours above its keys", self.place.key),
                        ..finding
                    });
                }
            }
        }
        sections
    }

    /// The file that a path in this section means: relative to the file that names it.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.document.file.parent().map_or_else(|| PathBuf::from(path), |directory| directory.join(path))
    }
}

fn within(value: &DeValue<'_>, range: &std::ops::RangeInclusive<i64>) -> Result<i64, Fault> {
    let number = value.as_integer().and_then(|integer| i64::from_str_radix(integer.as_str(), integer.radix()).ok());
    number.filter(|number| range.contains(number)).ok_or_else(|| {
        let shown = value.as_integer().map(ToString::to_string).unwrap_or_default();
        (format!("{shown} is out of range"), format!("write a number from {} to {}", range.start(), range.end()))
    })
}

/// `a, b and c`.
pub(super) fn list<'t>(items: impl Iterator<Item = &'t str>) -> String {
    let items: Vec<_> = items.collect();
    match items.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// How many letters must be put in, taken out, changed, or swapped with their neighbour to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    let at = |rows: &[Vec<usize>], i: usize, j: usize| rows.get(i).and_then(|row| row.get(j)).copied().unwrap_or(0);
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let left = row.last().copied().unwrap_or(0) + 1;
            let mut best = left.min(at(&rows, i, j + 1) + 1).min(at(&rows, i, j) + usize::from(x != y));
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                best = best.min(at(&rows, i - 1, j - 1) + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    at(&rows, a.len(), b.len())
}
