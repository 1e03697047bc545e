//! Given an engine whose every message can be cut, doubled, delayed, changed or left out, when control goes through all its exchanges with
//! it, then each ends in time with an answer or with an error that names the engine and the request, and no descriptor stays open.
//!
//! ```text
//!   Client ── request ──► polite engine ── answers, numbered ──► fault at one of them ──► Client
//! ```

use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use penstock::engine::{Client, EngineError, PolicyOrder};
use penstock_uapi::frame::{self, Frame};
use penstock_uapi::reply::{CoreState, HandBack, PolicyState, SaState, Welcome};
use penstock_uapi::{Kind, Role, Status, VERSION};
use socket2::{Domain, MsgHdr, SockAddr, Socket, Type};
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

/// How long the client waits for an answer, and some for a busy machine.
const PATIENCE: Duration = Duration::from_secs(5 + 5);
/// Where a frame's kind, length and request id stand.
const KIND_AT: usize = 0;
const LENGTH_AT: usize = 4;
const REQUEST_AT: usize = 8;

/// Descriptors of the whole process are counted, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let alone = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // The first runtime opens what all later ones share.
    drop(runtime());
    alone
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// What happens to one message of the engine.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Only so many bytes come.
    Cut(usize),
    /// The same, and its length says so.
    Shorter(usize),
    Twice,
    Late(Duration),
    Kind(u16),
    Status(u16),
    AnotherRequest,
    Never,
    /// The engine closes instead.
    Closed,
    /// The engine closes afterwards.
    Last,
    /// So many descriptors come with it.
    Descriptors(usize),
}

/// A message and how many descriptors come beside it.
type Message = (Vec<u8>, usize);

/// What an engine with one core answers.
fn polite(frame: &Frame<'_>) -> Vec<Message> {
    let request = frame.request;
    let done = || (frame::answer(Status::Done, request).to_vec(), 0);
    match frame.kind {
        Kind::Hello => {
            let welcome =
                Welcome { version: U16::new(VERSION), cores: U16::new(1), policy_generation: U64::new(3), ..Welcome::new_zeroed() };
            let back = HandBack { core: U16::ZERO, cpu: U16::ZERO, roles: U32::new(Role::Tun.bit() | Role::Shared4.bit()) };
            vec![
                (frame::encode(Status::More, request, &welcome, &[]).to_vec(), 0),
                (frame::encode(Status::Done, request, &back, &[]).to_vec(), 2),
            ]
        }
        Kind::ReadState => vec![
            (frame::encode(Status::More, request, &CoreState::new_zeroed(), &[]).to_vec(), 0),
            (frame::encode(Status::More, request, &PolicyState::new_zeroed(), &[]).to_vec(), 0),
            (frame::encode(Status::More, request, &SaState::new_zeroed(), &[]).to_vec(), 0),
            done(),
        ],
        _ => vec![done()],
    }
}

fn send(client: &Socket, (bytes, count): &Message) {
    let null = File::open("/dev/null").expect("a file");
    let length = 16 + 4 * count;
    let mut rights = length.to_ne_bytes().to_vec();
    rights.extend([libc::SOL_SOCKET.to_ne_bytes(), libc::SCM_RIGHTS.to_ne_bytes()].concat());
    (0..*count).for_each(|_| rights.extend(null.as_fd().as_raw_fd().to_ne_bytes()));
    let parts = [IoSlice::new(bytes)];
    let header = MsgHdr::new().with_buffers(&parts);
    let sent = if *count == 0 { client.sendmsg(&header, 0) } else { client.sendmsg(&header.with_control(&rights), 0) };
    // Who was told nonsense may have left.
    let _ = sent;
}

