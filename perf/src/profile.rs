//! Where the engines' time goes: samples of `perf record` sorted into parts by what each stack was doing.

use std::collections::BTreeMap;

/// A part of the way of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Sealing and opening.
    Aes,
    /// Copies, between user space and kernel or within either.
    Copy,
    /// Checksums.
    Checksum,
    /// UDP, IP and the device under them.
    Udp,
    /// The TUN device.
    Tun,
    /// What the kernel does with an inner packet that was written to the TUN device.
    Inner,
    /// io_uring.
    Ring,
    /// Sleeping and waking.
    WakeUps,
    /// The rest of the engine itself.
    Engine,
    /// The rest of the kernel.
    Kernel,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 10] =
        [Self::Aes, Self::Copy, Self::Checksum, Self::Udp, Self::Tun, Self::Inner, Self::Ring, Self::WakeUps, Self::Engine, Self::Kernel];

    /// What tables call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes => "aes",
            Self::Copy => "copy",
            Self::Checksum => "checksum",
            Self::Udp => "udp",
            Self::Tun => "tun",
            Self::Inner => "inner stack",
            Self::Ring => "ring",
            Self::WakeUps => "wake-ups",
            Self::Engine => "engine, other",
            Self::Kernel => "kernel, other",
        }
    }
}

/// Words in a symbol's name that tell its part, tried in this order.
const WORDS: [(Part, &[&str]); 8] = [
    (Part::Aes, &["aes_", "aesni", "aesgcm", "gcm_", "ghash", "vaes", "aws_lc", "aead"]),
    (Part::Checksum, &["csum", "checksum"]),
    (Part::Copy, &["copy", "memmove", "rep_movs", "memset", "clear_page"]),
    (Part::WakeUps, &["schedule", "try_to_wake", "ttwu", "futex", "task_switch", "wake_up", "enqueue_task", "dequeue_task", "idle"]),
    (Part::Tun, &["tun_"]),
    (Part::Inner, &["tcp_"]),
    (
        Part::Udp,
        &[
            "udp", "inet_", "ip_", "ipv4", "ip6", "sock_", "skb", "netif", "net_rx", "napi", "veth", "dev_", "gro_", "neigh", "qdisc",
            "fib_", "nf_",
        ],
    ),
    (Part::Ring, &["io_uring", "__io_", "io_"]),
];

/// One frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    symbol: String,
    object: String,
}

/// Samples by part and by the symbol that was running.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    parts: BTreeMap<Part, u64>,
    symbols: BTreeMap<(Part, String), u64>,
}

impl Profile {
    /// From what `perf script -F ip,sym,dso` prints: stacks of frames, innermost first, with an empty line behind each.
    #[must_use]
    pub fn parse(script: &str) -> Self {
        let mut profile = Self::default();
        for stack in script.split("\n\n") {
            let frames: Vec<Frame> = stack.lines().filter_map(frame).collect();
            let Some(leaf) = frames.first() else { continue };
            let part = part(&frames);
            *profile.parts.entry(part).or_default() += 1;
            *profile.symbols.entry((part, leaf.symbol.clone())).or_default() += 1;
        }
        profile
    }

    /// All samples.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.parts.values().sum()
    }

    /// The part's share of all samples.
    #[must_use]
    pub fn share(&self, part: Part) -> f64 {
        self.parts.get(&part).copied().unwrap_or_default() as f64 / self.samples().max(1) as f64
    }

    /// The symbols that ran most within a part, with their share of all samples.
    #[must_use]
    pub fn top(&self, part: Part, count: usize) -> Vec<(&str, f64)> {
        let mut found: Vec<(&str, u64)> =
            self.symbols.iter().filter(|((its, _), _)| *its == part).map(|((_, symbol), count)| (symbol.as_str(), *count)).collect();
        found.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        found.into_iter().take(count).map(|(symbol, count)| (symbol, count as f64 / self.samples().max(1) as f64)).collect()
    }
}

/// `  ffffffff812 symbol+0x12 (object)`; the offset may be missing.
fn frame(line: &str) -> Option<Frame> {
    let (address, rest) = line.trim().split_once(' ')?;
    u64::from_str_radix(address, 16).ok()?;
    let (symbol, object) = rest.trim().rsplit_once(" (")?;
    let symbol = symbol.rsplit_once("+0x").map_or(symbol, |(name, _)| name);
    Some(Frame { symbol: symbol.to_owned(), object: object.trim_end_matches(')').to_owned() })
}

