//! From a frame to its answer: who may ask what, and which part of the engine carries it out.

use std::os::fd::{AsFd, OwnedFd};

use penstock_uapi::frame::{self, Frame, HEADER_BYTES};
use penstock_uapi::reply::{HandBack, Welcome};
use penstock_uapi::request::{Hello, MAGIC};
use penstock_uapi::{Kind, Role, Status, VERSION};
use zerocopy::little_endian::{U16, U32, U64};

use super::Admin;
use super::attach::Attached;

/// The answer to a request that changed nothing, or `Done`.
pub(super) type Outcome = Result<(), Status>;

impl Admin {
    /// Answers one frame of a client.
    pub(super) fn answer(&mut self, at: usize, bytes: &[u8], descriptors: Vec<OwnedFd>) {
        let frame = match Frame::parse(bytes) {
            Ok(frame) => frame,
            Err(_) => return self.refuse(at, bytes),
        };
        let status = match (frame.kind, self.may(at, frame.kind)) {
            (_, Err(status)) => status,
            (Kind::Hello, _) => match self.hello(at, &frame) {
                Ok(()) => return,
                Err(status) => status,
            },
            (Kind::ReadState, _) => match self.read_state(at, &frame) {
                Ok(()) => Status::Done,
                Err(status) => status,
            },
            _ => self.carry_out(&frame, descriptors).err().unwrap_or(Status::Done),
        };
        self.close_answer(at, status, frame.request);
    }

    fn close_answer(&mut self, at: usize, status: Status, request: u64) {
        if let Some(client) = self.clients.get_mut(at) {
            client.send(frame::answer(status, request), &[]);
        }
    }

    /// Bytes that are no frame: the answer names the request if it can be made out, else the connection ends.
    fn refuse(&mut self, at: usize, bytes: &[u8]) {
        let request = bytes.get(8..HEADER_BYTES).and_then(<[u8]>::first_chunk).map(|id| u64::from_le_bytes(*id));
        match request {
            Some(request) => self.close_answer(at, Status::Malformed, request),
            None => self.clients.iter_mut().skip(at).take(1).for_each(super::Client::dismiss),
        }
    }

    /// Whether a client may ask this now.
    fn may(&self, at: usize, kind: Kind) -> Outcome {
        let client = self.clients.get(at).ok_or(Status::Order)?;
        match kind {
            Kind::Hello if client.is_known() => Err(Status::Order),
            Kind::Hello => Ok(()),
            _ if !client.is_known() => Err(Status::Order),
            Kind::ReadState => Ok(()),
            _ if !client.is_writer() => Err(Status::NotWriter),
            // Until then packets come, and it may be told to end sooner.
            Kind::Inject | Kind::Shutdown => Ok(()),
            _ if self.ends.is_some() => Err(Status::Order),
            _ => Ok(()),
        }
    }

    fn carry_out(&mut self, frame: &Frame<'_>, descriptors: Vec<OwnedFd>) -> Outcome {
        if !descriptors.is_empty() && frame.kind != Kind::AttachCore {
            return Err(Status::Descriptors);
        }
        match frame.kind {
            Kind::AttachCore => self.attach(body(frame)?, descriptors),
            Kind::Start => self.start(body(frame)?),
            Kind::PolicyBegin => self.policies.begin(body(frame)?),
            Kind::Policy => self.policies.add(body(frame)?),
            Kind::PolicyPairs => {
                let (pairs, tail) = frame.body_and_tail().map_err(|_| Status::Malformed)?;
                self.policies.add_pairs(pairs, tail)
            }
            Kind::PolicyCommit => self.commit_policies(body(frame)?),
            Kind::ExpectSpi => self.expect_spi(body(frame)?),
            Kind::InstallInbound => self.install_inbound(body(frame)?),
            Kind::InstallOutbound => self.install_outbound(body(frame)?),
            Kind::Redirect => self.redirect(body(frame)?),
            Kind::Retire => self.retire(body(frame)?),
            Kind::Inject => {
                let (inject, tail) = frame.body_and_tail().map_err(|_| Status::Malformed)?;
                self.inject(inject, tail)
            }
            Kind::Shutdown => self.shutdown(body(frame)?),
            Kind::TakeQueues => self.take_queues(body(frame)?),
            Kind::CoreState => self.credit.add_core(body(frame)?),
            Kind::PolicyState => self.credit.add_policy(body(frame)?),
            // Answers and events are not for us to hear.
            _ => Err(Status::Malformed),
        }
    }

