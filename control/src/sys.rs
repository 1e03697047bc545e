//! The only unsafe code of control: the few kernel calls that neither `std`, `socket2` nor `rtnetlink` offers. Each
//! function takes and gives safe types, so that nothing outside has to be read twice.

#![allow(unsafe_code, reason = "the one place for kernel calls; every block says why it is sound")]

use std::ffi::{CStr, c_int, c_ulong, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use socket2::SockAddr;
use tokio::io::unix::AsyncFd;

pub(crate) mod probe;
mod wiping;

pub use wiping::Wiping;

/// An instruction of a classic BPF program (`struct sock_filter`).
pub(crate) type Instruction = libc::sock_filter;

/// How deep calls that see keys go, and more.
const STACK_BYTES: usize = 128 * 1024;

/// Bytes of room for control messages: a full set of descriptors, or all that our UDP sockets report.
const CONTROL_BYTES: usize = 1280;

/// Room for control messages, aligned as `struct cmsghdr` wants it.
#[repr(C, align(8))]
struct Room([u8; CONTROL_BYTES]);

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The user that this process acts as.
pub(crate) fn user() -> u32 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

/// From now on files, folders and sockets that this process and its children make are closed to other users from the first moment.
pub(crate) fn make_files_private() {
    // SAFETY: the call takes a number and cannot fail.
    unsafe { libc::umask(0o077) };
}

/// Sets an option whose value is a C int.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the pointer is to a live c_int and the length is its size.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length) }).map(drop)
}

/// Reads an option whose value is a C int.
pub(crate) fn option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals and the length is that of the value.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) })?;
    Ok(value)
}

/// The process at the other end of a connected Unix socket, by the number it has here: the one that listened last.
pub(crate) fn peer_process(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let pointer = (&raw mut credentials).cast();
    // SAFETY: pointer and length are those of a live local.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, pointer, &raw mut length) })?;
    // A process of a namespace that is not below ours has no number here: 0.
    u32::try_from(credentials.pid).map_err(io::Error::other)
}

/// Runs `start`, whose child processes are the first of a process namespace of their own. What this process starts afterwards is in its
/// own again. It must have one thread only, and CAP_SYS_ADMIN.
pub(crate) fn in_new_process_namespace<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = std::fs::File::open("/proc/self/ns/pid")?;
    // SAFETY: this call takes a number only.
    check(unsafe { libc::unshare(libc::CLONE_NEWPID) })?;
    let started = start();
    // SAFETY: the descriptor is open, and the namespace is this process's own.
    check(unsafe { libc::setns(own.as_raw_fd(), libc::CLONE_NEWPID) })?;
    started
}

/// Gives a reuseport group its program (`SO_ATTACH_REUSEPORT_CBPF`).
pub(crate) fn attach_reuseport_filter(fd: BorrowedFd<'_>, program: &mut [Instruction]) -> io::Result<()> {
    attach(fd, libc::SO_ATTACH_REUSEPORT_CBPF, program)
}

/// Gives a socket a program that says what it takes, in place of the one it has (`SO_ATTACH_FILTER`).
pub(crate) fn attach_filter(fd: BorrowedFd<'_>, program: &mut [Instruction]) -> io::Result<()> {
    attach(fd, libc::SO_ATTACH_FILTER, program)
}

/// Takes that program away (`SO_DETACH_FILTER`). Without one it is an error, `ENOENT`.
pub(crate) fn detach_filter(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
}

fn attach(fd: BorrowedFd<'_>, option: c_int, program: &mut [Instruction]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let value = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `value` points to `len` live instructions; the kernel copies them before the call returns.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), length) }).map(drop)
}

/// `struct ifreq` as far as TUN devices use it: a name and flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

impl InterfaceRequest {
    fn identity(&self) -> (String, u16) {
        let name = CStr::from_bytes_until_nul(&self.name).map(|name| name.to_string_lossy().into_owned());
        (name.unwrap_or_default(), self.flags)
    }
}

/// Makes `fd` (an open `/dev/net/tun`) a queue of the device `name`; returns the device's name and flags.
pub(crate) fn tun_attach(fd: BorrowedFd<'_>, name: &str, flags: u16) -> io::Result<(String, u16)> {
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: the request has the layout and size of `struct ifreq` and outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as c_ulong, &raw mut request) })?;
    Ok(request.identity())
}

/// The device and flags of a TUN queue.
pub(crate) fn tun_identity(fd: BorrowedFd<'_>) -> io::Result<(String, u16)> {
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    // SAFETY: the request has the layout and size of `struct ifreq` and outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as c_ulong, &raw mut request) })?;
    Ok(request.identity())
}

/// A TUN order whose argument is a plain number: offloads, persistence.
pub(crate) fn tun_order(fd: BorrowedFd<'_>, order: c_ulong, value: c_ulong) -> io::Result<()> {
    // SAFETY: these orders take their argument by value; no memory is touched.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), order, value) }).map(drop)
}

