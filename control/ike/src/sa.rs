//! One IKE SA: its stage, its two message windows of one, its keys and its children.
//!
//! ```text
//!  initiator   Starting ──SA_INIT, INTERMEDIATE──► Authenticating ──AUTH──► Established ──► Leaving
//!                                                               ▲
//!  responder   HalfOpen ──AUTH──► Answering (engine installs) ──┘
//!                 └─────────────► Refused (only repeats its answer)
//!  both        Established ──rekeyed──► Leaving, or Replaced until the peer deletes it
//!              Established ──the peer's DELETE, while another one serves──► Parting
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use crate::child::Child;
use crate::config::PeerId;
use crate::context::Context;
use crate::crypto::{Algorithms, Exchange, IkeKeys};
use crate::exchange::Came;
use crate::exchange::intermediate::{Bound, Mixing};
use crate::exchange::rekey::Setbacks;
use crate::exchange::renew::Renewal;
use crate::fragment::Assembly;
use crate::message::{Chain, Header, exchange, header};
use crate::output::{ChildId, Nat};
use crate::proposal::Proposal;
use crate::retransmit::{Outstanding, Purpose};

mod protect;

/// How far an IKE SA is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Initiator: IKE_SA_INIT is sent.
    Starting(Box<Starting>),
    /// Responder: IKE_SA_INIT is answered.
    HalfOpen(Box<HalfOpen>),
    /// Initiator: IKE_AUTH is sent, or waits for the engine to expect the child's SPI.
    Authenticating(Box<Authenticating>),
    /// Responder: the peer is authentic; the response waits for the engine.
    Answering,
    /// Responder: the peer is not who it says; kept to repeat the answer.
    Refused,
    /// Both sides know each other.
    Established,
    /// A rekeyed one has taken over, and the peer is to delete this one.
    Replaced,
    /// DELETE is sent or waits for its turn.
    Leaving,
    /// The peer's DELETE has come, and is answered when what was sent on the children before has arrived.
    Parting(Came),
}

/// What an initiator keeps until IKE_SA_INIT is answered.
#[derive(Debug)]
pub(crate) struct Starting {
    pub(crate) exchange: Exchange,
    pub(crate) offer: Vec<Proposal>,
    pub(crate) cookie: Vec<u8>,
    /// How often it has started over for a cookie or another group.
    pub(crate) rounds: u32,
    /// The request as sent last, over which we authenticate.
    pub(crate) request: Vec<u8>,
    /// The second key exchange, once it is asked for.
    pub(crate) mixing: Option<Mixing>,
}

/// What a responder keeps until IKE_AUTH: both messages, over which the two sides authenticate.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
    /// A second key exchange was agreed and has not come yet.
    pub(crate) mixing: bool,
}

/// What an initiator keeps until IKE_AUTH is answered.
#[derive(Debug)]
pub(crate) struct Authenticating {
    /// The responder's IKE_SA_INIT message, over which it authenticates.
    pub(crate) response: Vec<u8>,
    /// What IKE_INTERMEDIATE adds to that.
    pub(crate) bound: Vec<u8>,
    /// The first child, and the payloads that leave once the engine expects its SPI.
    pub(crate) child: ChildId,
    pub(crate) held: Option<Chain>,
}

/// A child that we delete: our inbound SPI and the peer's, which is 0 if we never learned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doomed {
    pub(crate) ours: u32,
    pub(crate) theirs: u32,
}

impl Doomed {
    pub(crate) fn new(child: &Child) -> Self {
        Self { ours: child.spi, theirs: child.remote_spi }
    }
}

/// Something to ask the peer as soon as the window is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    CreateChild(ChildId),
    DeleteChild(Vec<Doomed>),
    DeleteIke,
    Probe,
}

/// Our requests: one at a time (RFC 7296 section 2.3).
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pub(crate) next: u32,
    pub(crate) outstanding: Option<Outstanding>,
    pub(crate) waiting: VecDeque<Task>,
    /// What has come of an answer in pieces.
    pub(crate) pieces: Assembly,
}

/// The last request, by its digest, and the datagrams of its response once that is sent.
#[derive(Debug)]
pub(crate) struct Answered {
    digest: [u8; 32],
    response: Option<Vec<Vec<u8>>>,
}