    fn hello(&mut self, at: usize, frame: &Frame<'_>) -> Outcome {
        let hello: &Hello = body(frame)?;
        if hello.magic.get() != MAGIC || hello.writer > 1 {
            return Err(Status::Malformed);
        }
        if hello.version.get() != VERSION {
            return Err(Status::Version);
        }
        let writer = hello.writer == 1;
        if writer && self.clients.iter().any(super::Client::is_writer) {
            return Err(Status::NotWriter);
        }
        if writer && self.running.is_none() {
            // What a control handed over that died before it could start anything is of no use to the next one.
            self.attached.clear();
        }
        self.introduce(at, writer, frame.request);
        Ok(())
    }

    fn introduce(&mut self, at: usize, writer: bool, request: u64) {
        let (running, hands_back) = (self.running.as_ref(), writer && self.running.is_some());
        let start = running.map(|running| &running.start);
        let level = self.options.sandbox.unwrap_or_default();
        let welcome = Welcome {
            version: U16::new(VERSION),
            cores: start.map_or(U16::ZERO, |start| start.cores),
            hand_backs: if hands_back { start.map_or(U16::ZERO, |start| start.cores) } else { U16::ZERO },
            features: U16::new(running.map_or(self.options.features, |running| running.features)),
            mtu: start.map_or(U16::ZERO, |start| start.mtu),
            vnet_header_bytes: start.map_or(0, |start| start.vnet_header_bytes),
            generation: start.map_or(0, |start| start.generation),
            pid: U32::new(std::process::id()),
            life: self.life,
            policy_generation: U64::new(self.policies.generation()),
            age_ms: U64::new(self.now_ms()),
            protections: U16::new(level.protections),
            landlock: level.landlock,
            set: start.map_or(0, |start| start.set),
        };
        let Self { clients, attached, listener, .. } = self;
        let hand_backs = if hands_back { hand_backs(attached, listener) } else { Vec::new() };
        let Some(client) = clients.get_mut(at) else { return };
        client.introduce(writer);
        let last = hand_backs.len();
        let status = |number: usize| if number == last { Status::Done } else { Status::More };
        client.send(frame::encode(status(0), request, &welcome, &[]), &[]);
        for (number, (hand_back, descriptors)) in hand_backs.into_iter().enumerate() {
            let borrowed: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
            client.send(frame::encode(status(number + 1), request, &hand_back, &[]), &borrowed);
        }
    }
}

/// Every core's descriptors, with core 0 the listening socket too, in travelling order.
fn hand_backs<'a>(attached: &'a [Option<Attached>], listener: &'a OwnedFd) -> Vec<(HandBack, Vec<&'a OwnedFd>)> {
    let mut all = Vec::new();
    for (core, attached) in (0u16..).zip(attached.iter().flatten()) {
        let mut parts: Vec<(Role, &OwnedFd)> = attached.descriptors.iter().map(|(role, fd)| (*role, fd)).collect();
        if core == 0 {
            parts.push((Role::Listen, listener));
        }
        parts.sort_by_key(|(role, _)| role.bit());
        let roles = parts.iter().fold(0, |bits, (role, _)| bits | role.bit());
        let hand_back = HandBack { core: U16::new(core), cpu: U16::new(attached.cpu), roles: U32::new(roles) };
        all.push((hand_back, parts.into_iter().map(|(_, fd)| fd).collect()));
    }
    all
}

/// The frame's body as a fixed layout.
pub(super) fn body<'a, B: frame::Body>(frame: &Frame<'a>) -> Result<&'a B, Status> {
    frame.body().map_err(|_| Status::Malformed)
}