/// The innermost frame that tells its part decides. What IP and TCP do below a write to the TUN device they do for the inner packet.
fn part(frames: &[Frame]) -> Part {
    for (index, frame) in frames.iter().enumerate() {
        if frame.object.contains("penstock-engine") {
            // The kernel's frames above the engine's have told nothing: an interrupt, or the way into a system call.
            return if index == 0 { own(&frame.symbol) } else { Part::Kernel };
        }
        match word(&frame.symbol) {
            Some(Part::Udp | Part::Inner) if frames[index..].iter().any(|outer| outer.symbol.starts_with("tun_")) => return Part::Inner,
            Some(part) => return part,
            None => {}
        }
    }
    Part::Kernel
}

/// Code of the engine's program. What is not Rust in it is AWS-LC, whose assembly has many local labels for symbols.
fn own(symbol: &str) -> Part {
    let rust = symbol.contains("::") || symbol.contains("rust");
    match word(symbol) {
        // Without names nothing can be said of it.
        _ if symbol == "[unknown]" => Part::Engine,
        // A Rust path has the names of crate and modules, which say little about the function.
        Some(part @ Part::Checksum) if rust => part,
        _ if rust => Part::Engine,
        Some(part @ Part::Copy) => part,
        _ => Part::Aes,
    }
}

fn word(symbol: &str) -> Option<Part> {
    let symbol = symbol.to_ascii_lowercase();
    WORDS.iter().find(|(_, words)| words.iter().any(|word| symbol.contains(word))).map(|(part, _)| *part)
}

#[cfg(test)]
mod tests {
    use super::{Part, Profile};

    const SCRIPT: &str = "
\t    55d0 aws_lc_0_35_0_aes_gcm_encrypt_avx512+0x10 (/x/penstock-engine)
\t    55d1 penstock_engine::path::outbound::seal+0x2 (/x/penstock-engine)

\tffffffff81 copy_user_enhanced_fast_string ([kernel.kallsyms])
\tffffffff82 tun_do_read ([kernel.kallsyms])

\tffffffff83 kfree ([kernel.kallsyms])
\tffffffff84 tun_do_read ([kernel.kallsyms])

\tffffffff85 ip_rcv+0x7 ([kernel.kallsyms])
\tffffffff86 tun_get_user ([kernel.kallsyms])

\tffffffff85 ip_output ([kernel.kallsyms])
\tffffffff87 io_uring_enter ([kernel.kallsyms])

\t    55d3 penstock_engine::packet::checksum::fold (/x/penstock-engine)

\t    55d4 penstock_engine::ip_copy::io_walk (/x/penstock-engine)

\tffffffff88 io_submit_sqes ([kernel.kallsyms])

\tffffffff89 __schedule ([kernel.kallsyms])

\tffffffff8a asm_exc_page_fault ([kernel.kallsyms])
\t    55d3 penstock_engine::packet::checksum::fold (/x/penstock-engine)
";

    #[test]
    fn labels_of_assembly_are_aes() {
        let profile =
            Profile::parse("\t 55d0 skip_iv_len_12_init_IV+0x3 (/x/penstock-engine)\n\tffffffff81 udp_sendmsg ([kernel.kallsyms])\n");
        assert!((profile.share(Part::Aes) - 1.0).abs() < 1e-9, "{profile:?}");
        let nameless = Profile::parse("\t 55d0 [unknown] (/x/penstock-engine)\n");
        assert!((nameless.share(Part::Engine) - 1.0).abs() < 1e-9, "{nameless:?}");
    }

    #[test]
    fn stacks_are_sorted_by_what_they_were_doing() {
        let profile = Profile::parse(SCRIPT);
        assert_eq!(profile.samples(), 10);
        for part in Part::ALL {
            assert!((profile.share(part) - 0.1).abs() < 1e-9, "{part:?}: {profile:?}");
        }
        assert_eq!(profile.top(Part::Aes, 3), [("aws_lc_0_35_0_aes_gcm_encrypt_avx512", 0.1)]);
    }

    #[test]
    fn nothing_is_made_of_nothing() {
        assert_eq!(Profile::parse("no stack\n\n\n").samples(), 0);
        assert!(Profile::default().share(Part::Aes) < 1e-9);
    }
}