/// Sets the bytes of the virtio header in front of every packet.
pub(crate) fn tun_set_header_bytes(fd: BorrowedFd<'_>, bytes: c_int) -> io::Result<()> {
    // SAFETY: the order reads one c_int, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as c_ulong, &raw const bytes) }).map(drop)
}

/// Reads the bytes of the virtio header in front of every packet.
pub(crate) fn tun_header_bytes(fd: BorrowedFd<'_>) -> io::Result<c_int> {
    let mut bytes: c_int = 0;
    // SAFETY: the order writes one c_int, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETVNETHDRSZ as c_ulong, &raw mut bytes) })?;
    Ok(bytes)
}

/// Takes ownership of a descriptor inherited by number, such as the launcher's; `None` if it is not open.
pub(crate) fn inherited(fd: RawFd) -> Option<OwnedFd> {
    if fd < 3 {
        return None;
    }
    // SAFETY: F_GETFD touches no memory and fails on a descriptor that is not open.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }).ok()?;
    // SAFETY: F_SETFD touches no memory.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }).ok()?;
    // SAFETY: it is open, was handed to this process by number for this purpose, and this is called once at the start.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes a descriptor into the current runtime.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same descriptor at every call and keeps it open as long as it lives.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// One control message: level, kind, bytes.
pub(crate) type Control<'a> = (c_int, c_int, &'a [u8]);

fn align(length: usize) -> usize {
    length.next_multiple_of(size_of::<usize>())
}

const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// Writes control messages as CMSG_DATA and friends would; returns the bytes used.
fn encode_control(room: &mut Room, messages: &[Control<'_>]) -> io::Result<usize> {
    let mut at = 0;
    for (level, kind, data) in messages {
        let length = HEADER_BYTES + data.len();
        let place = room.0.get_mut(at..at + align(length)).ok_or(io::ErrorKind::InvalidInput)?;
        let fields = length.to_ne_bytes().into_iter().chain(level.to_ne_bytes()).chain(kind.to_ne_bytes());
        place.iter_mut().zip(fields.chain(data.iter().copied())).for_each(|(to, from)| *to = from);
        at += align(length);
    }
    Ok(at)
}

/// Reads control messages back; what is cut short ends the list.
fn decode_control(bytes: &[u8]) -> impl Iterator<Item = Control<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<8>()?;
        let (level, after) = after.split_first_chunk::<4>()?;
        let (kind, _) = after.split_first_chunk::<4>()?;
        let length = usize::from_ne_bytes(*length);
        let data = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some((c_int::from_ne_bytes(*level), c_int::from_ne_bytes(*kind), data))
    })
}

/// Sends one datagram with control messages, to `to` or to the connected peer. Never raises SIGPIPE, never blocks.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8], to: Option<&SockAddr>, messages: &[Control<'_>]) -> io::Result<usize> {
    let mut room = Room([0; CONTROL_BYTES]);
    let used = encode_control(&mut room, messages)?;
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a valid `struct msghdr`: null pointers with lengths of zero.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(to) = to {
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = to.len();
    }
    if used > 0 {
        header.msg_control = room.0.as_mut_ptr().cast();
        header.msg_controllen = used;
    }
    // SAFETY: every pointer in the header is to a live object of the length said; sendmsg writes to none of them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Sends descriptors beside a datagram (`SCM_RIGHTS`).
pub(crate) fn send_with_descriptors(fd: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let numbers: Vec<u8> = descriptors.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes()).collect();
    let rights: Control<'_> = (libc::SOL_SOCKET, libc::SCM_RIGHTS, &numbers);
    send(fd, bytes, None, if descriptors.is_empty() { &[] } else { std::slice::from_ref(&rights) })
}

/// What came with a datagram.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Bytes of it in the buffer.
    pub(crate) length: usize,
    /// It did not fit the buffer, or its control messages did not fit their room.
    pub(crate) truncated: bool,
    /// The sender, where the socket has one.
    pub(crate) from: Option<SockAddr>,
    /// Descriptors that came beside it.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// The other control messages.
    pub(crate) messages: Vec<(c_int, c_int, Vec<u8>)>,
}

/// Receives one datagram without blocking. Descriptors are close-on-exec.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut room = Room([0; CONTROL_BYTES]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: all zeros is a valid `struct msghdr`: null pointers with lengths of zero.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_name = (&raw mut storage).cast::<c_void>();
    header.msg_namelen = size_of_val(&storage) as libc::socklen_t;
    header.msg_control = room.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: every pointer in the header is to a live, writable object of the length said.
    let received = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let mut result = Received {
        length,
        truncated: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        // SAFETY: the kernel wrote an address of this length into the storage, or none (zeros: AF_UNSPEC).
        from: Some(unsafe { SockAddr::new(storage, header.msg_namelen) }),
        ..Received::default()
    };
    for (level, kind, data) in decode_control(room.0.get(..header.msg_controllen).unwrap_or_default()) {
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for number in data.as_chunks::<4>().0 {
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
                result.descriptors.push(unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*number)) });
            }
        } else {
            result.messages.push((level, kind, data.to_vec()));
        }
    }
    Ok(result)
}

