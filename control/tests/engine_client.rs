//! The client of the engine's socket against engines that behave, and against one that does not. No root needed.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use penstock::engine::{Client, EngineError, Event, PolicyOrder};
use penstock_uapi::frame::{self, Frame};
use penstock_uapi::reply::{CoreState, Welcome};
use penstock_uapi::{Endpoint, Kind, Role, Status, VERSION, event};
use socket2::{Domain, SockAddr, Socket, Type};
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

fn welcome() -> Welcome {
    Welcome { version: U16::new(VERSION), cores: U16::new(0), policy_generation: U64::new(3), ..Welcome::new_zeroed() }
}

/// An engine with one client: `answer` makes the datagrams that go back for each request.
fn engine(test: &str, answer: impl Fn(Frame<'_>) -> Vec<Vec<u8>> + Send + 'static) -> PathBuf {
    let path = std::env::temp_dir().join(format!("penstock-{}-{test}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    listener.bind(&SockAddr::unix(&path).expect("a path")).expect("bound");
    listener.listen(1).expect("listening");
    let at = path.clone();
    std::thread::spawn(move || {
        use std::io::Read;
        let (mut client, _) = listener.accept().expect("a client");
        std::fs::remove_file(at).expect("our own socket");
        let mut buffer = vec![0; penstock_uapi::FRAME_BYTES_MAX];
        while let Ok(length) = client.read(&mut buffer) {
            if length == 0 {
                return;
            }
            let frame = Frame::parse(&buffer[..length]).expect("control sends frames");
            for datagram in answer(frame) {
                client.send(&datagram).expect("sent");
            }
        }
    });
    path
}

fn done(request: u64) -> Vec<u8> {
    frame::answer(Status::Done, request).to_vec()
}

fn polite(frame: Frame<'_>) -> Vec<Vec<u8>> {
    match frame.kind {
        Kind::Hello => vec![frame::encode(Status::Done, frame.request, &welcome(), &[]).to_vec()],
        _ => vec![done(frame.request)],
    }
}

fn run<F: Future<Output = ()>>(work: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, work);
}

#[test]
fn requests_get_their_answers_and_events_come_between_them() {
    run(async {
        let spoken = |frame: Frame<'_>| {
            let from: SocketAddr = "192.0.2.1:4500".parse().expect("an address");
            let stray = event::StrayIke { from: Endpoint::from(from), to: Endpoint::from(from) };
            match frame.kind {
                Kind::ReadState => vec![
                    frame::encode(Status::More, frame.request, &CoreState::new_zeroed(), &[]).to_vec(),
                    frame::encode(Status::Done, 0, &stray, b"ike").to_vec(),
                    done(frame.request),
                ],
                Kind::PolicyCommit => vec![frame::answer(Status::Full, frame.request).to_vec()],
                _ => polite(frame),
            }
        };
        let (client, welcome, cores, mut events) = Client::connect(&engine("talk", spoken)).await.expect("connected");
        assert_eq!((welcome.policy_generation.get(), cores.len()), (3, 0));
        let fd = std::fs::File::open("/dev/null").expect("a file");
        client.attach(0, 0, &[(Role::Shared4, fd.as_fd()), (Role::Tun, fd.as_fd())]).await.expect("attached");
        // Many at once: each gets its own answer.
        let (one, two) = tokio::join!(client.state(), client.state());
        assert_eq!((one.expect("a state").cores.len(), two.expect("a state").cores.len()), (1, 1));
        assert!(matches!(events.recv().await, Some(Event::StrayIke { message, .. }) if message == b"ike"));
        let policy = PolicyOrder { policy: 1, name: "london".into(), pairs: vec![], keep: false };
        let refused = client.set_policies(4, &[policy]).await.expect_err("the engine says no");
        assert!(matches!(refused, EngineError::Refused { what: Kind::PolicyCommit, status: Status::Full }), "{refused}");
    });
}

#[test]
fn an_engine_that_talks_nonsense_is_left() {
    let core = CoreState::new_zeroed();
    let wrong_length = frame::encode(Status::Done, 0, &core, &[]).to_vec();
    let mut wrong_kind = done(0);
    wrong_kind[..2].copy_from_slice(&999_u16.to_le_bytes());
    for (test, datagram) in [("garbage", b"x".to_vec()), ("event", wrong_length), ("kind", wrong_kind)] {
        run(async {
            let answer = move |frame: Frame<'_>| if frame.kind == Kind::ReadState { vec![datagram.clone()] } else { polite(frame) };
            let (client, _, _, mut events) = Client::connect(&engine(test, answer)).await.expect("connected");
            let asked = tokio::time::timeout(Duration::from_secs(2), client.state()).await.expect("it ends at once");
            assert!(matches!(asked, Err(EngineError::Lost { .. })), "{test}: {asked:?}");
            assert_eq!(events.recv().await, Some(Event::Lost));
            assert!(matches!(client.state().await, Err(EngineError::Lost { .. })));
        });
    }
}

#[test]
fn roles_without_descriptors_are_refused() {
    run(async {
        let answer = |frame: Frame<'_>| {
            let back = penstock_uapi::reply::HandBack { core: U16::new(0), cpu: U16::new(0), roles: U32::new(Role::Tun.bit()) };
            vec![
                frame::encode(Status::More, frame.request, &welcome(), &[]).to_vec(),
                frame::encode(Status::Done, frame.request, &back, &[]).to_vec(),
            ]
        };
        let refused = Client::connect(&engine("roles", answer)).await.expect_err("it promised a descriptor");
        assert!(matches!(refused, EngineError::Nonsense(_)), "{refused}");
    });
}

#[test]
fn nobody_there_is_told_apart_from_a_refusal() {
    run(async {
        let nobody = Client::connect(&std::env::temp_dir().join("penstock-nobody.sock")).await.expect_err("nobody");
        assert!(matches!(nobody, EngineError::Unreachable { .. }));
        let refuse = |frame: Frame<'_>| vec![frame::answer(Status::NotWriter, frame.request).to_vec()];
        let refused = Client::connect(&engine("writer", refuse)).await.expect_err("no");
        assert!(matches!(refused, EngineError::Refused { status: Status::NotWriter, .. }));
    });
}
