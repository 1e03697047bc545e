//! `penstock show` for people: what is down stands first, with the reason and what to try.
//!
//! Rendering is a pure function of one or two [`State`]s, so its tests are whole screens. Nothing is said by colour
//! alone, names stand instead of keys, and times are relative.

use std::time::Duration;

use crate::admin::{Core, Peer, PeerState, Sa, Sandbox, State, Traffic};

pub use hint::remedy;
use hint::{counter_hint, drop_hint};
use units::{age, bytes, count, rate};

mod hint;
pub mod units;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::state as example;

/// How to render.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Only this peer, and nothing about cores and drops.
    pub peer: Option<&'a str>,
    /// Everything about it: names and addresses of both sides, what each SA carries, when keys are renewed, the last error.
    pub detail: bool,
    /// An earlier state and how long ago it was: rates come from the difference.
    pub before: Option<(&'a State, Duration)>,
    /// Whether escape sequences for colours are understood.
    pub colour: bool,
}

/// The screen, as lines that end with a newline.
#[must_use]
pub fn render(state: &State, options: Options<'_>) -> String {
    let mut screen = Screen { lines: String::new(), colour: options.colour };
    let mut peers: Vec<&Peer> = state.peers.iter().filter(|peer| options.peer.is_none_or(|name| name == peer.name)).collect();
    peers.sort_by(|a, b| rank(a.state).cmp(&rank(b.state)).then_with(|| a.name.cmp(&b.name)));
    if options.peer.is_none() {
        headline(&mut screen, state);
    }
    for peer in peers {
        let before =
            options.before.and_then(|(state, elapsed)| Some((state.peers.iter().find(|earlier| earlier.name == peer.name)?, elapsed)));
        show_peer(&mut screen, peer, before, options.detail);
    }
    if options.peer.is_none() {
        show_site(&mut screen, state);
        show_cores(&mut screen, &state.cores);
        show_drops(&mut screen, state);
    }
    screen.lines
}

fn rank(state: PeerState) -> u8 {
    match state {
        PeerState::Down => 0,
        PeerState::Connecting => 1,
        PeerState::Waiting => 2,
        PeerState::Up => 3,
    }
}

/// The lines so far.
struct Screen {
    lines: String,
    colour: bool,
}

/// What a colour underlines; the words say it too.
#[derive(Clone, Copy)]
enum Tone {
    Bad,
    Good,
    Care,
}