/// Sends a message as the fault has it; `false` if nothing follows.
fn spoil(client: &Socket, mut message: Message, fault: Fault) -> bool {
    match fault {
        Fault::Cut(bytes) => message.0.truncate(bytes),
        Fault::Shorter(bytes) => {
            message.0.truncate(bytes);
            let body = u32::try_from(bytes - frame::HEADER_BYTES).expect("small");
            message.0[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&body.to_le_bytes());
        }
        Fault::Twice => send(client, &message),
        Fault::Late(pause) => std::thread::sleep(pause),
        Fault::Kind(kind) => message.0[KIND_AT..KIND_AT + 2].copy_from_slice(&kind.to_le_bytes()),
        Fault::Status(status) => message.0[KIND_AT + 2..KIND_AT + 4].copy_from_slice(&status.to_le_bytes()),
        Fault::AnotherRequest => message.0[REQUEST_AT] ^= 0x80,
        Fault::Never => return true,
        Fault::Closed => return false,
        Fault::Last => {}
        Fault::Descriptors(count) => message.1 = count,
    }
    send(client, &message);
    !matches!(fault, Fault::Last)
}

/// An engine with one client, whose message with this number suffers a fault.
fn engine(at: usize, fault: Fault) -> (PathBuf, JoinHandle<()>) {
    let path = std::env::temp_dir().join(format!("penstock-{}-faults.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    listener.bind(&SockAddr::unix(&path).expect("a path")).expect("bound");
    listener.listen(1).expect("listening");
    let work = move || {
        let (mut client, _) = listener.accept().expect("a client");
        let mut buffer = vec![0; penstock_uapi::FRAME_BYTES_MAX];
        let mut number = 0;
        while let Ok(length @ 1..) = client.read(&mut buffer) {
            let request = Frame::parse(&buffer[..length]).expect("control sends frames");
            for message in polite(&request) {
                if number != at {
                    send(&client, &message);
                } else if !spoil(&client, message, fault) {
                    return;
                }
                number += 1;
            }
        }
    };
    (path, std::thread::spawn(work))
}

/// How one exchange ended.
type Outcome = (Kind, Result<(), EngineError>);

/// All exchanges, one after the other, to the first that fails.
async fn talk(path: PathBuf) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut note = |what, result: Result<(), EngineError>| {
        outcomes.push((what, result));
        outcomes.last().is_some_and(|(_, result)| result.is_ok())
    };
    let (client, _events, _cores) = match Client::connect(&path).await {
        Ok((client, _, cores, events)) => {
            note(Kind::Hello, Ok(()));
            (client, events, cores)
        }
        Err(error) => {
            note(Kind::Hello, Err(error));
            return outcomes;
        }
    };
    let null = File::open("/dev/null").expect("a file");
    let policy = PolicyOrder { policy: 1, name: "london".into(), pairs: vec![], keep: false };
    let _ = note(Kind::AttachCore, client.attach(0, 0, &[(Role::Tun, null.as_fd())]).await)
        && note(Kind::PolicyCommit, client.set_policies(4, &[policy]).await)
        && note(Kind::ReadState, client.state().await.map(drop))
        && note(Kind::TakeQueues, client.take_queues().await)
        && note(Kind::Shutdown, client.shutdown(Duration::ZERO).await);
    outcomes
}

/// Goes through everything with one fault; gives how it ended.
fn suffer(at: usize, fault: Fault) -> Vec<Outcome> {
    let before = descriptors();
    let start = Instant::now();
    let (path, engine) = engine(at, fault);
    let outcomes = {
        let runtime = runtime();
        tokio::task::LocalSet::new().block_on(&runtime, talk(path.clone()))
    };
    engine.join().expect("it ends with its client");
    std::fs::remove_file(path).expect("our own socket");
    assert!(start.elapsed() < PATIENCE, "message {at}, {fault:?}: {:?}", start.elapsed());
    assert_eq!(descriptors(), before, "message {at}, {fault:?}: descriptors stay open: {outcomes:?}");
    for (what, result) in &outcomes {
        if let Err(error) = result {
            let said = error.to_string();
            let named = said.contains(&format!("{what:?}")) || *what == Kind::PolicyCommit && said.contains("Policy");
            assert!(said.contains("engine") && named, "message {at}, {fault:?}: {what:?} ended with: {said}");
        }
    }
    outcomes
}

fn assert_fails(at: usize, fault: Fault) {
    let outcomes = suffer(at, fault);
    assert!(outcomes.last().is_some_and(|(_, result)| result.is_err()), "message {at}, {fault:?}: {outcomes:?}");
}

fn assert_passes(at: usize, fault: Fault) {
    let outcomes = suffer(at, fault);
    assert!(outcomes.len() == 6 && outcomes.iter().all(|(_, result)| result.is_ok()), "message {at}, {fault:?}: {outcomes:?}");
}

/// The engine's messages in [`talk`] and their bytes.
fn messages() -> Vec<usize> {
    let kinds = [
        Kind::Hello,
        Kind::AttachCore,
        Kind::PolicyBegin,
        Kind::Policy,
        Kind::PolicyCommit,
        Kind::ReadState,
        Kind::TakeQueues,
        Kind::Shutdown,
    ];
    let request = |kind| Frame { kind, status: Status::Done, request: 1, body: &[] };
    kinds.into_iter().flat_map(|kind| polite(&request(kind))).map(|(bytes, _)| bytes.len()).collect()
}

#[test]
fn a_message_cut_at_any_byte_ends_the_exchange_with_an_error() {
    let _alone = alone();
    for (at, bytes) in messages().into_iter().enumerate() {
        (0..bytes).for_each(|cut| assert_fails(at, Fault::Cut(cut)));
        (frame::HEADER_BYTES..bytes).for_each(|cut| assert_fails(at, Fault::Shorter(cut)));
    }
}

#[test]
fn an_engine_that_closes_at_any_point_is_gone() {
    let _alone = alone();
    let messages = messages().len();
    for at in 0..messages {
        let outcomes = suffer(at, Fault::Closed);
        assert!(matches!(outcomes.last(), Some((_, Err(EngineError::Lost { .. })))), "message {at}: {outcomes:?}");
        if at + 1 < messages {
            let outcomes = suffer(at, Fault::Last);
            assert!(matches!(outcomes.last(), Some((_, Err(EngineError::Lost { .. })))), "message {at}: {outcomes:?}");
        }
    }
}

#[test]
fn an_answer_of_another_kind_or_status_is_none() {
    let _alone = alone();
    for at in 0..messages().len() {
        for kind in [0, Kind::Hello as u16, Kind::InstallInbound as u16, Kind::Acquire as u16, 999] {
            assert_fails(at, Fault::Kind(kind));
        }
        for status in [Status::Malformed as u16, Status::Unsupported as u16, 11, u16::MAX] {
            assert_fails(at, Fault::Status(status));
        }
    }
    // What answers one request does not answer another.
    assert_fails(2, Fault::Kind(Kind::Welcome as u16));
    assert_fails(0, Fault::Kind(Kind::Answer as u16));
}

#[test]
fn an_answer_that_comes_twice_or_late_is_as_good_as_one() {
    let _alone = alone();
    for at in 0..messages().len() {
        assert_passes(at, Fault::Late(Duration::from_millis(20)));
        assert_passes(at, Fault::Twice);
    }
}

#[test]
fn descriptors_that_are_missing_or_too_many_are_refused_and_closed() {
    let _alone = alone();
    for count in [0, 1, 3, 20] {
        assert_fails(1, Fault::Descriptors(count));
    }
    // Those that nobody expects are closed.
    for at in (0..messages().len()).filter(|at| *at != 1) {
        assert_passes(at, Fault::Descriptors(2));
    }
}

#[test]
fn an_engine_that_does_not_answer_is_given_up() {
    let _alone = alone();
    for (at, fault) in [(0, Fault::AnotherRequest), (3, Fault::Never)] {
        let outcomes = suffer(at, fault);
        let silent = matches!(outcomes.last(), Some((_, Err(EngineError::Silent { .. } | EngineError::Nonsense(_)))));
        assert!(silent, "{fault:?}: {outcomes:?}");
    }
}
