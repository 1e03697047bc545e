//! The notation of `swanctl --raw`: `name {key=value list=[a b] inner {…}}`, one event a line.

use anyhow::{Result, bail};

/// A section with its values, lists and sections inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    values: Vec<(String, String)>,
    sections: Vec<(String, Section)>,
}

impl Section {
    /// Reads all events of a command's output into one section.
    ///
    /// # Errors
    /// If braces do not match.
    pub fn parse(text: &str) -> Result<Self> {
        let mut words = Words { rest: text };
        let all = Self::read(&mut words)?;
        if words.next().is_some() { bail!("one brace too many: {text}") } else { Ok(all) }
    }

    fn read(words: &mut Words<'_>) -> Result<Self> {
        let mut this = Self::default();
        // `list-sa event {`: the last word before a brace is the name, those before it say nothing.
        let mut name = String::new();
        loop {
            let behind = *words;
            match words.next() {
                None => break,
                Some("{") => {
                    let inner = Self::read(words)?;
                    if words.next() != Some("}") {
                        bail!("section {name} does not end");
                    }
                    this.sections.push((std::mem::take(&mut name), inner));
                }
                Some("}") => {
                    // It belongs to whoever opened the section.
                    *words = behind;
                    break;
                }
                Some(word) => match word.split_once('=') {
                    Some((key, value)) => this.values.push((key.into(), value.trim_matches(['[', ']']).into())),
                    None => name = word.into(),
                },
            }
        }
        Ok(this)
    }

    /// A value, or a list as words with spaces between; empty if it is not there.
    #[must_use]
    pub fn value(&self, key: &str) -> &str {
        self.values.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    /// A number; 0 if there is none.
    #[must_use]
    pub fn number(&self, key: &str) -> u64 {
        self.value(key).parse().unwrap_or_default()
    }

    /// The sections inside, in order.
    pub fn sections(&self) -> impl Iterator<Item = &Self> {
        self.sections.iter().map(|(_, section)| section)
    }

    /// Every section of this name, at any depth.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&Self> {
        let here = self.sections.iter().filter(|(is, _)| is == name).map(|(_, section)| section);
        here.chain(self.sections().flat_map(|section| section.all(name))).collect()
    }
}

/// Words, braces by themselves, and lists whole.
#[derive(Clone, Copy)]
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start();
        let mut in_list = false;
        let end = rest.find(|letter: char| {
            in_list = (in_list || letter == '[') && letter != ']';
            !in_list && (letter.is_whitespace() || letter == '{' || letter == '}')
        });
        let end = match end.unwrap_or(rest.len()) {
            0 if rest.is_empty() => return None,
            0 => 1,
            end => end,
        };
        let (word, rest) = rest.split_at(end);
        self.rest = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::Section;

    #[test]
    fn events_are_read_with_their_children_and_lists() {
        let text = "list-sa event {site {uniqueid=1 state=ESTABLISHED child-sas {net-1 {name=net state=INSTALLED spi-in=c0 \
                    local-ts=[10.0.0.0/24 fd00::/64] remote-ts=[10.1.0.0/24]} two-2 {name=two state=REKEYED}}}}\nlist-sas reply {}\n";
        let all = Section::parse(text).expect("well formed");
        let children = all.all("child-sas");
        let [net, two] = children[0].sections().collect::<Vec<_>>()[..] else { panic!("two children in {children:?}") };
        assert_eq!((net.value("name"), net.value("local-ts")), ("net", "10.0.0.0/24 fd00::/64"));
        assert_eq!((two.value("state"), two.value("local-ts")), ("REKEYED", ""));
        assert_eq!(all.all("site")[0].number("uniqueid"), 1);
    }

    #[test]
    fn braces_must_match() {
        assert!(Section::parse("a {b=1").is_err());
        assert!(Section::parse("a {b=1}}").is_err());
    }
}