impl Screen {
    /// Adds a line. Text of the other side may be quoted in it, so control characters are taken out.
    fn line(&mut self, text: &str) {
        self.lines.extend(text.trim_end().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
        self.lines.push('\n');
    }

    /// Adds a line that begins with a word in colour.
    fn toned(&mut self, tone: Tone, word: &str, rest: &str) {
        if self.colour {
            let code = match tone {
                Tone::Bad => 31,
                Tone::Good => 32,
                Tone::Care => 33,
            };
            self.lines.push_str(&format!("\u{1b}[1;{code}m{word}\u{1b}[0m"));
            self.line(rest);
        } else {
            self.line(&format!("{word}{rest}"));
        }
    }

    fn table(&mut self, indent: &str, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            self.line(&format!("{indent}{}", cells.join("  ")));
        }
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn headline(screen: &mut Screen, state: &State) {
    let site = &state.site.name;
    let not_up = state.peers.iter().filter(|peer| peer.state != PeerState::Up).count();
    match (state.peers.len(), not_up) {
        (0, _) => screen.line(&format!("{site}: no peer is configured; add [peer.NAME] to {}", state.site.config)),
        (all, 0) => screen.line(&format!("{site}: {all} of {all} peers up")),
        (all, some) => screen.line(&format!("{site}: {some} of {all} peers not up")),
    }
    if !state.engine.running {
        let reason = state.engine.reason.as_deref().unwrap_or("no reason known");
        screen.toned(Tone::Bad, "no engine", &format!(": {reason}; nothing passes, and nothing leaves in clear"));
    }
    if let Some(ms) = state.site.rolled_back_in_ms {
        screen.toned(
            Tone::Care,
            "not confirmed",
            &format!(": the last apply is rolled back in {} unless you keep it: penstock confirm", age(ms)),
        );
    }
    screen.line("");
}

fn show_peer(screen: &mut Screen, peer: &Peer, before: Option<(&Peer, Duration)>, detail: bool) {
    let (tone, word) = match peer.state {
        PeerState::Down => (Tone::Bad, "DOWN"),
        PeerState::Connecting => (Tone::Care, "CONNECTING"),
        PeerState::Waiting => (Tone::Care, "WAITING"),
        PeerState::Up => (Tone::Good, "UP"),
    };
    screen.toned(tone, word, &format!("  {}  {}  {}", peer.name, endpoint(peer), since(peer)));
    if peer.state != PeerState::Up {
        screen.line(&format!("  why   {}", peer.reason.as_deref().unwrap_or("no reason known")));
        if let Some(remedy) = remedy(peer) {
            screen.line(&format!("  try   {remedy}"));
        }
    }
    if let Some(weak) = &peer.psk_weak {
        screen.toned(Tone::Care, "  weak key", &format!(": {weak}; replace it at both sites (penstock key psk)"));
    }
    screen.line(&format!("  net   {} <-> {}", peer.local_subnets.join(", "), peer.subnets.join(", ")));
    if peer.state == PeerState::Up || peer.outbound != Traffic::default() || peer.inbound != Traffic::default() {
        traffic(screen, "out", peer.outbound, before.map(|(earlier, elapsed)| (earlier.outbound, elapsed)), None);
        traffic(screen, "in ", peer.inbound, before.map(|(earlier, elapsed)| (earlier.inbound, elapsed)), peer.idle_ms);
    }
    if let Some(ike) = &peer.ike {
        let who = if ike.initiated { "by us" } else { "by the peer" };
        screen.line(&format!(
            "  IKE   {}/{}  {}  started {who}, {} ago{}",
            ike.initiator_spi,
            ike.responder_spi,
            ike.proposal,
            age(ike.age_ms),
            match (ike.nat_here, ike.nat_there) {
                (false, false) => "",
                (true, false) => ", we are behind a NAT",
                (false, true) => ", it is behind a NAT",
                (true, true) => ", both are behind a NAT",
            }
        ));
    }
    show_sas(screen, &peer.sas);
    if detail {
        show_detail(screen, peer);
    }
    screen.line("");
}

fn show_detail(screen: &mut Screen, peer: &Peer) {
    let at = |address: Option<std::net::SocketAddr>| address.map(|address| format!(" at {address}")).unwrap_or_default();
    screen.line(&format!("  us    {}{}", peer.local_id, at(peer.local)));
    screen.line(&format!("  peer  {}{}", peer.remote_id, at(peer.remote)));
    let renewed = |name: &str, rekey_in_ms: Option<u64>| match rekey_in_ms {
        Some(ms) => format!("{name}: new keys in {}", age(ms)),
        None => format!("{name}: new keys when the peer asks for them"),
    };
    if let Some(ike) = &peer.ike {
        screen.line(&format!("  {}", renewed("IKE", ike.rekey_in_ms)));
    }
    for sa in peer.sas.iter().filter(|sa| !sa.subnets.is_empty()) {
        let nets = format!("{} <-> {}", sa.local_subnets.join(", "), sa.subnets.join(", "));
        screen.line(&format!("  {}; {nets}", renewed(&sa.inbound_spi, sa.rekey_in_ms)));
    }
    match (&peer.last_error, peer.last_error_ms) {
        (Some(error), Some(ms)) => screen.line(&format!("  last error {} ago: {error}", age(ms))),
        _ => screen.line("  no error since penstockd started"),
    }
}

fn endpoint(peer: &Peer) -> String {
    match peer.remote {
        _ if peer.endpoint.is_empty() => peer.remote.map_or_else(|| "no endpoint".to_owned(), |remote| format!("at {remote}")),
        Some(remote) if remote.to_string() != peer.endpoint => format!("{} (at {remote})", peer.endpoint),
        _ => peer.endpoint.clone(),
    }
}

fn since(peer: &Peer) -> String {
    let attempts = match peer.attempts {
        0 => String::new(),
        1 => ", 1 attempt".into(),
        many => format!(", {} attempts", count(many)),
    };
    let retry = peer.retry_in_ms.map(|ms| format!(", next in {}", age(ms))).unwrap_or_default();
    match peer.state {
        PeerState::Up => format!("for {}", age(peer.since_ms)),
        _ => format!("for {}{attempts}{retry}", age(peer.since_ms)),
    }
}

fn traffic(screen: &mut Screen, direction: &str, now: Traffic, before: Option<(Traffic, Duration)>, idle_ms: Option<u64>) {
    let speed =
        before.map(|(earlier, elapsed)| format!("  {}", rate(now.bytes.saturating_sub(earlier.bytes), elapsed))).unwrap_or_default();
    let idle = idle_ms.map(|ms| format!("  last {} ago", age(ms))).unwrap_or_default();
    screen.line(&format!("  {direction}   {} in {} packets{speed}{idle}", bytes(now.bytes), count(now.packets)));
}

fn show_sas(screen: &mut Screen, sas: &[Sa]) {
    if sas.is_empty() {
        return;
    }
    let mut sorted: Vec<&Sa> = sas.iter().collect();
    sorted.sort_by(|a, b| a.core.cmp(&b.core).then(b.age_ms.cmp(&a.age_ms)).then_with(|| a.inbound_spi.cmp(&b.inbound_spi)));
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let mut rows = vec![row(["core", "SPI in", "SPI out", "suite", "ESN", "phase", "age", "out", "in", "port"])];
    rows.extend(sorted.iter().map(|sa| {
        vec![
            sa.core.to_string(),
            dash(&sa.inbound_spi),
            dash(&sa.outbound_spi),
            dash(&sa.suite),
            if sa.esn { "yes" } else { "no" }.into(),
            if sa.fallback { format!("{}, fallback", sa.phase) } else { sa.phase.clone() },
            age(sa.age_ms),
            bytes(sa.outbound.bytes),
            bytes(sa.inbound.bytes),
            sa.source_port.clone(),
        ]
    }));
    screen.table("  ", &rows);
}

fn show_site(screen: &mut Screen, state: &State) {
    let (interface, engine) = (&state.interface, &state.engine);
    screen.line(&format!("interface  {}  {}  MTU {}", interface.name, interface.addresses.join(", "), interface.mtu));
    let listen = match state.site.listen.as_slice() {
        [] => "all addresses".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    screen.line(&format!("receives   UDP port {} on {listen}", state.site.port));
    if engine.running {
        let off = if engine.features_off.is_empty() { String::new() } else { format!("; without {}", engine.features_off.join(", ")) };
        let on = if engine.features.is_empty() { "none".to_owned() } else { engine.features.join(", ") };
        let restarts = engine.starts.saturating_sub(1);
        let again = match restarts {
            0 => String::new(),
            1 => ", started again once".into(),
            many => format!(", started again {many} times"),
        };
        screen.line(&format!(
            "engine     pid {}, up {}, generation {}{again}; with {on}{off}",
            engine.pid,
            age(engine.age_ms),
            engine.generation
        ));
        show_sandbox(screen, &engine.sandbox);
    }
    screen.line(&format!(
        "control    pid {}, up {}, version {}, {}",
        state.site.pid,
        age(state.site.age_ms),
        state.site.version,
        state.site.config
    ));
}

fn show_sandbox(screen: &mut Screen, sandbox: &Sandbox) {
    let landlock = match sandbox.landlock_abi {
        0 => String::new(),
        abi => format!(", Landlock ABI {abi}"),
    };
    match sandbox.level.as_str() {
        "full" => screen.line(&format!("sandbox    full{landlock}")),
        "none" => {
            screen.toned(Tone::Bad, "sandbox    none", ": whoever takes the engine over has all its rights; start it without --no-sandbox")
        }
        level => {
            screen.toned(Tone::Care, &format!("sandbox    {level}"), &landlock);
            let rows: Vec<_> = sandbox.missing.iter().map(|(name, takes)| vec![format!("without {name}:"), takes.clone()]).collect();
            screen.table("             ", &rows);
        }
    }
}

fn show_cores(screen: &mut Screen, cores: &[Core]) {
    if cores.is_empty() {
        return;
    }
    let mut rows = vec![row(["core", "CPU", "calls", "now", "out packets", "a send", "in packets", "a receive", "moves"])];
    for core in cores {
        let value = |name: &str| core.counters.get(name).copied().unwrap_or(0);
        rows.push(vec![
            core.core.to_string(),
            core.cpu.to_string(),
            if core.ring { "ring" } else { "plain" }.into(),
            if core.asleep { "asleep" } else { "busy" }.into(),
            count(value("sent_packets")),
            ratio(value("sent_packets"), value("udp_sends")),
            count(value("opened_packets")),
            ratio(value("inbound_frames"), value("udp_receives")),
            count(value("flow_moves")),
        ]);
    }
    screen.line("");
    screen.table("", &rows);
}

fn ratio(parts: u64, wholes: u64) -> String {
    if wholes == 0 { "-".into() } else { format!("{:.1}", parts as f64 / wholes as f64) }
}

fn show_drops(screen: &mut Screen, state: &State) {
    let drops = state.drops.iter().filter(|(_, count)| **count > 0);
    let mut rows: Vec<Vec<String>> = drops.map(|(reason, n)| vec![count(*n), reason.clone(), drop_hint(reason).to_owned()]).collect();
    rows.sort_by(|a, b| a.get(1).cmp(&b.get(1)));
    screen.line("");
    if rows.is_empty() {
        screen.line("no drops");
    } else {
        screen.line("drops");
        screen.table("  ", &rows);
    }
    let sum =
        |name: &str| state.cores.iter().filter_map(|core| core.counters.get(name)).fold(0_u64, |sum, value| sum.saturating_add(*value));
    let notable =
        penstock_uapi::Counter::ALL.iter().filter_map(|counter| Some((counter.name(), counter_hint(*counter)?, sum(counter.name()))));
    let rows: Vec<Vec<String>> =
        notable.filter(|(_, _, n)| *n > 0).map(|(name, hint, n)| vec![count(n), name.to_owned(), hint.to_owned()]).collect();
    if !rows.is_empty() {
        screen.line("");
        screen.line("also");
        screen.table("  ", &rows);
    }
}
