//! The descriptors that control keeps of everything it handed to the engine, so that device and ports outlive the
//! engine, and a next one gets the very same.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use penstock_uapi::Role;

use super::Stop;
use crate::engine::{Client, HandedBack};
use crate::socket::{self, Family};
use crate::steer::Steering;
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
    /// Which set of the group's members the engine reads, 0 or 1 (see [`penstock_uapi::request::Start::set`]).
    set: u8,
}

/// The parts that a family's sockets play: control's, and for each core its member in either set and the one with a port of its own.
struct Roles {
    ike: Role,
    sets: [Role; 2],
    own: Role,
}

const FAMILIES: [Roles; 2] = [
    Roles { ike: Role::Ike4, sets: [Role::Shared4, Role::Second4], own: Role::Own4 },
    Roles { ike: Role::Ike6, sets: [Role::Shared6, Role::Second6], own: Role::Own6 },
];

impl Devices {
    /// Of a fresh start.
    pub(super) fn new(cpus: &[u16], queues: Queues, families: (Option<Family>, Option<Family>)) -> Self {
        let mut cores: Vec<Core> =
            cpus.iter().zip(queues.queues).map(|(cpu, queue)| Core { cpu: *cpu, descriptors: vec![(Role::Tun, queue)] }).collect();
        let (v4, v6) = families;
        for (family, Roles { ike, sets: [shared, _], own }) in [v4, v6].into_iter().zip(FAMILIES) {
            let Some(family) = family else { continue };
            for (core, (shared_fd, own_fd)) in cores.iter_mut().zip(family.shared.into_iter().zip(family.own)) {
                core.descriptors.extend([(shared, shared_fd), (own, own_fd)]);
            }
            if let Some(first) = cores.first_mut() {
                first.descriptors.push((ike, family.ike));
            }
        }
        Self { cores, set: 0 }
    }

    /// Of an engine that goes on, and reads this set: every descriptor is what it should be, or none is taken.
    pub(super) fn adopt(mut handed_back: Vec<HandedBack>, set: u8, device: &str, port: u16) -> Result<Self, Stop> {
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
        let devices = Self { cores, set };
        if devices.find(Role::Ike4).or(devices.find(Role::Ike6)).is_none() {
            return Err(foreign("it holds no IKE socket".into()));
        }
        // Control may have died while one engine relieved another.
        devices.steer(None).map_err(|error| foreign(error.to_string()))?;
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
        Ok(Self { cores: self.cores.iter().zip(queues).map(core).collect::<std::io::Result<_>>()?, set: self.set })
    }

    /// What an engine gets that is to relieve the one that has these: the same queues, the other set of members, which is made if it is
    /// not there yet, and source ports of its own. The set of before is only kept open by it.
    pub(super) fn relief(&self, plan: &socket::Plan) -> Result<Self, Stop> {
        let failed = |error: std::io::Error| Stop::Failed(error.to_string());
        let set = 1 - self.set.min(1);
        let kept = |core: &Core| -> std::io::Result<Core> {
            let kept = core.descriptors.iter().filter(|(role, _)| FAMILIES.iter().all(|family| family.own != *role));
            let descriptors = kept.map(|(role, fd)| Ok((*role, fd.try_clone()?))).collect::<std::io::Result<_>>()?;
            Ok(Core { cpu: core.cpu, descriptors })
        };
        let mut cores = self.cores.iter().map(kept).collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
        let addresses = [plan.v4.map(IpAddr::V4), plan.v6.map(IpAddr::V6)];
        for (Roles { ike, sets, own }, ip) in FAMILIES.into_iter().zip(addresses) {
            // A family that this machine lacks has no IKE socket, whatever was planned.
            let Some(ip) = ip.filter(|_| self.find(ike).is_some()) else { continue };
            let [first, second] = sets;
            let other = if set == 0 { first } else { second };
            let further = socket::open_further(plan, ip, self.find(other).is_none()).map_err(|error| Stop::Failed(error.to_string()))?;
            for (core, fd) in cores.iter_mut().zip(further.shared.into_iter().flatten()) {
                core.descriptors.push((other, fd));
            }
            for (core, fd) in cores.iter_mut().zip(further.own) {
                core.descriptors.push((own, fd));
            }
        }
        Ok(Self { cores, set })
    }

    /// Says which member of the groups gets what: all for the set in use, but for SPIs of the generation of an engine that is to relieve
    /// the one that reads it.
    pub(super) fn steer(&self, relief: Option<u8>) -> std::io::Result<()> {
        let relief = relief.map(|generation| (generation, 1 - self.set.min(1)));
        let steering = Steering { cores: self.count(), set: self.set, relief };
        FAMILIES.iter().filter_map(|family| self.find(family.ike)).try_for_each(|ike| socket::steer(ike, steering))
    }

    /// Which set of members the engine reads.
    pub(super) fn set(&self) -> u8 {
        self.set
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
