//! Installs and retirements that meet, against an engine that notes what it is asked.

use std::io::Read;
use std::time::Duration;

use penstock_ike::{ChildId, PeerId, Selectors};
use penstock_uapi::frame::{self, Frame};
use penstock_uapi::reply::Welcome;
use penstock_uapi::request::{Key, suite};
use penstock_uapi::{Kind, Spi, Status, VERSION};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::mpsc;
use zerocopy::FromZeros;
use zerocopy::little_endian::U16;

use super::{Finished, Installer, NewInbound};
use crate::daemon::policies::Policies;
use crate::engine::{Client, PolicyOrder};

/// How long the engine takes for a policy table.
const SLOW: Duration = Duration::from_millis(100);

/// An engine that is slow to set a policy table, and tells what it was asked about SAs.
fn engine(path: &std::path::Path) -> std::sync::mpsc::Receiver<Kind> {
    let _ = std::fs::remove_file(path);
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    listener.bind(&SockAddr::unix(path).expect("a path")).expect("bound");
    listener.listen(1).expect("listening");
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let mut buffer = vec![0; penstock_uapi::FRAME_BYTES_MAX];
        while let Ok(length) = client.read(&mut buffer) {
            let Ok(frame) = Frame::parse(&buffer[..length]) else { return };
            let welcome = Welcome { version: U16::new(VERSION), ..Welcome::new_zeroed() };
            let answer = match frame.kind {
                Kind::Hello => frame::encode(Status::Done, frame.request, &welcome, &[]).to_vec(),
                _ => frame::answer(Status::Done, frame.request).to_vec(),
            };
            match frame.kind {
                Kind::PolicyCommit => std::thread::sleep(SLOW),
                Kind::InstallInbound | Kind::Retire => sender.send(frame.kind).expect("the test listens"),
                _ => (),
            }
            client.send(&answer).expect("sent");
        }
    });
    asked
}

/// Installs an inbound SA, retired before the policy table stands if `retired`; what the engine was asked, and what was told.
fn install(test: &str, retired: bool) -> (Vec<Kind>, Option<Finished>) {
    let path = std::env::temp_dir().join(format!("penstock-{}-{test}.sock", std::process::id()));
    let asked = engine(&path);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let told = tokio::task::LocalSet::new().block_on(&runtime, async {
        let (client, ..) = Client::connect(&path).await.expect("it listens");
        let (finished, mut told) = mpsc::channel(4);
        let order = PolicyOrder { policy: 1, name: "london".into(), pairs: Vec::new(), keep: false };
        let policies = Policies::new(0, vec![order]).into();
        let installer = Installer { client, policies, epoch: 0, finished, installing: Default::default() };
        let selectors =
            Selectors { local: vec!["10.0.0.0/24".parse().expect("a prefix")], remote: vec!["10.0.1.0/24".parse().expect("a prefix")] };
        let key = Key { key: [7; 32], salt: [7; 4], suite: suite::AES_256_GCM_16, esn: 0, reserved: [0; 2] };
        let spi = Spi::compose(77, 0, 0).expect("an SPI");
        installer.inbound(ChildId(1), None, NewInbound { peer: PeerId(1), spi, key, window: 128, selectors });
        if retired {
            tokio::time::sleep(SLOW / 4).await;
            installer.retire(None, spi.value(), 0);
        }
        tokio::time::sleep(SLOW * 6).await;
        assert!(installer.installing.borrow().is_empty());
        told.try_recv().ok()
    });
    let _ = std::fs::remove_file(&path);
    (asked.try_iter().collect(), told)
}

#[test]
fn an_inbound_sa_retired_on_its_way_is_taken_away_when_it_stands() {
    let (asked, told) = install("retired", true);
    assert_eq!(asked, [Kind::Retire, Kind::InstallInbound, Kind::Retire]);
    assert!(told.is_none(), "its child is gone: {told:?}");
}

#[test]
fn an_inbound_sa_that_is_wanted_stays() {
    let (asked, told) = install("wanted", false);
    assert_eq!(asked, [Kind::InstallInbound]);
    assert!(matches!(told, Some(Finished { child: ChildId(1), result: Ok(_), .. })), "{told:?}");
}
