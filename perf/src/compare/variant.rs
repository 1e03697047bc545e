//! Penstock in a form of its own: what its name in a run says. One run can hold many forms beside each other, so that a
//! switch's effect is measured in the same minutes with it and without it.

use std::fmt::Write;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{PROGRAMS, allowed_processors};

/// How long a polling worker polls: longer than any gap between the packets of a busy flow.
const POLL_US: u32 = 1000;
/// The most prefixes that one peer of a configuration may have.
const PREFIXES_PER_PEER: usize = 128;

/// A form of Penstock. The default is the one that every other subject is held against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variant {
    /// Workers a site beyond the first.
    pub more_workers: usize,
    /// Whether workers poll for 200 us before they sleep (`poll_us`).
    pub polling: bool,
    /// Plain system calls instead of rings.
    pub plain_calls: bool,
    /// What else `penstockd --without` is given.
    pub without: Vec<String>,
    /// Whether the left site sends as a kernel's own ESP does: one datagram a send, without a UDP checksum.
    pub unsummed: bool,
    /// Peers that are configured beside the one in use and closed by order (`penstock down`), so without an SA.
    pub peers: usize,
    /// The same, but the other site answers for each of them: every one has an IKE SA and a pair of SAs that carry nothing.
    pub peers_up: usize,
    /// Prefixes beside the one in use, 128 to a peer that is closed by order.
    pub prefixes: usize,
    /// Seconds between two rekeys of each child SA; 0: as by default.
    pub rekey_seconds: usize,
    /// Another build than the one beside this program.
    pub build: Option<Build>,
}

/// Programs of a site that stand in a folder of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// What tables call it.
    pub name: String,
    /// Where `penstockd`, `penstock-engine` and `penstock` are.
    pub folder: PathBuf,
}

impl FromStr for Build {
    type Err = anyhow::Error;

    /// From `NAME=FOLDER`.
    fn from_str(text: &str) -> Result<Self> {
        let (name, folder) = text.split_once('=').context("give NAME=FOLDER")?;
        let good = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter));
        ensure!(good, "{name:?} is no name: letters, digits, '-', '_' and '.'");
        let folder = PathBuf::from(folder);
        for program in PROGRAMS {
            ensure!(folder.join(program).is_file(), "there is no {program} in {}", folder.display());
        }
        Ok(Self { name: name.to_owned(), folder })
    }
}

impl Variant {
    /// From its name: `penstock`, and behind it any of `-N` (workers), `-poll`, `-plain-calls`, `-unsummed`, `-rekey-N`, `-peers-N`,
    /// `-peers-up-N`, `-prefixes-N`, and at the end `-without-FEATURE+FEATURE`. `None` if the name is no Penstock's.
    ///
    /// # Errors
    /// If it goes on in a way that means nothing.
    pub fn parse(name: &str) -> Option<Result<Self>> {
        let rest = name.strip_prefix("penstock")?;
        let inside = rest.is_empty() || rest.starts_with('-');
        inside.then(|| Self::default().parsed(rest).with_context(|| format!("{name} is no form of penstock")))
    }

    fn parsed(mut self, mut rest: &str) -> Result<Self> {
        while let Some(part) = rest.strip_prefix('-') {
            if let Some(features) = part.strip_prefix("without-") {
                self.without = features.split('+').map(str::to_owned).collect();
                rest = "";
            } else if let Some(more) = part.strip_prefix("poll") {
                (self.polling, rest) = (true, more);
            } else if let Some(more) = part.strip_prefix("plain-calls") {
                (self.plain_calls, rest) = (true, more);
            } else if let Some(more) = part.strip_prefix("unsummed") {
                (self.unsummed, rest) = (true, more);
            } else if let Some(more) = part.strip_prefix("rekey-") {
                (self.rekey_seconds, rest) = number(more)?;
                ensure!((1..=3600).contains(&self.rekey_seconds), "give 1 to 3600 seconds");
            } else if let Some(more) = part.strip_prefix("peers-up-") {
                (self.peers_up, rest) = number(more)?;
            } else if let Some(more) = part.strip_prefix("peers-") {
                (self.peers, rest) = number(more)?;
            } else if let Some(more) = part.strip_prefix("prefixes-") {
                (self.prefixes, rest) = number(more)?;
            } else {
                let (workers, more) = number(part)?;
                ensure!((2..=256).contains(&workers), "give 2 to 256 workers");
                (self.more_workers, rest) = (workers - 1, more);
            }
        }
        ensure!(rest.is_empty(), "{rest:?} means nothing");
        Ok(self)
    }

