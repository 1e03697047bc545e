//! A stranger with a wire of its own to a site, who sends whatever it likes under any source address.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use socket2::Socket;

use crate::faulty::{Datagram, draw};
use crate::lab::{Namespace, Site, Wire, WireOptions};
use crate::sys;

/// The wire's number: networks 10.0.7.0/24.
const WIRE: u8 = 7;
/// Source addresses are drawn from 10.66.0.0/16; answers to them come back along the wire.
const SOURCES: [u8; 2] = [10, 66];
/// Datagrams sent before the clock is looked at again.
const BURST: u64 = 32;
/// So many different ones are made beforehand, and sent in turn.
const DIFFERENT: u64 = 1 << 16;

/// What a flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Ammunition {
    /// Well-formed requests for a handshake, each with another SPI, nonce and key.
    Handshakes,
    /// ESP packets for SPIs that nobody has.
    UnknownSpis,
    /// ESP packets for live SPIs, with sequence numbers to come and a wrong ICV.
    Forgeries,
}

/// A stranger.
pub struct Stranger {
    namespace: Namespace,
    wire: Wire,
}

/// A flood under way.
pub struct Flooding {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(u64, Duration)>>,
}

impl Stranger {
    /// Lays a wire to a site. The site's way back to all forged sources leads along it.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn beside(site: &Site) -> Result<Self> {
        let namespace = Namespace::new("stranger")?;
        let wire = Wire::new(&namespace, site.namespace(), &WireOptions { number: WIRE, ..WireOptions::default() })?;
        let [a, b] = SOURCES;
        site.namespace().ip(&format!("route add {a}.{b}.0.0/16 via {}", wire.host_v4(0).address))?;
        Ok(Self { namespace, wire })
    }

    /// Bytes that went to the site and came back, as frames.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn bytes(&self) -> Result<[u64; 2]> {
        let counters = self.namespace.device_counters(&self.wire.device())?;
        Ok([counters.tx_bytes, counters.rx_bytes])
    }

    /// Begins to send `rate` datagrams a second to a port of the site.
    ///
    /// # Errors
    /// If no packet socket can be had.
    pub fn flood(&self, ammunition: Ammunition, port: u16, rate: f64, seed: u64, spis: &[u32]) -> Result<Flooding> {
        let device = self.wire.device();
        let socket = self.namespace.enter(|| sys::packet_socket(&device))?.context("a packet socket")?;
        let template = self.template(port)?;
        let found = Datagram::find(&template).context("the template is no datagram")?;
        let destination = found.destination;
        let make = Make { template, destination, port, ammunition, seed, spis: spis.to_vec() };
        let frames: Vec<Vec<u8>> = (0..DIFFERENT).map(|number| make.frame(number)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let to_stop = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("flood".into()).spawn(move || send(&socket, &frames, rate, &to_stop))?;
        Ok(Flooding { stop, thread: Some(thread) })
    }

    /// Ethernet, IPv4 and UDP, without a UDP checksum (which IPv4 allows), and no payload.
    fn template(&self, port: u16) -> Result<Vec<u8>> {
        let hardware = |side: usize| self.wire.hardware(side);
        let IpAddr::V4(to) = self.wire.host_v4(1).address else { return Err(anyhow!("no IPv4 address")) };
        let ip = [0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, SOURCES[0], SOURCES[1], 0, 1];
        let udp = [[0x20, 0], port.to_be_bytes(), [0, 8], [0, 0]].concat();
        Ok([&hardware(1)?[..], &hardware(0)?, &[8, 0], &ip, &to.octets(), &udp].concat())
    }
}

impl Flooding {
    /// Ends it, and gives how many datagrams left a second.
    ///
    /// # Errors
    /// If its thread panicked.
    pub fn stop(mut self) -> Result<f64> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("it ran")?;
        let (sent, time) = thread.join().map_err(|_| anyhow!("the flood panicked"))?;
        Ok(sent as f64 / time.as_secs_f64())
    }
}

