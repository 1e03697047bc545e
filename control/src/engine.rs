//! The client of the engine's socket: requests with ids and their answers, events as they come.
//!
//! ```text
//!   Client::ask ── frame, id ──► engine        reader task ◄── answer, id ──► the waiting ask
//!                                                          ◄── event (id 0) ──► the daemon's queue
//! ```
//! What the engine says is treated as hostile input: a frame that does not parse ends the connection, and nothing it
//! says can make this process keep more than a bounded number of answers.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use penstock_uapi::frame::Body;
use penstock_uapi::install;
use penstock_uapi::reply::{CoreState, HandBack, PolicyState, SaState, Welcome};
use penstock_uapi::request::{
    AttachCore, Hello, Inject, MAGIC, Pair, Policy, PolicyBegin, PolicyCommit, PolicyPairs, ReadState, Shutdown, Start, TakeQueues,
};
use penstock_uapi::{Endpoint, Kind, Role, Status, VERSION};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::sync::mpsc;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use connection::{Answer, Connection, nonsense};
pub use event::Event;

mod connection;
mod event;

/// How long the engine may take over one request; its cores answer between two batches.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most events that may wait for the daemon.
const EVENTS_MAX: usize = 4096;

/// Pairs in one frame: far below the frame's limit.
const PAIRS_PER_FRAME: usize = 512;

/// Why the engine did not do something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It cannot be reached.
    #[error("no engine at {path}: {error}")]
    Unreachable {
        /// Its socket.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// It refused.
    #[error("the engine refuses {what:?}: {}", .status.text())]
    Refused {
        /// The request.
        what: Kind,
        /// Its answer.
        status: Status,
    },
    /// The connection ended.
    #[error("the engine is gone: no answer to {what:?}")]
    Lost {
        /// The request.
        what: Kind,
    },
    /// It did not answer in time.
    #[error("the engine does not answer {what:?}")]
    Silent {
        /// The request.
        what: Kind,
    },
    /// It answered something without meaning.
    #[error("the engine's answer makes no sense: {0}")]
    Nonsense(String),
}

/// A core as a running engine handed it back.
#[derive(Debug)]
pub struct HandedBack {
    /// Which core.
    pub core: u16,
    /// The CPU that it is pinned to.
    pub cpu: u16,
    /// Its descriptors.
    pub descriptors: Vec<(Role, OwnedFd)>,
}

/// Everything the engine counts.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Per core.
    pub cores: Vec<CoreState>,
    /// Per policy.
    pub policies: Vec<PolicyState>,
    /// Per pair of SAs.
    pub sas: Vec<SaState>,
}

impl State {
    /// Adds what another engine knows that runs beside it.
    pub fn add(&mut self, other: Self) {
        let sum = |to: &mut U64, more: U64| *to = U64::new(to.get().saturating_add(more.get()));
        for core in other.cores {
            let Some(to) = self.cores.iter_mut().find(|to| to.core == core.core) else { continue };
            to.counters.iter_mut().zip(core.counters).for_each(|(to, more)| sum(to, more));
            to.drops.iter_mut().zip(core.drops).for_each(|(to, more)| sum(to, more));
        }
        let mut places: HashMap<u32, usize> = HashMap::new();
        places.extend(self.policies.iter().enumerate().map(|(place, policy)| (policy.policy.get(), place)));
        for policy in other.policies {
            let Some(to) = places.get(&policy.policy.get()).and_then(|place| self.policies.get_mut(*place)) else {
                self.policies.push(policy);
                continue;
            };
            sum(&mut to.outbound_packets, policy.outbound_packets);
            sum(&mut to.outbound_bytes, policy.outbound_bytes);
            sum(&mut to.inbound_packets, policy.inbound_packets);
            sum(&mut to.inbound_bytes, policy.inbound_bytes);
            to.idle_ms = to.idle_ms.min(policy.idle_ms);
        }
        self.sas.extend(other.sas);
    }
}

/// One policy as the engine is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyOrder {
    /// Its number.
    pub policy: u32,
    /// The peer's name.
    pub name: String,
    /// What may pass, in order of preference.
    pub pairs: Vec<Pair>,
    /// Its pairs are those of the table in force; `pairs` is empty.
    pub keep: bool,
}

/// A connection to an engine. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Rc<Connection>,
}

impl Client {
    /// Connects and introduces itself as the writer; returns what a running engine hands back.
    ///
    /// # Errors
    /// If nobody listens, or the engine refuses.
    pub async fn connect(path: &Path) -> Result<(Self, Welcome, Vec<HandedBack>, mpsc::Receiver<Event>), EngineError> {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let connection =
            Connection::open(path, sender).map_err(|error| EngineError::Unreachable { path: path.display().to_string(), error })?;
        let client = Self { connection };
        let hello = Hello { magic: U32::new(MAGIC), version: U16::new(VERSION), writer: 1, reserved: 0 };
        let answers = client.request(&hello, &[], &[]).await?;
        let (mut welcome, cores) = read_welcome(answers)?;
        // The engine knows only the number that it has in its own process namespace.
        if let Ok(pid) = client.connection.process() {
            welcome.pid = U32::new(pid);
        }
        Ok((client, welcome, cores, events))
    }

