//! Descriptors come in, are looked at, and workers are made from them.

use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use penstock_uapi::request::{AttachCore, Start, feature};
use penstock_uapi::{CORES_MAX, Role, Status};
use socket2::{Domain, Protocol, SockRef, Type};

use super::Admin;
use super::requests::Outcome;
use crate::handoff::mail;
use crate::path::Config;
use crate::sandbox;
use crate::tun::queue;
use crate::worker::desk::Desk;
use crate::worker::{self, Files, Plan, Ready, Set};
use crate::{limits, log};

/// What was handed over for one core.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) cpu: u16,
    pub(super) descriptors: Vec<(Role, OwnedFd)>,
}

impl Attached {
    /// Whether the second set has all that the first one has.
    fn has_second(&self) -> bool {
        let has = |role| self.descriptors.iter().any(|(is, _)| *is == role);
        has(Role::Second4) == has(Role::Shared4) && has(Role::Second6) == has(Role::Shared6)
    }
}

/// One core that runs.
#[derive(Debug)]
pub(super) struct RunningCore {
    pub(super) desk: Arc<Desk>,
    pub(super) ring: bool,
    /// Orders given so far.
    pub(super) ordered: u64,
}

/// The workers.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) start: Start,
    pub(super) features: u16,
    pub(super) cores: Vec<RunningCore>,
}

impl Running {
    /// Another engine reads the TUN queues, and it is not certain that this one ever will.
    pub(super) fn waits(&self) -> bool {
        self.start.waits == 1
    }
}

impl Admin {
    pub(super) fn attach(&mut self, attach: &AttachCore, descriptors: Vec<OwnedFd>) -> Outcome {
        if self.running.is_some() {
            return Err(Status::Order);
        }
        let core = usize::from(attach.core.get());
        if core >= CORES_MAX {
            return Err(Status::Unknown);
        }
        if self.attached.get(core).is_some_and(Option::is_some) {
            return Err(Status::Exists);
        }
        let roles: Vec<Role> = Role::in_mask(attach.roles.get()).ok_or(Status::Malformed)?.collect();
        let complete = roles.len() == descriptors.len() && is_complete(&roles, core == 0);
        let descriptors: Vec<(Role, OwnedFd)> = roles.into_iter().zip(descriptors).collect();
        if !complete || !descriptors.iter().all(|(role, fd)| is_as_said(*role, fd)) {
            return Err(Status::Descriptors);
        }
        if self.attached.len() <= core {
            self.attached.resize_with(core + 1, || None);
        }
        self.attached[core] = Some(Attached { cpu: attach.cpu.get(), descriptors });
        Ok(())
    }

    pub(super) fn start(&mut self, start: &Start) -> Outcome {
        if self.running.is_some() {
            return Err(Status::Exists);
        }
        let cores = usize::from(start.cores.get());
        let sane = limits::MTU.contains(&start.mtu.get())
            && matches!(start.vnet_header_bytes, 10 | 12)
            && start.generation < 4
            && start.drop_stale < 2
            && start.waits < 2
            && start.features.get() & !feature::ALL == 0;
        let set = Set::from_number(start.set).filter(|_| sane && cores > 0).ok_or(Status::Malformed)?;
        if set == Set::Second && self.attached.iter().flatten().any(|attached| !attached.has_second()) {
            return Err(Status::Order);
        }
        if cores != self.attached.len() || self.attached.iter().any(Option::is_none) {
            return Err(Status::Order);
        }
        let running = self.spawn(start, set, cores).map_err(|error| {
            log::line(format_args!("cannot start: {error}"));
            Status::Unsupported
        })?;
        self.policies.start(cores);
        self.running = Some(running);
        Ok(())
    }

    fn spawn(&self, start: &Start, set: Set, cores: usize) -> Result<Running, String> {
        let text = |error: std::io::Error| error.to_string();
        let desks = (0..cores).map(|_| Desk::new(Arc::clone(&self.bell)).map(Arc::new)).collect::<Result<Vec<_>, _>>().map_err(text)?;
        let features = self.options.features & start.features.get();
        let (sender, ready) = mpsc::channel();
        let rooms = mail::mailrooms(&desks);
        for (((core, desk), mail), attached) in (0u16..).zip(&desks).zip(rooms).zip(self.attached.iter().flatten()) {
            let plan = Plan {
                path: Config {
                    core,
                    cores: start.cores.get(),
                    mtu: start.mtu.get().into(),
                    vnet_header_bytes: start.vnet_header_bytes.into(),
                    uso: features & feature::USO != 0,
                    pairs_max: limits::PAIRS_PER_CORE,
                },
                cpu: attached.cpu,
                files: Files::duplicate(&attached.descriptors, set).map_err(text)?,
                desk: Arc::clone(desk),
                mail,
                epoch: self.epoch,
                ring: features & feature::RING != 0,
                read_multishot: features & feature::READ_MULTISHOT != 0,
                gather: features & feature::GATHER != 0,
                gso: features & feature::GSO != 0,
                poll: Duration::from_micros(start.poll_us.get().into()),
                drop_stale: start.drop_stale == 1,
                reads_tun: start.waits == 0,
                sandbox: self.options.sandbox.is_some(),
            };
            worker::spawn(plan, sender.clone()).map_err(text)?;
        }
        drop(sender);
        let mut rings = vec![false; cores];
        for _ in 0..cores {
            let ready = ready.recv_timeout(limits::START_PATIENCE).map_err(|error| error.to_string())?;
            let Ready { core, ring, notes } = ready?;
            notes.iter().for_each(log::line);
            rings.iter_mut().skip(core.into()).take(1).for_each(|place| *place = ring);
        }
        if self.options.sandbox.is_some() {
            sandbox::tighten().map_err(|error| error.to_string())?;
        }
        let without_ring = if rings.contains(&true) { 0 } else { feature::ON_RING };
        let cores = desks.into_iter().zip(rings).map(|(desk, ring)| RunningCore { desk, ring, ordered: 0 }).collect();
        Ok(Running { start: *start, features: features & !without_ring, cores })
    }
}

/// A core needs its TUN queue and both sockets of at least one family; control's own sockets come with core 0 only.
fn is_complete(roles: &[Role], first: bool) -> bool {
    let has = |role| roles.contains(&role);
    let pairs = [(Role::Shared4, Role::Own4), (Role::Shared6, Role::Own6)];
    has(Role::Tun)
        && !has(Role::Listen)
        && (first || !(has(Role::Ike4) || has(Role::Ike6)))
        && pairs.iter().all(|(shared, own)| has(*shared) == has(*own))
        && pairs.iter().any(|(shared, _)| has(*shared))
}

/// Whether a descriptor can play its role: whatever else it may be would be read and written by a worker.
fn is_as_said(role: Role, fd: &OwnedFd) -> bool {
    let domain = match role {
        Role::Tun => return queue::is_tun(fd),
        Role::Listen => return false,
        Role::Shared4 | Role::Second4 | Role::Own4 | Role::Ike4 => Domain::IPV4,
        Role::Shared6 | Role::Second6 | Role::Own6 | Role::Ike6 => Domain::IPV6,
    };
    let socket = SockRef::from(fd);
    socket.domain().is_ok_and(|is| is == domain)
        && socket.r#type().is_ok_and(|is| is == Type::DGRAM)
        && socket.protocol().is_ok_and(|is| is == Some(Protocol::UDP))
}
