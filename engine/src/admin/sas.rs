//! SA pairs as the admin thread knows them: what stands where and in which order it may change, without any key. An order that
//! a core is given has been judged here; the core only carries it out.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use penstock_uapi::reply::phase;
use penstock_uapi::request::{ExpectSpi, Inject, InstallInbound, InstallOutbound, Key, Redirect, Retire, source, switch};
use penstock_uapi::{Spi, Status};

use super::Admin;
use super::prints::{Print, Prints};
use super::requests::Outcome;
use crate::esp::replay;
use crate::handoff::mail::{Content, Parcel};
use crate::limits;
use crate::path::{Order, Receive, Remains};
use crate::sa::{Inbound, Outbound, Pair, Shared};
use crate::slots::Source;
use crate::sys::wait::{Interest, poll};
use crate::worker::desk::Errand;

/// One pair.
#[derive(Debug)]
pub(super) struct Sa {
    pub(super) policy: u32,
    pub(super) core: u16,
    pub(super) shared: Arc<Shared>,
    pub(super) inbound: Option<Half>,
    pub(super) outbound: Option<OutboundHalf>,
    pub(super) retired: bool,
}

/// What is known of the inbound half.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half {
    pub(super) suite: u8,
    pub(super) esn: u8,
    pub(super) installed_ms: u64,
}

/// What is known of the outbound half.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutboundHalf {
    pub(super) spi: u32,
    pub(super) remote: SocketAddr,
    pub(super) source: u8,
    pub(super) fallback: u8,
    pub(super) per_core: u8,
}

/// All pairs, and which keys have been here.
#[derive(Debug)]
pub(super) struct Master {
    pairs: HashMap<u32, Sa>,
    prints: Prints,
}

impl Master {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { pairs: HashMap::new(), prints: Prints::new()? })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Sa)> {
        self.pairs.iter().map(|(spi, sa)| (*spi, sa))
    }

    pub(super) fn spis(&self) -> Vec<u32> {
        self.pairs.keys().copied().collect()
    }

    /// The pairs whose policy does not pass.
    pub(super) fn spis_without(&self, keep: impl Fn(u32) -> bool) -> Vec<u32> {
        self.all().filter(|(_, sa)| !keep(sa.policy)).map(|(spi, _)| spi).collect()
    }

    /// A core gave something away. A pair that is still the one known here has ended.
    pub(super) fn forget(&mut self, remains: &Remains) {
        if let Remains::Pair(pair) = remains
            && self.pairs.get(&pair.spi).is_some_and(|sa| Arc::ptr_eq(&sa.shared, &pair.shared))
        {
            self.pairs.remove(&pair.spi);
        }
    }

    /// The fingerprint of a key that is well formed and has never been here.
    fn print_of(&self, key: &Key) -> Result<Print, Status> {
        let print = self.prints.of(key).filter(|_| key.esn < 2).ok_or(Status::Malformed)?;
        if self.prints.has(&print) { Err(Status::Exists) } else { Ok(print) }
    }

    /// Whether a core can hold another pair.
    fn has_room(&self, core: u16, announced: bool) -> bool {
        self.pairs.values().filter(|sa| sa.core == core).count() < limits::PAIRS_PER_CORE
            && (!announced || self.pairs.values().filter(|sa| sa.inbound.is_none()).count() < limits::ANNOUNCED_MAX)
    }
}

impl Admin {
    /// Gives a core an order and waits until it was carried out, which takes microseconds: cores look between two batches.
    pub(super) fn order(&mut self, core: usize, order: Order) -> Outcome {
        self.errand(core, Errand::Order(order))
    }