    /// Hands over one core's descriptors; the engine gets duplicates.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn attach(&self, core: u16, cpu: u16, descriptors: &[(Role, BorrowedFd<'_>)]) -> Result<(), EngineError> {
        let mut ordered = descriptors.to_vec();
        ordered.sort_by_key(|(role, _)| role.bit());
        let roles = ordered.iter().fold(0, |bits, (role, _)| bits | role.bit());
        let body = AttachCore { core: U16::new(core), cpu: U16::new(cpu), roles: U32::new(roles) };
        let fds: Vec<_> = ordered.into_iter().map(|(_, fd)| fd).collect();
        self.request(&body, &[], &fds).await.map(drop)
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn start(&self, start: &Start) -> Result<(), EngineError> {
        self.request(start, &[], &[]).await.map(drop)
    }

    /// Replaces the policy table, whole or not at all.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn set_policies(&self, generation: u64, policies: &[PolicyOrder]) -> Result<(), EngineError> {
        let generation = U64::new(generation);
        self.request(&PolicyBegin { generation }, &[], &[]).await?;
        let mut pairs = 0;
        for order in policies {
            let policy = U32::new(order.policy);
            let mut name = [0; 64];
            name.iter_mut().zip(order.name.bytes()).for_each(|(to, from)| *to = from);
            self.request(&Policy { policy, keep: U32::new(order.keep.into()), name }, &[], &[]).await?;
            for some in order.pairs.chunks(PAIRS_PER_FRAME) {
                let count = U32::new(u32::try_from(some.len()).unwrap_or(u32::MAX));
                self.request(&PolicyPairs { policy, count }, some.as_bytes(), &[]).await?;
            }
            pairs += order.pairs.len();
        }
        let count = |number: usize| U32::new(u32::try_from(number).unwrap_or(u32::MAX));
        let commit = PolicyCommit { generation, policies: count(policies.len()), pairs: count(pairs) };
        self.request(&commit, &[], &[]).await.map(drop)
    }

    /// Gives the engine an ESP packet that came to control's own socket.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn inject(&self, from: SocketAddr, to: SocketAddr, tos: u8, packet: &[u8]) -> Result<(), EngineError> {
        let body = Inject { from: Endpoint::from(from), to: Endpoint::from(to), tos, reserved: [0; 3] };
        self.request(&body, packet, &[]).await.map(drop)
    }

    /// Reads all counters and SAs.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn state(&self) -> Result<State, EngineError> {
        let mut state = State::default();
        for answer in self.request(&ReadState { reserved: U32::ZERO }, &[], &[]).await? {
            match answer.kind {
                Kind::CoreState => state.cores.push(*answer.body(Kind::ReadState)?),
                Kind::PolicyState => state.policies.push(*answer.body(Kind::ReadState)?),
                Kind::SaState => state.sas.push(*answer.body(Kind::ReadState)?),
                _ => (),
            }
        }
        Ok(state)
    }

    /// Ends the engine; inbound SAs go on receiving for `drain`.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn shutdown(&self, drain: Duration) -> Result<(), EngineError> {
        let drain_ms = U32::new(u32::try_from(drain.as_millis()).unwrap_or(u32::MAX));
        self.request(&Shutdown { drain_ms }, &[], &[]).await.map(drop)
    }

    /// Tells an engine that was started to wait that the TUN queues are its own.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn take_queues(&self) -> Result<(), EngineError> {
        self.request(&TakeQueues { reserved: U32::ZERO }, &[], &[]).await.map(drop)
    }

    /// Has an engine add to its counters what one before it has counted.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn credit(&self, counted: &State) -> Result<(), EngineError> {
        for core in &counted.cores {
            self.request(core, &[], &[]).await?;
        }
        for policy in &counted.policies {
            self.request(policy, &[], &[]).await?;
        }
        Ok(())
    }

    async fn request<B: Body>(&self, body: &B, tail: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Vec<Answer>, EngineError> {
        let exchange = self.connection.exchange(body, tail, fds);
        tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| EngineError::Silent { what: B::KIND })?
    }
}

impl install::Engine for Client {
    type Error = EngineError;

    async fn ask<B: Body>(&self, body: &B) -> Result<(), EngineError> {
        self.request(body, &[], &[]).await.map(drop)
    }
}

const HELLO: Kind = Kind::Hello;

fn read_welcome(answers: Vec<Answer>) -> Result<(Welcome, Vec<HandedBack>), EngineError> {
    let mut welcome = None;
    let mut cores = Vec::new();
    for mut answer in answers {
        match answer.kind {
            Kind::Welcome => welcome = Some(*answer.body::<Welcome>(HELLO)?),
            Kind::HandBack => {
                let body: HandBack = *answer.body(HELLO)?;
                let roles = Role::in_mask(body.roles.get()).ok_or_else(|| nonsense(HELLO, "unknown role"))?;
                let roles: Vec<Role> = roles.collect();
                if roles.len() != answer.descriptors.len() {
                    let count = answer.descriptors.len();
                    return Err(nonsense(HELLO, format!("{count} descriptors for {} roles", roles.len())));
                }
                let descriptors = roles.into_iter().zip(answer.descriptors.drain(..)).collect();
                cores.push(HandedBack { core: body.core.get(), cpu: body.cpu.get(), descriptors });
            }
            _ => (),
        }
    }
    let welcome = welcome.ok_or_else(|| nonsense(HELLO, "no welcome"))?;
    Ok((welcome, cores))
}
