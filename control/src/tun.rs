//! TUN queues, opened by hand: several queues of one device with virtio headers and offloads, as the engine needs
//! them. Opening is idempotent: a device of that name that is already there is used, whoever made it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::{IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TUN, IFF_VNET_HDR};

use crate::sys;

/// `TUN_F_*` of linux/if_tun.h.
mod offload {
    pub(super) const CSUM: u64 = 0x01;
    pub(super) const TSO4: u64 = 0x02;
    pub(super) const TSO6: u64 = 0x04;
    pub(super) const TSO_ECN: u64 = 0x08;
    pub(super) const USO4: u64 = 0x20;
    pub(super) const USO6: u64 = 0x40;
}

/// Bytes of `struct virtio_net_hdr_v1`, which every kernel since 3.8 can put before a packet.
pub const HEADER_BYTES: u8 = 12;

/// The flags of every queue.
const FLAGS: u16 = (IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE) as u16;

/// Why a TUN device cannot be had; the text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// `/dev/net/tun` cannot be opened.
    #[error(
        "cannot open /dev/net/tun: {0}; run as root or with CAP_NET_ADMIN, load the module with `modprobe tun`, or give the container --device /dev/net/tun"
    )]
    Open(io::Error),
    /// The device is there with other properties, or in use.
    #[error("cannot open queue {queue} of device {name}: {error}; {remedy}")]
    Attach {
        /// The device.
        name: String,
        /// Which queue.
        queue: usize,
        /// The kernel's reason.
        error: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// An order was refused.
    #[error("device {name} refuses {what}: {error}; Penstock needs Linux 6.1 or newer")]
    Order {
        /// The device.
        name: String,
        /// Which order.
        what: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// A descriptor that was handed back is something else.
    #[error("descriptor is not a queue of device {name} as expected: {found}")]
    Foreign {
        /// The device expected.
        name: String,
        /// What it is.
        found: String,
    },
}

/// The opened queues of one device.
#[derive(Debug)]
pub struct Queues {
    /// One descriptor a queue.
    pub queues: Vec<OwnedFd>,
    /// UDP super-packets are on.
    pub uso: bool,
}

/// Opens `count` queues of the device `name`, which is made persistent: it stays while engines and controls come and go.
///
/// # Errors
/// Where `/dev/net/tun` cannot be opened, the name belongs to something else, or the kernel is too old.
pub fn open(name: &str, count: usize, want_uso: bool) -> Result<Queues, TunError> {
    let queues = (0..count).map(|queue| open_queue(name, queue)).collect::<Result<Vec<_>, _>>()?;
    let first = queues.first().ok_or_else(|| TunError::Open(io::ErrorKind::InvalidInput.into()))?;
    let uso = set_offloads(name, first, want_uso)?;
    persist(name, first, true)?;
    Ok(Queues { queues, uso })
}

fn open_queue(name: &str, queue: usize) -> Result<OwnedFd, TunError> {
    // The file must block: the ring arms its poll only on blocking files.
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(TunError::Open)?;
    sys::tun_attach(file.as_fd(), name, FLAGS).map_err(|error| refused(name, queue, error))?;
    let order = |what| move |error| TunError::Order { name: name.to_owned(), what, error };
    sys::tun_set_header_bytes(file.as_fd(), HEADER_BYTES.into()).map_err(order("12-byte virtio headers"))?;
    Ok(File::into(file))
}

fn refused(name: &str, queue: usize, error: io::Error) -> TunError {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM) => "run as root or with CAP_NET_ADMIN",
        Some(libc::EBUSY) => "another program holds it: end that, or choose another interface name",
        Some(libc::EINVAL) => "a device of that name is there with other properties: remove it with `ip link del`, or choose another name",
        Some(libc::E2BIG) => "a TUN device takes 256 queues: configure fewer cores",
        _ => "look at `ip link` and the kernel log",
    };
    TunError::Attach { name: name.to_owned(), queue, error, remedy }
}

/// Asks for TCP and, where the kernel knows it (6.2), UDP super-packets; returns whether UDP is among them.
fn set_offloads(name: &str, queue: &OwnedFd, want_uso: bool) -> Result<bool, TunError> {
    let tcp = offload::CSUM | offload::TSO4 | offload::TSO6 | offload::TSO_ECN;
    let set = |bits| sys::tun_order(queue.as_fd(), libc::TUNSETOFFLOAD as _, bits);
    if want_uso && set(tcp | offload::USO4 | offload::USO6).is_ok() {
        return Ok(true);
    }
    set(tcp).map_err(|error| TunError::Order { name: name.to_owned(), what: "TCP offloads", error })?;
    Ok(false)
}

/// Makes the device stay when its last queue closes, or go with it.
///
/// # Errors
/// The kernel's refusal.
pub fn persist(name: &str, queue: &OwnedFd, stay: bool) -> Result<(), TunError> {
    sys::tun_order(queue.as_fd(), libc::TUNSETPERSIST as _, stay.into()).map_err(|error| TunError::Order {
        name: name.to_owned(),
        what: "persistence",
        error,
    })
}

/// The name that the device of a queue has now; `None` if it is gone: the queue of one that was deleted belongs to none.
#[must_use]
pub fn name_of(queue: BorrowedFd<'_>) -> Option<String> {
    sys::tun_identity(queue).ok().map(|(name, _)| name)
}

/// Checks that a descriptor handed back by an engine is a queue of `name` with the properties that [`open`] gives.
///
/// # Errors
/// If it is anything else.
pub fn verify(name: &str, queue: &OwnedFd) -> Result<(), TunError> {
    let foreign = |found| TunError::Foreign { name: name.to_owned(), found };
    let (is, flags) = sys::tun_identity(queue.as_fd()).map_err(|error| foreign(error.to_string()))?;
    if is != name || flags & FLAGS != FLAGS {
        return Err(foreign(format!("device {is}, flags {flags:#x}")));
    }
    match sys::tun_header_bytes(queue.as_fd()) {
        Ok(bytes) if bytes == i32::from(HEADER_BYTES) => Ok(()),
        other => Err(foreign(format!("virtio header of {other:?} bytes"))),
    }
}