    /// What tables call it.
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = String::from("penstock");
        let mut numbered = |part: &str, count: usize| {
            if count > 0 {
                let _ = write!(name, "-{part}{count}"); // a String takes anything
            }
        };
        numbered("", self.more_workers + usize::from(self.more_workers > 0));
        numbered("rekey-", self.rekey_seconds);
        numbered("peers-", self.peers);
        numbered("peers-up-", self.peers_up);
        numbered("prefixes-", self.prefixes);
        for (is, word) in [(self.polling, "-poll"), (self.plain_calls, "-plain-calls"), (self.unsummed, "-unsummed")] {
            name += if is { word } else { "" };
        }
        if !self.without.is_empty() {
            name = format!("{name}-without-{}", self.without.join("+"));
        }
        if let Some(build) = &self.build {
            name = format!("{name}@{}", build.name);
        }
        name
    }

    /// What it differs in, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let workers = self.more_workers + 1;
        let mut words = Vec::new();
        words.extend(self.build.as_ref().map(|build| format!("build {}", build.name)));
        words.push(format!("{workers} worker{} a site", if workers == 1 { "" } else { "s" }));
        if self.polling {
            words.push(format!("polling for {POLL_US} us"));
        }
        if self.rekey_seconds > 0 {
            words.push(format!("child SAs rekeyed every {} s", self.rekey_seconds));
        }
        let without = self.masked();
        if !without.is_empty() {
            words.push(format!("without {}", without.join(", ")));
        }
        if self.unsummed {
            words.push("left to right without UDP checksums, one datagram a send".into());
        }
        let idle = [(self.peers, "idle peers without an SA"), (self.peers_up, "idle peers with SAs"), (self.prefixes, "idle prefixes")];
        words.extend(idle.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what} on each site")));
        words.join(", ")
    }

    /// What both daemons' `--without` is given.
    pub(super) fn masked(&self) -> Vec<String> {
        let mut masked = self.without.clone();
        if self.plain_calls {
            masked.push("ring".into());
        }
        masked
    }

    /// Holds the features that it leaves alone against those that the daemon knows.
    pub(super) fn check(&self, known: &[String]) -> Result<()> {
        match self.masked().iter().find(|name| !known.contains(name)) {
            Some(name) => bail!("{}: no feature {name:?}; there are {}", self.name(), known.join(", ")),
            None => Ok(()),
        }
    }

    /// More lines for `[site]`.
    pub(super) fn site_toml(&self) -> String {
        if self.polling { format!("poll_us = {POLL_US}\n") } else { String::new() }
    }

    /// More lines for both `[peer…]` tables.
    pub(super) fn peer_toml(&self) -> String {
        let rekey = if self.rekey_seconds > 0 { format!("\nrekey_child = \"{}s\"", self.rekey_seconds) } else { String::new() };
        format!("suites = [\"aes256-gcm\"]{rekey}")
    }

    /// The processors of each site's workers.
    pub(super) fn processors(&self) -> Result<[Vec<u16>; 2]> {
        let all = allowed_processors();
        let workers = self.more_workers + 1;
        ensure!(workers <= all.len().max(1), "{}: there are only {} processors", self.name(), all.len());
        let nth = |index: usize| all.get(index % all.len().max(1)).copied();
        Ok([0, 1].map(|side| (0..workers).filter_map(|worker| nth(side + worker)).collect()))
    }

    /// The peers beside the one in use, as one site (0 or 1) has them in its configuration. `other` is the address of the other site.
    pub(super) fn peers_toml(&self, side: usize, other: &str, psk_file: &str) -> String {
        let mut text = String::new();
        let mut number = 0_u32;
        let mut peer = |kind: &str, index: usize, endpoint: &str, prefixes: usize| {
            let subnets: Vec<String> = (0..prefixes).map(|_| prefix(side, &mut number)).collect();
            let ids = format!("local_id = \"{}-{kind}-{index}\"\nremote_id = \"{}-{kind}-{index}\"", SIDES[side], SIDES[1 - side]);
            let _ = writeln!(
                text,
                "[peer.{kind}-{index}]\nendpoint = \"{endpoint}\"\nlocal_subnets = [\"10.{}.0.0/12\"]\nsubnets = {subnets:?}\n{ids}\npsk_file = \"{psk_file}\"",
                first(side)
            );
        };
        (0..self.peers_up).for_each(|index| peer("up", index, other, 1));
        (0..self.peers).for_each(|index| peer("idle", index, NOWHERE, 1));
        let of_peer = |index: usize| (self.prefixes - index * PREFIXES_PER_PEER).min(PREFIXES_PER_PEER);
        (0..self.prefixes.div_ceil(PREFIXES_PER_PEER)).for_each(|index| peer("wide", index, NOWHERE, of_peer(index)));
        text
    }
}