impl Drop for Flooding {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn send(socket: &Socket, frames: &[Vec<u8>], rate: f64, stop: &AtomicBool) -> (u64, Duration) {
    // A stranger has a machine of its own, which a busy gateway does not slow down. Where that cannot be had, less is sent, and told.
    let _ = sys::come_soon();
    let (start, mut tried, mut sent) = (Instant::now(), 0, 0);
    while !stop.load(Ordering::Acquire) {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        if tried >= due {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        // What the machine cannot do in time is not made up for in one go.
        tried = tried.max(due.saturating_sub(4 * BURST));
        for _ in 0..BURST.min(due - tried) {
            let frame = frames.get((tried % DIFFERENT) as usize).map(Vec::as_slice).unwrap_or_default();
            sent += u64::from(socket.send(frame).is_ok());
            tried += 1;
        }
    }
    (sent, start.elapsed())
}

/// How each datagram is made.
struct Make {
    template: Vec<u8>,
    destination: IpAddr,
    port: u16,
    ammunition: Ammunition,
    seed: u64,
    spis: Vec<u32>,
}

impl Make {
    fn frame(&self, number: u64) -> Vec<u8> {
        let drawn = draw(self.seed, 0, number, 0);
        let word = (drawn as u32).to_be_bytes();
        let payload = match self.ammunition {
            Ammunition::Handshakes => handshake(drawn),
            Ammunition::UnknownSpis => esp(u32::from_be_bytes(word) | 0x0100_0000, drawn),
            Ammunition::Forgeries => esp(self.spis.get(drawn as usize % self.spis.len().max(1)).copied().unwrap_or(256), drawn),
        };
        let Some(found) = Datagram::find(&self.template) else { return Vec::new() };
        let source = IpAddr::V4(Ipv4Addr::new(SOURCES[0], SOURCES[1], word[2], word[3]));
        let from = 1024 + (drawn >> 48) as u16 % 60_000;
        let frame = found.readdressed(&self.template, [source, self.destination], [from, self.port]);
        found.with_payload(&frame, &payload)
    }
}

/// An ESP packet of 100 bytes that nobody has made with a key.
fn esp(spi: u32, drawn: u64) -> Vec<u8> {
    let sequence = 0x4000_0000 | (drawn >> 32) as u32 & 0x0fff_ffff;
    let mut packet = [&spi.to_be_bytes()[..], &sequence.to_be_bytes()].concat();
    packet.extend(drawn.to_be_bytes());
    packet.resize(100, drawn as u8);
    packet
}

/// An IKE_SA_INIT request behind the non-ESP marker (RFC 7296 section 1.2): AES-256-GCM, HMAC-SHA2-256, X25519, as many ask for it.
fn handshake(drawn: u64) -> Vec<u8> {
    const SA: u8 = 33;
    const KE: u8 = 34;
    const NONCE: u8 = 40;
    const IKE_SA_INIT: u8 = 34;
    let transform = |last: bool, kind: u8, id: u8, key_bits: u16| {
        let attribute = if key_bits > 0 { [&[0x80, 14][..], &key_bits.to_be_bytes()].concat() } else { Vec::new() };
        [&[if last { 0 } else { 3 }, 0, 0, 8 + attribute.len() as u8, kind, 0, 0, id][..], &attribute].concat()
    };
    let transforms = [transform(false, 1, 20, 256), transform(false, 2, 5, 0), transform(true, 4, 31, 0)].concat();
    let proposal = [&[0, 0, 0, 8 + transforms.len() as u8, 1, 1, 0, 3][..], &transforms].concat();
    let payload = |next: u8, body: &[u8]| [&[next, 0, 0, 4 + body.len() as u8][..], body].concat();
    let random: Vec<u8> = (0..4).flat_map(|at| draw(drawn, 1, at, 0).to_be_bytes()).collect();
    let body = [payload(KE, &proposal), payload(NONCE, &[&[0, 31, 0, 0][..], &random].concat()), payload(0, &random)].concat();
    let length = (28 + body.len() as u32).to_be_bytes();
    [&[0; 4][..], &drawn.to_be_bytes(), &[0; 8], &[SA, 0x20, IKE_SA_INIT, 0x08, 0, 0, 0, 0], &length, &body].concat()
}