/// The peer's requests: one at a time, and the answer to the last one.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    pub(crate) expected: u32,
    pub(crate) last: Option<Answered>,
    /// What has come of a request in pieces.
    pub(crate) pieces: Assembly,
    pub(crate) held: Option<Held>,
    pub(crate) refused: Option<Refused>,
}

/// The refusal to rekey a child that our own successor has replaced: it leaves behind our DELETE of that child.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) old: ChildId,
    pub(crate) came: Came,
    pub(crate) refusal: Chain,
}

/// A response that waits for the engine: one text if it succeeds, another if not.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) child: ChildId,
    pub(crate) came: Came,
    pub(crate) success: Chain,
    pub(crate) failure: Chain,
}

/// An IKE SA.
#[derive(Debug)]
pub(crate) struct IkeSa {
    pub(crate) spi: u64,
    pub(crate) remote_spi: u64,
    pub(crate) initiator: bool,
    /// `None` for a responder before IKE_AUTH.
    pub(crate) peer: Option<PeerId>,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) stage: Stage,
    pub(crate) started: u64,
    /// When something authentic came last, by IKE or, as far as the engine was asked, by ESP.
    pub(crate) heard: u64,
    /// Where the first message came from, and its digest: how its repetitions are recognised.
    pub(crate) first: Option<(SocketAddr, [u8; 32])>,
    /// When a stage that must not last ends.
    pub(crate) deadline: Option<u64>,
    /// We began it, or the one that it has come from by rekeys.
    pub(crate) founder: bool,
    /// The place among all events of this site at which it began, and at which it was established.
    pub(crate) began: u64,
    pub(crate) established: Option<u64>,
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
    pub(crate) keys: Option<IkeKeys>,
    /// What IKE_INTERMEDIATE adds to the AUTH values.
    pub(crate) bound: Bound,
    /// What was agreed, and all of it as one word.
    pub(crate) algorithms: Option<Algorithms>,
    pub(crate) suite: String,
    pub(crate) requests: Requests,
    pub(crate) replies: Replies,
    pub(crate) children: BTreeMap<ChildId, Child>,
    pub(crate) nat: Nat,
    pub(crate) penstock: bool,
    /// The peer takes messages in pieces (RFC 7383).
    pub(crate) fragments: bool,
    pub(crate) per_core: bool,
    /// The peer wants no more children (TS_MAX_QUEUE, NO_ADDITIONAL_SAS).
    pub(crate) full: bool,
    pub(crate) initial_contact: bool,
    /// The peer is known to have this IKE SA established, with its child in use.
    pub(crate) confirmed: bool,
    /// When to ask whether the peer still knows this IKE SA, which another one has replaced.
    pub(crate) probe_at: Option<u64>,
    /// When it gets new keys itself.
    pub(crate) rekey_at: Option<u64>,
    /// How often that could not be.
    pub(crate) setbacks: Setbacks,
    /// That is about to happen, so nothing else begins.
    pub(crate) renewing: bool,
    /// Our request for it, until it is answered.
    pub(crate) renewal: Option<Box<Renewal>>,
    /// Where the peer was heard and has not confirmed yet that it receives.
    pub(crate) candidate: Option<SocketAddr>,
    /// No other endpoint is asked before.
    pub(crate) confirm_from: u64,
    /// When the NAT in front of us was reminded last, and the time between two reminders once there is a peer.
    pub(crate) kept_alive: u64,
    pub(crate) keepalive_ms: Option<u64>,
    /// The IKE SA that takes over from it, and the lower nonce of that: the peer's, while our own request is not answered.
    pub(crate) heir: Option<(u64, Vec<u8>)>,
}