/// `struct __user_cap_header_struct`, version 3.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

/// The capabilities below 32 that this process may use.
fn permitted_capabilities() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    (mask.unwrap_or_default() & u64::from(u32::MAX)) as u32
}

/// A set of the capabilities of linux/capability.h, all below 32.
const fn set(numbers: &[u32]) -> u32 {
    let (mut bits, mut at) = (0, 0);
    while at < numbers.len() {
        bits |= 1 << numbers[at];
        at += 1;
    }
    bits
}

/// What control keeps: NET_ADMIN (TUN, marks, buffers, routes) and NET_BIND_SERVICE (a port below 1024).
pub(crate) const CONTROL: u32 = set(&[12, 10]);

/// What the launcher keeps: what control keeps, and for starting it DAC_OVERRIDE and DAC_READ_SEARCH (its files may be another user's);
/// for starting and ending an engine KILL, SETGID, SETUID, SETPCAP, SYS_CHROOT, SYS_ADMIN, SYS_NICE and SYS_RESOURCE.
pub(crate) const LAUNCHER: u32 = CONTROL | set(&[1, 2, 5, 6, 7, 8, 18, 21, 23, 24]);

/// Keeps these of the capabilities that this process has, for good: no exec gives any other back.
pub(crate) fn keep_capabilities(these: u32) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let keep = permitted_capabilities() & these;
    for capability in (0..=40).filter(|bit| *bit > 31 || keep & (1 << bit) == 0) {
        // SAFETY: this prctl takes numbers only. It fails for what the kernel does not know, and without CAP_SETPCAP,
        // where the process has nothing to give up.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    // SAFETY: this prctl takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    let header = CapabilityHeader { version: VERSION_3, pid: 0 };
    let sets: [u32; 6] = [keep, keep, 0, 0, 0, 0];
    // SAFETY: the header and the two sets of three words have the kernel's layout for version 3.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn limit(resource: libc::__rlimit_resource_t, value: libc::rlim_t) -> io::Result<()> {
    let both = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the pointer is to a live structure that is only read.
    check(unsafe { libc::setrlimit(resource, &raw const both) }).map(drop)
}

/// Keeps all memory of this process out of swap, now and later: long-term keys lie in it. Pages are locked when they are touched. It takes
/// CAP_SYS_RESOURCE or an unlimited RLIMIT_MEMLOCK.
pub(crate) fn lock_memory() -> io::Result<()> {
    limit(libc::RLIMIT_MEMLOCK, libc::RLIM_INFINITY)?;
    // SAFETY: this call takes a number only.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) }).map(drop)
}

/// Wipes what calls that have returned left on the stack below this one: keys pass through there, too.
#[inline(never)]
pub(crate) fn wipe_stack() {
    let mut left = [0_u8; STACK_BYTES];
    zeroize::Zeroize::zeroize(&mut left[..]);
    std::hint::black_box(&left);
}

/// Keeps the memory of this process out of core files and from other processes of its user.
pub(crate) fn forbid_dumps() -> io::Result<()> {
    // SAFETY: this prctl takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    limit(libc::RLIMIT_CORE, 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use socket2::{Domain, Socket, Type};

    #[test]
    fn descriptors_cross_a_socket_and_work_on_the_other_side() {
        let (a, b) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).expect("a pair");
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        super::send_with_descriptors(a.as_fd(), b"take this", &[writer.as_fd()]).expect("sent");
        let mut buffer = [0; 64];
        let got = super::receive(b.as_fd(), &mut buffer).expect("received");
        assert_eq!((&buffer[..got.length], got.truncated), (&b"take this"[..], false));
        drop(writer);
        let mut pipe = std::fs::File::from(got.descriptors.into_iter().next().expect("a descriptor"));
        pipe.write_all(b"x").expect("the pipe is open");
        drop(pipe);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).expect("read");
        assert_eq!(text, "x");
    }

    #[test]
    fn control_messages_that_are_cut_short_end_the_list() {
        let mut room = super::Room([0; super::CONTROL_BYTES]);
        let used = super::encode_control(&mut room, &[(1, 2, &[7]), (3, 4, &[8, 9])]).expect("they fit");
        for length in 0..=used {
            let count = super::decode_control(&room.0[..length]).count();
            assert!(count <= 2, "{length} bytes");
        }
        let all: Vec<_> = super::decode_control(&room.0[..used]).collect();
        assert_eq!(all, [(1, 2, &[7][..]), (3, 4, &[8, 9][..])]);
    }
}
