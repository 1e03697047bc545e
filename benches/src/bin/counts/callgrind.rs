//! Runs this program again under callgrind and reads what it writes (the format is documented in valgrind's manual, "Callgrind
//! Format Specification"): the cost of each function's own instructions, sorted by what they are for.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Instructions of one case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// What they are divided by.
    pub(crate) packets: u64,
    /// All of them.
    pub(crate) all: u64,
    /// AES-GCM, with the library around it.
    pub(crate) cipher: u64,
    /// `memcpy` and its like.
    pub(crate) copy: u64,
}

impl Count {
    /// Instructions per packet: all, cipher, copies, and what is the engine's own.
    pub(crate) fn per_packet(&self) -> [f64; 4] {
        let own = self.all - self.cipher - self.copy;
        [self.all, self.cipher, self.copy, own].map(|count| count as f64 / self.packets as f64)
    }
}

/// Words in the names of functions that are the cipher's.
const CIPHER: [&str; 9] = ["aws_lc", "aes_", "aesni", "gcm_", "ghash", "vaes", "aead", "AEAD", "EVP_"];
/// Words in the names of functions that copy.
const COPY: [&str; 4] = ["memcpy", "memmove", "memset", "bcmp"];

/// Valgrind's version; says which package has it if it is not there.
pub(crate) fn version() -> Result<String> {
    let told = Command::new("valgrind").arg("--version").output().context("valgrind is not installed (Debian package: valgrind)")?;
    ensure!(told.status.success(), "valgrind --version failed");
    Ok(String::from_utf8_lossy(&told.stdout).trim().to_owned())
}

/// Counts a case in a process of its own. With `keep`, what callgrind wrote stays there, for `callgrind_annotate`.
pub(crate) fn count(name: &str, keep: Option<&Path>) -> Result<Count> {
    let file = keep.map_or_else(
        || std::env::temp_dir().join(format!("penstock-counts-{}", std::process::id())),
        |folder| folder.join(format!("callgrind.{}", name.replace('/', "-"))),
    );
    let child = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*counts*counted*", "--dump-instr=no"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args(["--case", name])
        .stdin(Stdio::null())
        .output()
        .context("valgrind cannot be started (Debian package: valgrind)")?;
    if !child.status.success() {
        bail!("{name}: {}\n{}", child.status, String::from_utf8_lossy(&child.stderr));
    }
    let packets = String::from_utf8_lossy(&child.stdout).trim().parse().with_context(|| format!("{name}: no number of packets"))?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("{name}: nothing was counted"))?;
    if keep.is_none() {
        std::fs::remove_file(&file)?;
    }
    let functions = own_costs(&text)?;
    let sum = |words: &[&str]| -> u64 {
        functions.iter().filter(|(function, _)| words.iter().any(|word| function.contains(word))).map(|(_, cost)| cost).sum()
    };
    let all = functions.values().sum();
    ensure!(all > 0, "{name}: nothing was counted");
    Ok(Count { packets, all, cipher: sum(&CIPHER), copy: sum(&COPY) })
}

/// Each function's own instructions.
fn own_costs(text: &str) -> Result<BTreeMap<String, u64>> {
    let (mut names, mut costs) = (HashMap::new(), BTreeMap::<String, u64>::new());
    let (mut function, mut called, mut total) = (String::new(), false, None);
    for line in text.lines() {
        if let Some(compressed) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            // "(number) name" the first time, "(number)" from then on.
            let (number, name) = compressed.split_once(' ').unwrap_or((compressed, ""));
            if !name.is_empty() {
                names.insert(number.to_owned(), name.to_owned());
            }
            if line.starts_with('f') {
                function = names.get(number).context("a function without a name")?.clone();
            }
        } else if line.starts_with("calls=") {
            called = true;
        } else if let Some(all) = line.strip_prefix("totals: ") {
            total = all.trim().parse::<u64>().ok();
        } else if line.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '*')) {
            // The line behind a call has what the called function cost.
            if !std::mem::take(&mut called) {
                let cost: u64 = line.split_whitespace().nth(1).and_then(|cost| cost.parse().ok()).unwrap_or(0);
                *costs.entry(function.clone()).or_default() += cost;
            }
        }
    }
    ensure!(total == Some(costs.values().sum()), "the costs of all functions are not the total that callgrind gives");
    Ok(costs)
}

#[cfg(test)]
mod tests {
    use super::{Count, own_costs};

    const TEXT: &str = "version: 1\nevents: Ir\nob=(1) /x\nfl=(1) a.rs\nfn=(1) one\n16 400\ncfn=(2) aes_two\ncalls=1 50\n16 300\n+1 50\n\nfn=(2)\n* 299\n-3 1\n\ntotals: 750\n";

    #[test]
    fn a_call_is_not_counted_twice() {
        let costs = own_costs(TEXT).expect("sums hold");
        assert_eq!(costs.into_iter().collect::<Vec<_>>(), [("aes_two".to_owned(), 300), ("one".to_owned(), 450)]);
        assert!(own_costs(&TEXT.replace("750", "751")).is_err());
    }

    #[test]
    fn what_is_neither_cipher_nor_copy_is_the_engines_own() {
        assert_eq!(Count { packets: 2, all: 100, cipher: 40, copy: 20 }.per_packet(), [50.0, 20.0, 10.0, 20.0]);
    }
}