const SIDES: [&str; 2] = ["left", "right"];
/// An address of the documentation's (RFC 5737), to which the namespaces have no route.
const NOWHERE: &str = "198.51.100.1";

/// The second octet of the first of the networks behind a site: 10.96.0.0/12 is left, 10.112.0.0/12 right.
fn first(side: usize) -> usize {
    96 + 16 * side
}

/// The next prefix behind the other site, each of one address.
fn prefix(side: usize, number: &mut u32) -> String {
    let [_, high, middle, low] = number.to_be_bytes();
    *number += 1;
    format!("10.{}.{middle}.{low}/32", first(1 - side) + usize::from(high))
}

/// The number that `text` begins with, and the rest.
fn number(text: &str) -> Result<(usize, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let number: usize = digits.parse().with_context(|| format!("{text:?} means nothing"))?;
    ensure!(number <= 1_000_000, "{number} are too many");
    Ok((number, rest))
}

#[cfg(test)]
mod tests {
    use super::{Build, PROGRAMS, Variant};

    #[test]
    fn a_name_says_what_is_run() {
        for name in [
            "penstock",
            "penstock-2",
            "penstock-poll",
            "penstock-plain-calls",
            "penstock-unsummed",
            "penstock-peers-10000",
            "penstock-rekey-1",
            "penstock-2-rekey-60-peers-up-7-prefixes-300-poll-without-gro+read-multishot",
        ] {
            let variant = Variant::parse(name).expect("a Penstock").expect("it means something");
            assert_eq!(variant.name(), name);
        }
        assert!(Variant::parse("openvpn").is_none() && Variant::parse("penstocks").is_none());
        for name in ["penstock-1", "penstock-", "penstock-polls", "penstock-peers-", "penstock-fast", "penstock-257", "penstock-rekey-0"] {
            assert!(Variant::parse(name).is_some_and(|variant| variant.is_err()), "{name}");
        }
    }

    #[test]
    fn a_feature_that_the_daemon_does_not_know_is_refused_by_name() {
        let known = ["ring".to_owned(), "gro".to_owned()];
        let check = |name: &str| Variant::parse(name).expect("a Penstock").expect("it means something").check(&known);
        assert!(check("penstock-without-gro+ring").is_ok() && check("penstock-plain-calls").is_ok());
        let refusal = format!("{:#}", check("penstock-without-gro+fixed-flies").expect_err("there is none"));
        assert!(refusal.contains("\"fixed-flies\"") && refusal.contains("ring, gro"), "{refusal}");
    }

    #[test]
    fn another_build_has_a_name_and_all_programs() {
        let folder = std::env::temp_dir().join(format!("penstock-build-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = format!("old={}", folder.display());
        let missing = text.parse::<Build>().expect_err("it is empty").to_string();
        assert!(missing.starts_with("there is no penstockd in "), "{missing}");
        PROGRAMS.iter().for_each(|program| std::fs::write(folder.join(program), "").expect("a file"));
        let build: Build = text.parse().expect("all are there");
        assert_eq!(Variant { build: Some(build), more_workers: 1, ..Variant::default() }.name(), "penstock-2@old");
        for bad in [folder.display().to_string(), text.replace("old", ""), text.replace("old", "a b")] {
            assert!(bad.parse::<Build>().is_err(), "{bad}");
        }
        std::fs::remove_dir_all(&folder).expect("ours");
    }

    #[test]
    fn every_prefix_is_written_once() {
        let variant = Variant { prefixes: 300, peers: 2, peers_up: 1, ..Variant::default() };
        let text = variant.peers_toml(0, "10.0.0.2", "x.psk");
        let mut prefixes: Vec<&str> = text.split('"').filter(|word| word.ends_with("/32")).collect();
        assert_eq!(prefixes.len(), 303);
        prefixes.sort_unstable();
        prefixes.dedup();
        assert_eq!((prefixes.len(), text.matches("[peer.").count()), (303, 6));
        assert_eq!(text.matches("endpoint = \"10.0.0.2\"").count(), 1);
    }
}
