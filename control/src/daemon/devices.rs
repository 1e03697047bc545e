//! The descriptors that control keeps of everything it handed to the engine, so that device and ports outlive the
//! engine, and a next one gets the very same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use penstock_uapi::Role;

use super::Stop;
use crate::engine::{Client, HandedBack};
use crate::socket::{self, Family};
use crate::tun::{self, Queues};

/// One core's descriptors.
#[derive(Debug)]
struct Core {
    cpu: u16,
    descriptors: Vec<(Role, OwnedFd)>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Devices {
    cores: Vec<Core>,
}

impl Devices {
    /// Of a fresh start.
    pub(super) fn new(cpus: &[u16], queues: Queues, families: (Option<Family>, Option<Family>)) -> Self {
        let mut cores: Vec<Core> =
            cpus.iter().zip(queues.queues).map(|(cpu, queue)| Core { cpu: *cpu, descriptors: vec![(Role::Tun, queue)] }).collect();
        let (v4, v6) = families;
        let roles = [(v4, Role::Shared4, Role::Own4, Role::Ike4), (v6, Role::Shared6, Role::Own6, Role::Ike6)];
        for (family, shared, own, ike) in roles {
            let Some(family) = family else { continue };
            for (core, (shared_fd, own_fd)) in cores.iter_mut().zip(family.shared.into_iter().zip(family.own)) {
                core.descriptors.extend([(shared, shared_fd), (own, own_fd)]);
            }
            if let Some(first) = cores.first_mut() {
                first.descriptors.push((ike, family.ike));
            }
        }
        Self { cores }
    }

    /// Of an engine that goes on: every descriptor is what it should be, or none is taken.
    pub(super) fn adopt(mut handed_back: Vec<HandedBack>, device: &str, port: u16) -> Result<Self, Stop> {
        let foreign = |reason: String| {
            Stop::Failed(format!(
                "the running engine belongs to another configuration ({reason}); end it with its daemon, then start again"
            ))
        };
        handed_back.sort_by_key(|core| core.core);
        let mut cores = Vec::new();
        for core in handed_back {
            let mut descriptors = core.descriptors;
            descriptors.retain(|(role, _)| *role != Role::Listen);
            for (role, fd) in &descriptors {
                match role {
                    Role::Tun => tun::verify(device, fd).map_err(|error| foreign(error.to_string()))?,
                    role => socket::verify(*role, port, fd.as_fd()).map_err(|error| foreign(error.to_string()))?,
                }
            }
            cores.push(Core { cpu: core.cpu, descriptors });
        }
        let devices = Self { cores };
        if devices.find(Role::Ike4).or(devices.find(Role::Ike6)).is_none() {
            return Err(foreign("it holds no IKE socket".into()));
        }
        Ok(devices)
    }

    /// The name that the TUN device of these queues has now, if it is still there.
    pub(super) fn device(&self) -> Option<String> {
        self.find(Role::Tun).and_then(tun::name_of)
    }

    /// The same sockets with the queues of another device, one a core.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub(super) fn with_queues(&self, queues: Vec<OwnedFd>) -> std::io::Result<Self> {
        let sockets = |core: &Core| -> std::io::Result<Vec<(Role, OwnedFd)>> {
            let kept = core.descriptors.iter().filter(|(role, _)| *role != Role::Tun);
            kept.map(|(role, fd)| Ok((*role, fd.try_clone()?))).collect()
        };
        let core = |(core, queue): (&Core, OwnedFd)| -> std::io::Result<Core> {
            let mut descriptors = vec![(Role::Tun, queue)];
            descriptors.extend(sockets(core)?);
            Ok(Core { cpu: core.cpu, descriptors })
        };
        Ok(Self { cores: self.cores.iter().zip(queues).map(core).collect::<std::io::Result<_>>()? })
    }

    fn find(&self, wanted: Role) -> Option<BorrowedFd<'_>> {
        let all = self.cores.iter().flat_map(|core| &core.descriptors);
        all.into_iter().find(|(role, _)| *role == wanted).map(|(_, fd)| fd.as_fd())
    }

    /// A duplicate of one of the IKE sockets, if that family is in use.
    pub(super) fn ike(&self, role: Role) -> Option<std::io::Result<OwnedFd>> {
        self.find(role).map(|fd| fd.try_clone_to_owned())
    }

    /// The CPU of each core.
    pub(super) fn cpus(&self) -> Vec<u16> {
        self.cores.iter().map(|core| core.cpu).collect()
    }

    /// How many cores there are.
    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.cores.len()).unwrap_or(u16::MAX)
    }

    /// Hands everything to an engine.
    pub(super) async fn attach(&self, engine: &Client) -> Result<(), crate::engine::EngineError> {
        for (number, core) in (0..).zip(&self.cores) {
            let descriptors: Vec<_> = core.descriptors.iter().map(|(role, fd)| (*role, fd.as_fd())).collect();
            engine.attach(number, core.cpu, &descriptors).await?;
        }
        Ok(())
    }
}
