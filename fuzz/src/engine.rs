//! The engine's other inputs: frames of a control that has gone mad, and what the kernel says beside a receive.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use penstock_engine::admin::{Admin, Options};
use penstock_engine::udp;
use penstock_uapi::frame::{self, Frame, HEADER_BYTES};
use penstock_uapi::request::{Hello, MAGIC, ReadState, Shutdown};
use penstock_uapi::{FRAME_BYTES_MAX, Kind, Status, VERSION};
use socket2::{Domain, SockAddr, Socket, Type};
use zerocopy::little_endian::{U16, U32};

use crate::records;

/// Longer than an engine takes on the busiest machine; one that says nothing for so long has died.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ancillary data beside a receive, and a socket address.
pub fn udp_control(bytes: &[u8]) {
    let told = udp::control::read(bytes);
    assert!(told.segment.is_none_or(|segment| segment > 0), "a stride of nothing would never end");
    if let Some(address) = udp::address::decode(bytes) {
        let mut again = [0; udp::ADDRESS_BYTES];
        let length = udp::address::encode(address, &mut again);
        assert_eq!(again.get(..length).and_then(udp::address::decode), Some(address), "an address survives");
    }
}

struct Client(Socket);

impl Client {
    fn connect(name: &SockAddr) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        socket.connect(name).expect("the engine listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        Self(socket)
    }

    fn writer(name: &SockAddr) -> Self {
        let mut client = Self::connect(name);
        let hello = Hello { magic: U32::new(MAGIC), version: U16::new(VERSION), writer: 1, reserved: 0 };
        // The engine may not have seen yet that the last writer has gone.
        while client.ask(&frame::encode(Status::Done, 1, &hello, &[])) == Some(Status::NotWriter) {
            std::thread::yield_now();
        }
        client
    }

    /// Sends a datagram; the status that closes its answer, or `None` if the connection ends.
    fn ask(&mut self, datagram: &[u8]) -> Option<Status> {
        self.0.send(datagram).ok()?;
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        loop {
            let length = self.0.read(&mut buffer).expect("the engine answers");
            if length == 0 {
                return None;
            }
            let answer = Frame::parse(buffer.get(..length).unwrap_or_default()).expect("an engine says only frames");
            if answer.status != Status::More {
                return Some(answer.status);
            }
        }
    }
}

/// Frames of a writer to an engine that has no core yet: of each record the first two octets are the kind, the rest the body; the
/// kind 0xffff makes the rest a raw datagram. A shutdown is left out, which does only what it says.
///
/// # Panics
/// If a frame has no answer, or if the engine serves nobody afterwards.
pub fn requests(bytes: &[u8]) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = SockAddr::unix(format!("\0penstock-fuzz-{}-{number}", std::process::id())).expect("a short name");
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking(), None).expect("a socket");
    listener.bind(&name).and_then(|()| listener.listen(4)).expect("an abstract name of our own");
    let admin = Admin::new(OwnedFd::from(listener), Options { features: 0, sandbox: None }).expect("descriptors");
    let engine = std::thread::spawn(move || admin.run());
    let mut client = Client::writer(&name);
    for part in records::split(bytes).take(64) {
        let Some((kind, body)) = part.split_first_chunk::<2>() else { continue };
        let datagram = match u16::from_le_bytes(*kind) {
            0xffff => body.to_vec(),
            kind => [&kind.to_le_bytes(), [0, 0].as_slice(), &(body.len() as u32).to_le_bytes(), &[9; 8], body].concat(),
        };
        // An empty datagram is the end of a connection.
        if datagram.is_empty() || Frame::parse(&datagram).is_ok_and(|frame| frame.kind == Kind::Shutdown) {
            continue;
        }
        let answer = client.ask(&datagram);
        assert_eq!(answer.is_some(), datagram.len() >= HEADER_BYTES, "each frame has an answer");
        if answer.is_none() {
            client = Client::writer(&name);
        }
    }
    let read = frame::encode(Status::Done, 2, &ReadState { reserved: U32::ZERO }, &[]);
    assert_eq!(client.ask(&read), Some(Status::Done), "it goes on serving");
    let end = frame::encode(Status::Done, 3, &Shutdown { drain_ms: U32::ZERO }, &[]);
    assert_eq!(client.ask(&end), Some(Status::Done), "it ends when told to");
    engine.join().expect("it does not panic").expect("it does not fail");
}