    /// The same for every errand that is counted.
    pub(super) fn errand(&mut self, core: usize, errand: Errand) -> Outcome {
        self.hear();
        let running = self.running.as_mut().ok_or(Status::Order)?;
        let running_core = running.cores.get_mut(core).ok_or(Status::Unknown)?;
        let desk = Arc::clone(&running_core.desk);
        desk.ask(errand).map_err(|_| Status::Full)?;
        running_core.ordered = running_core.ordered.wrapping_add(1);
        let ordered = running_core.ordered;
        let deadline = Instant::now() + limits::ORDER_PATIENCE;
        while desk.orders_done() < ordered {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A worker never waits for anything but packets, so this is a machine that stands still.
                return Err(Status::Unsupported);
            }
            let bell = Arc::clone(&self.bell);
            let _ = poll(&mut [Interest::read(std::os::fd::AsFd::as_fd(&*bell))], Some(left));
            bell.hear();
        }
        self.hear();
        Ok(())
    }

    /// The core that an inbound SPI names, if it runs.
    fn core_of(&self, spi: u32) -> Result<u16, Status> {
        let running = self.running.as_ref().ok_or(Status::Order)?;
        let spi = Spi::new(spi).ok_or(Status::Malformed)?;
        if usize::from(spi.core()) < running.cores.len() { Ok(spi.core().into()) } else { Err(Status::Unknown) }
    }

    pub(super) fn expect_spi(&mut self, expect: &ExpectSpi) -> Outcome {
        let (spi, policy) = (expect.spi.get(), expect.policy.get());
        let core = self.core_of(spi)?;
        self.check_new(spi, policy, core, true)?;
        let pair = Box::new(Pair::expected(spi, policy));
        let shared = Arc::clone(&pair.shared);
        self.order(core.into(), Order::Expect(pair))?;
        self.sas.pairs.insert(spi, Sa { policy, core, shared, inbound: None, outbound: None, retired: false });
        Ok(())
    }

    fn check_new(&self, spi: u32, policy: u32, core: u16, announced: bool) -> Outcome {
        if !self.policies.has(policy) {
            return Err(Status::Unknown);
        }
        if self.sas.pairs.contains_key(&spi) {
            return Err(Status::Exists);
        }
        if self.sas.has_room(core, announced) { Ok(()) } else { Err(Status::Full) }
    }

    pub(super) fn install_inbound(&mut self, request: &InstallInbound) -> Outcome {
        let (spi, policy) = (request.spi.get(), request.policy.get());
        let core = self.core_of(spi)?;
        if !(replay::BITS_MIN..=replay::BITS_MAX).contains(&request.window.get()) {
            return Err(Status::Malformed);
        }
        match self.sas.pairs.get(&spi) {
            Some(sa) if sa.inbound.is_some() || sa.retired => return Err(Status::Exists),
            // Which of the peer's policies an announced one belongs to shows only when the selectors are agreed on.
            Some(sa) if sa.policy != policy && !self.policies.of_one_peer(sa.policy, policy) => return Err(Status::Malformed),
            Some(_) => {}
            None => self.check_new(spi, policy, core, false)?,
        }
        let print = self.sas.print_of(&request.key)?;
        let now_ms = self.now_ms();
        let inbound = Inbound::from_request(request, now_ms).ok_or(Status::Malformed)?;
        let pair = Box::new(Pair::installed(spi, policy, inbound));
        let shared = Arc::clone(&pair.shared);
        self.sas.prints.keep(print);
        let half = Half { suite: request.key.suite, esn: request.key.esn, installed_ms: now_ms };
        self.sas.pairs.insert(spi, Sa { policy, core, shared, inbound: Some(half), outbound: None, retired: false });
        self.order(core.into(), Order::InstallInbound(pair))
    }

    pub(super) fn install_outbound(&mut self, request: &InstallOutbound) -> Outcome {
        let inbound_spi = request.inbound_spi.get();
        let core = self.core_of(inbound_spi)?;
        let remote = request.remote.to_socket().filter(|remote| remote.port() != 0).ok_or(Status::Malformed)?;
        let sane = request.spi.get() > 255
            && request.switch <= switch::ON_INBOUND
            && request.source <= source::SHARED
            && request.fallback < 2
            && request.per_core < 2
            && (request.dscp < 64 || request.dscp == 255)
            && request.local.to_socket().is_none_or(|local| local.is_ipv4() == remote.is_ipv4());
        if !sane {
            return Err(Status::Malformed);
        }
        // RFC 4301 leaves the order open; a peer may send on the new pair as soon as it knows of it, so our ear comes first.
        let sa = self.sas.pairs.get(&inbound_spi).filter(|sa| sa.inbound.is_some() && !sa.retired).ok_or(Status::Order)?;
        if sa.outbound.is_some() {
            return Err(Status::Exists);
        }
        if sa.policy != request.policy.get() {
            return Err(Status::Malformed);
        }
        if !self.can_reach(core, remote) {
            return Err(Status::Unsupported);
        }
        let print = self.sas.print_of(&request.key)?;
        let outbound = Outbound::from_request(request, self.now_ms()).ok_or(Status::Malformed)?;
        self.sas.prints.keep(print);
        let half =
            OutboundHalf { spi: request.spi.get(), remote, source: request.source, fallback: request.fallback, per_core: request.per_core };
        if let Some(sa) = self.sas.pairs.get_mut(&inbound_spi) {
            sa.outbound = Some(half);
        }
        self.order(core.into(), Order::InstallOutbound { spi: inbound_spi, outbound: Box::new(outbound) })
    }

    pub(super) fn redirect(&mut self, request: &Redirect) -> Outcome {
        let spi = request.spi.get();
        let core = self.core_of(spi)?;
        let remote = request.remote.to_socket().filter(|remote| remote.port() != 0).ok_or(Status::Malformed)?;
        let local = request.local.to_socket().map(|local| local.ip()).filter(|ip| !ip.is_unspecified());
        if request.source > source::SHARED || local.is_some_and(|local| local.is_ipv4() != remote.is_ipv4()) {
            return Err(Status::Malformed);
        }
        if !self.can_reach(core, remote) {
            return Err(Status::Unsupported);
        }
        let sa = self.sas.pairs.get_mut(&spi).filter(|sa| !sa.retired).ok_or(Status::Unknown)?;
        let half = sa.outbound.as_mut().ok_or(Status::Order)?;
        (half.remote, half.source) = (remote, request.source);
        self.order(core.into(), Order::Redirect { spi, remote, local, source: Source::from_request(request.source) })
    }

    /// A core follows the peer by itself where the port is shared; here is where to.
    pub(super) fn followed(&mut self, spi: u32, from: SocketAddr) {
        let half = self.sas.pairs.get_mut(&spi).and_then(|sa| sa.outbound.as_mut());
        half.filter(|half| half.source == source::SHARED).into_iter().for_each(|half| half.remote = from);
    }

    /// Whether a core has sockets of the remote's family.
    fn can_reach(&self, core: u16, remote: SocketAddr) -> bool {
        let role = if remote.is_ipv4() { penstock_uapi::Role::Own4 } else { penstock_uapi::Role::Own6 };
        let attached = self.attached.get(usize::from(core)).and_then(Option::as_ref);
        attached.is_some_and(|attached| attached.descriptors.iter().any(|(is, _)| *is == role))
    }

    pub(super) fn retire(&mut self, retire: &Retire) -> Outcome {
        self.end_pair(retire.spi.get(), retire.drain_ms.get().into())
    }

    /// Ends a pair; it is forgotten when its core gives it away.
    pub(super) fn end_pair(&mut self, spi: u32, drain_ms: u64) -> Outcome {
        let sa = self.sas.pairs.get_mut(&spi).ok_or(Status::Unknown)?;
        sa.retired = true;
        let core = sa.core;
        self.order(core.into(), Order::Retire { spi, drain_ms })
    }

    /// A stray that control's own socket received. Not waited for: it is a packet, and may be lost like one.
    pub(super) fn inject(&mut self, inject: &Inject, frame: &[u8]) -> Outcome {
        let spi = crate::esp::packet::spi(frame).ok_or(Status::Malformed)?;
        let core = self.core_of(spi)?;
        let from = inject.from.to_socket().ok_or(Status::Malformed)?;
        let receive = Receive { from, to: inject.to.to_socket().map(|to| to.ip()), tos: inject.tos, stride: frame.len() };
        let mut parcel = Parcel::new(frame.len(), 1);
        parcel.begin(Content::Inbound(receive));
        if !parcel.add(frame) {
            return Err(Status::Malformed);
        }
        self.hear();
        let running = self.running.as_ref().ok_or(Status::Order)?;
        let core = running.cores.get(usize::from(core)).ok_or(Status::Unknown)?;
        core.desk.ask(Errand::Inject(parcel)).map_err(|_| Status::Full)
    }
}

impl Sa {
    /// What the pair is doing now.
    pub(super) fn phase(&self) -> u8 {
        match self.inbound {
            None => phase::EXPECTED,
            Some(_) if self.retired => phase::DRAINING,
            Some(_) => self.shared.phase.load(Ordering::Relaxed),
        }
    }
}