impl IkeSa {
    /// One of which nothing is known yet but its ends, ours and the peer's.
    pub(crate) fn empty(cx: &mut Context, now: u64, spi: u64, initiator: bool, (local, remote): (SocketAddr, SocketAddr)) -> Self {
        Self {
            spi,
            remote_spi: 0,
            initiator,
            peer: None,
            local,
            remote,
            stage: Stage::Refused,
            started: now,
            heard: now,
            first: None,
            deadline: None,
            founder: initiator,
            began: cx.tick(),
            established: None,
            nonce_i: Vec::new(),
            nonce_r: Vec::new(),
            keys: None,
            bound: Bound::default(),
            algorithms: None,
            suite: String::new(),
            requests: Requests::default(),
            replies: Replies::default(),
            children: BTreeMap::new(),
            nat: Nat::default(),
            penstock: false,
            fragments: false,
            per_core: false,
            full: false,
            initial_contact: false,
            confirmed: false,
            probe_at: None,
            rekey_at: None,
            setbacks: Setbacks::default(),
            renewing: false,
            renewal: None,
            candidate: None,
            confirm_from: 0,
            kept_alive: now,
            keepalive_ms: None,
            heir: None,
        }
    }

    /// A header of ours, for a request.
    pub(crate) fn header(&self, exchange: u8, id: u32) -> Header {
        let (spi_i, spi_r) = if self.initiator { (self.spi, self.remote_spi) } else { (self.remote_spi, self.spi) };
        Header { spi_i, spi_r, next: 0, major: 2, exchange, initiator: self.initiator, response: false, id }
    }

    /// An established one that is not being closed.
    pub(crate) fn live(&self) -> bool {
        matches!(self.stage, Stage::Established)
    }

    /// Started by us and not finished.
    pub(crate) fn starting(&self) -> bool {
        matches!(self.stage, Stage::Starting(_) | Stage::Authenticating(_))
    }

    /// Whether a child of it carries traffic.
    pub(crate) fn up(&self) -> bool {
        self.children.values().any(Child::up)
    }

    /// Whether our DELETE of the child with this SPI of the peer's waits or is on its way.
    pub(crate) fn deletes(&self, remote_spi: u32) -> bool {
        let sent = match self.requests.outstanding.as_ref().map(|request| &request.purpose) {
            Some(Purpose::DeleteChild(doomed)) => doomed.as_slice(),
            _ => &[],
        };
        let waiting = self.requests.waiting.iter().filter_map(|task| match task {
            Task::DeleteChild(doomed) => Some(doomed),
            _ => None,
        });
        sent.iter().chain(waiting.flatten()).any(|doomed| doomed.theirs == remote_spi)
    }

    /// The peer has answered our DELETE: it sends no more on these, and only what is on its way still comes.
    pub(crate) fn deleted(&mut self, cx: &mut Context, doomed: &[Doomed]) {
        self.children.retain(|_, child| {
            let gone = doomed.iter().any(|doomed| doomed.ours == child.spi);
            if gone {
                child.retire(cx);
            }
            !gone
        });
    }

    /// Sends a plain message: IKE_SA_INIT only.
    pub(crate) fn send_init(&mut self, cx: &mut Context, now: u64, chain: &Chain) -> Vec<u8> {
        let header = Header { next: chain.first(), ..self.header(exchange::INIT, 0) };
        let message = plain(&header, chain);
        cx.send(self.local, self.remote, message.clone());
        let request = Outstanding::new(0, vec![message.clone()], Purpose::Init, now, &cx.config, &mut cx.jitter);
        self.requests.outstanding = Some(request);
        self.requests.next = 1;
        message
    }

    /// The next moment at which something is due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let request = self.requests.outstanding.as_ref().map(|request| request.due);
        let children = self.children.values().flat_map(|child| [child.deadline, child.rekey_at]).flatten();
        [request, self.deadline, self.probe_at, self.rekey_at, self.keepalive_at()].into_iter().flatten().chain(children).min()
    }

    /// One word for people.
    pub(crate) fn stage_name(&self) -> &'static str {
        match self.stage {
            Stage::Starting(_) => "starting",
            Stage::HalfOpen(_) => "half-open",
            Stage::Authenticating(_) | Stage::Answering => "authenticating",
            Stage::Refused => "refused",
            Stage::Established => "established",
            Stage::Replaced => "replaced",
            Stage::Leaving | Stage::Parting(_) => "leaving",
        }
    }
}

/// A message without protection.
pub(crate) fn plain(header: &Header, chain: &Chain) -> Vec<u8> {
    let mut message = Vec::with_capacity(header::BYTES + chain.bytes().len());
    Header { next: chain.first(), ..*header }.write(chain.bytes().len(), &mut message);
    message.extend_from_slice(chain.bytes());
    message
}
