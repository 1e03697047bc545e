//! The attempts, by name. Each is whole by itself: `Ok` says that it was possible.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use crate::sys::{call, through};
use crate::{PAGE, World};

type Attempt = fn(&mut World) -> io::Result<()>;

/// All of them: the name, whether a success changes this process for good, and the attempt.
pub(crate) const ALL: &[(&str, bool, Attempt)] = &[
    // Files.
    ("open a file", false, |world| at(libc::SYS_openat, world.present.as_ptr(), [libc::O_RDONLY as usize, 0])),
    ("open /proc", false, |_| at(libc::SYS_openat, c"/proc/self/status".as_ptr(), [libc::O_RDONLY as usize, 0])),
    ("open the root", false, |_| at(libc::SYS_openat, c"/".as_ptr(), [libc::O_DIRECTORY as usize, 0])),
    ("create a file", false, |world| at(libc::SYS_openat, world.absent.as_ptr(), [(libc::O_CREAT | libc::O_WRONLY) as usize, 0o600])),
    ("remove a file", false, |world| at(libc::SYS_unlinkat, world.absent.as_ptr(), [0, 0])),
    ("make a directory", false, |world| at(libc::SYS_mkdirat, world.absent.as_ptr(), [0o700, 0])),
    ("remove a directory", false, |world| at(libc::SYS_unlinkat, world.absent.as_ptr(), [libc::AT_REMOVEDIR as usize, 0])),
    ("make a device", false, |world| {
        at(libc::SYS_mknodat, world.absent.as_ptr(), [(libc::S_IFCHR | 0o600) as usize, libc::makedev(1, 3) as usize])?;
        at(libc::SYS_unlinkat, world.absent.as_ptr(), [0, 0])
    }),
    ("change a mode", false, |world| at(libc::SYS_fchmodat, world.present.as_ptr(), [0o644, 0])),
    ("look at a path", false, |world| {
        let mut space = [0u8; 256];
        at(libc::SYS_newfstatat, world.present.as_ptr(), [space.as_mut_ptr() as usize, 0])
    }),
    ("look at a path by statx", false, |world| {
        let mut space = [0u8; 256];
        let mask = libc::STATX_BASIC_STATS as usize;
        call(libc::SYS_statx, [cwd(), world.present.as_ptr() as usize, 0, mask, space.as_mut_ptr() as usize]).map(drop)
    }),
    ("change the directory", true, |_| call(libc::SYS_chdir, [c"/proc".as_ptr() as usize]).map(drop)),
    ("watch files", false, |_| call(libc::SYS_inotify_init1, [0]).map(drop)),
    ("find a file by its handle", false, |world| {
        let mut handle = [0u32; 40];
        handle[0] = 128;
        let mut mount = 0u32;
        let (handle, mount) = (handle.as_mut_ptr() as usize, &raw mut mount as usize);
        call(libc::SYS_name_to_handle_at, [cwd(), world.present.as_ptr() as usize, handle, mount, 0]).map(drop)
    }),
    // Processes.
    ("fork", false, |_| fork()),
    ("run a program", true, |_| execute(c"/bin/true".as_ptr())),
    ("run a program by its descriptor", true, |world| {
        let (empty, list) = (c"".as_ptr() as usize, [0usize; 1]);
        let list = list.as_ptr() as usize;
        call(libc::SYS_execveat, [world.program.as_raw_fd() as usize, empty, list, list, libc::AT_EMPTY_PATH as usize]).map(drop)
    }),
    ("trace a process", true, |world| {
        const SEIZE: usize = 0x4206;
        // The end of this attempt's process lets it go again.
        call(libc::SYS_ptrace, [SEIZE, world.victim, 0, 0]).map(drop)
    }),
    ("signal a process", false, |world| call(libc::SYS_kill, [world.victim, 0]).map(drop)),
    ("signal a thread", false, |world| call(libc::SYS_tgkill, [world.victim, world.victim, 0]).map(drop)),
    ("read another's memory", false, |world| process_vm(libc::SYS_process_vm_readv, world)),
    ("write another's memory", false, |world| process_vm(libc::SYS_process_vm_writev, world)),
    ("hold a process", false, |world| call(libc::SYS_pidfd_open, [world.victim, 0]).map(drop)),
    ("take another's descriptor", false, |world| {
        // Standard input of the victim; without a held process there is nothing to ask.
        let process = call(libc::SYS_pidfd_open, [world.victim, 0]).unwrap_or(world.udp.as_raw_fd() as usize);
        call(libc::SYS_pidfd_getfd, [process, 0, 0]).map(drop)
    }),
    ("change another's limits", false, |world| {
        let mut limits = [0u64; 2];
        call(libc::SYS_prlimit64, [world.victim, libc::RLIMIT_CORE as usize, 0, limits.as_mut_ptr() as usize]).map(drop)
    }),
    ("become more urgent", true, |_| call(libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, 0, (-20isize) as usize]).map(drop)),
    ("run elsewhere", true, |_| {
        let all = [usize::MAX; 16];
        call(libc::SYS_sched_setaffinity, [0, size_of_val(&all), all.as_ptr() as usize]).map(drop)
    }),
    // Sockets.
    ("make a TCP socket", false, |_| socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
    ("make a UDP socket", false, |_| socket(libc::AF_INET, libc::SOCK_DGRAM, 0)),
    ("make an IPv6 socket", false, |_| socket(libc::AF_INET6, libc::SOCK_STREAM, 0)),
    ("make a raw socket", false, |_| socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    ("make a packet socket", false, |_| socket(libc::AF_PACKET, libc::SOCK_RAW, 0)),
    ("make a Unix socket", false, |_| socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)),
    ("make a netlink socket", false, |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)),
    ("make a VM socket", false, |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ("make a crypto socket", false, |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    ("make a pair of sockets", false, |_| {
        let mut pair = [0i32; 2];
        call(libc::SYS_socketpair, [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, pair.as_mut_ptr() as usize]).map(drop)
    }),
    ("bind a socket", true, |world| {
        let any = socket2::SockAddr::from(std::net::SocketAddr::from(([0, 0, 0, 0], 0)));
        call(libc::SYS_bind, [fd(&world.udp), any.as_ptr() as usize, any.len() as usize]).map(drop)
    }),
    ("connect to another's socket", true, |world| {
        let mut name = [0u8; 110];
        name.iter_mut().zip((libc::AF_UNIX as u16).to_ne_bytes()).for_each(|(place, byte)| *place = byte);
        name.iter_mut().skip(2).zip(world.listener.as_bytes()).for_each(|(place, byte)| *place = *byte);
        call(libc::SYS_connect, [fd(&world.unix), name.as_ptr() as usize, name.len()]).map(drop)
    }),
    ("bind a socket to a device", true, |world| option(&world.udp, libc::SO_BINDTODEVICE, c"lo".as_ptr() as usize, 2)),
    ("mark a socket", true, |world| option(&world.udp, libc::SO_MARK, (&raw const MARK) as usize, 4)),
    ("ask for a socket's buffer", false, |world| {
        let (mut value, mut length) = (0u32, 4u32);
        let (level, name) = (libc::SOL_SOCKET as usize, libc::SO_RCVBUF as usize);
        call(libc::SYS_getsockopt, [fd(&world.udp), level, name, (&raw mut value) as usize, (&raw mut length) as usize]).map(drop)
    }),
    // The descriptors that an engine holds.
    ("let the TUN device stay", false, |world| tun(world, libc::TUNSETPERSIST as usize, 0)),
    ("change the TUN device's offloads", false, |world| tun(world, libc::TUNSETOFFLOAD as usize, 1)),
    ("detach the TUN queue", true, |world| {
        const DETACH: u16 = 0x0400;
        let mut request = [0u8; 40];
        request.iter_mut().skip(libc::IFNAMSIZ).zip(DETACH.to_ne_bytes()).for_each(|(place, byte)| *place = byte);
        tun(world, 0x4004_54d9, request.as_ptr() as usize)
    }),
    ("ask the TUN device its name", false, |world| {
        let mut request = [0u8; 40];
        tun(world, libc::TUNGETIFF as usize, request.as_mut_ptr() as usize)
    }),
    ("take a network device up", false, |world| {
        let mut request = [0u8; 40];
        request.iter_mut().zip(b"lo").for_each(|(place, byte)| *place = *byte);
        request[libc::IFNAMSIZ] = libc::IFF_UP as u8;
        call(libc::SYS_ioctl, [fd(&world.udp), libc::SIOCSIFFLAGS as usize, request.as_ptr() as usize]).map(drop)
    }),
    ("make a descriptor non-blocking", false, |world| {
        call(libc::SYS_fcntl, [world.memory.as_raw_fd() as usize, libc::F_SETFL as usize, libc::O_NONBLOCK as usize]).map(drop)
    }),
    ("put a descriptor in another's place", true, |world| call(libc::SYS_dup3, [fd(&world.udp), 0, 0]).map(drop)),
    ("make a pipe", false, |_| {
        let mut pair = [0i32; 2];
        call(libc::SYS_pipe2, [pair.as_mut_ptr() as usize, 0]).map(drop)
    }),
    // Places.
    ("mount a file system", true, |_| {
        let (name, path) = (c"tmpfs".as_ptr() as usize, c"/mnt".as_ptr() as usize);
        call(libc::SYS_mount, [name, path, name, 0, 0]).map(drop)
    }),
    ("mount the new way", false, |_| call(libc::SYS_fsopen, [c"tmpfs".as_ptr() as usize, 0]).map(drop)),
    ("change the root", true, |_| call(libc::SYS_chroot, [c"/".as_ptr() as usize]).map(drop)),
    ("get a network of its own", true, |_| call(libc::SYS_unshare, [libc::CLONE_NEWNET as usize]).map(drop)),
    ("enter a namespace", true, |world| {
        call(libc::SYS_setns, [world.namespace.as_raw_fd() as usize, libc::CLONE_NEWNET as usize]).map(drop)
    }),
    ("rename the machine", true, |_| call(libc::SYS_sethostname, [c"prison".as_ptr() as usize, 6]).map(drop)),
    // Rights.
    ("become root", true, |_| call(libc::SYS_setresuid, [0, 0, 0]).map(drop)),
    ("join root's group", true, |_| call(libc::SYS_setresgid, [0, 0, 0]).map(drop)),
    ("take capabilities", true, |_| {
        const NET_ADMIN: u32 = 1 << 12;
        let (header, data) = ([0x2008_0522u32, 0], [NET_ADMIN, NET_ADMIN, 0, 0, 0, 0]);
        call(libc::SYS_capset, [header.as_ptr() as usize, data.as_ptr() as usize]).map(drop)
    }),
    ("become dumpable", true, |_| call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0]).map(drop)),
    ("allow core files", true, |_| {
        let limits = [1u64 << 20; 2];
        call(libc::SYS_setrlimit, [libc::RLIMIT_CORE as usize, limits.as_ptr() as usize]).map(drop)
    }),
    ("keep rights over a change of user", true, |_| call(libc::SYS_prctl, [libc::PR_SET_KEEPCAPS as usize, 1, 0, 0, 0]).map(drop)),
    // Memory.
    ("map memory to execute", false, |_| map((libc::PROT_READ | libc::PROT_EXEC) as usize, libc::MAP_ANONYMOUS, -1)),
    ("make memory executable", true, |world| {
        call(libc::SYS_mprotect, [world.page, PAGE, (libc::PROT_READ | libc::PROT_EXEC) as usize]).map(drop)
    }),
    ("map a file", false, |world| map(libc::PROT_READ as usize, 0, world.memory.as_raw_fd())),
    ("make a file in memory", false, |_| call(libc::SYS_memfd_create, [c"x".as_ptr() as usize, 0]).map(drop)),
    ("keep memory in core files", false, |world| call(libc::SYS_madvise, [world.page, PAGE, libc::MADV_DODUMP as usize]).map(drop)),
    ("share memory", false, |_| call(libc::SYS_shmget, [0, PAGE, 0o1600]).map(drop)),
    ("handle page faults", false, |_| call(libc::SYS_userfaultfd, [0]).map(drop)),
    ("unlock memory", true, |_| call(libc::SYS_munlockall, [0; 0]).map(drop)),
    // The kernel.
    ("load a BPF map", false, |_| {
        let attributes = [2u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        call(libc::SYS_bpf, [0, attributes.as_ptr() as usize, size_of_val(&attributes)]).map(drop)
    }),
    ("count performance events", false, |_| {
        let mut attributes = [0u32; 32];
        (attributes[0], attributes[1]) = (1, 128);
        call(libc::SYS_perf_event_open, [attributes.as_ptr() as usize, 0, usize::MAX, usize::MAX, 0]).map(drop)
    }),
    ("use the key ring", false, |_| {
        const SPECIAL_PROCESS: isize = -2;
        call(libc::SYS_keyctl, [0, SPECIAL_PROCESS as usize, 1]).map(drop)
    }),
    ("read the kernel's log", false, |_| {
        const SIZE: usize = 10;
        call(libc::SYS_syslog, [SIZE, 0, 0]).map(drop)
    }),
    ("change the kernel's view of this process", true, |_| call(libc::SYS_personality, [0]).map(drop)),
    ("read the clock's state", false, |_| {
        let mut state = [0u8; 256];
        call(libc::SYS_clock_adjtime, [0, state.as_mut_ptr() as usize]).map(drop)
    }),
    ("add a filter", true, |_| {
        const ALLOW: u32 = 0x7fff_0000;
        let allow = libc::sock_filter { code: 6, jt: 0, jf: 0, k: ALLOW };
        let program = libc::sock_fprog { len: 1, filter: (&raw const allow).cast_mut() };
        call(libc::SYS_seccomp, [1, 0, (&raw const program) as usize]).map(drop)
    }),
    // Rings.
    ("make another ring", false, |_| {
        let mut parameters = [0u8; 120];
        call(libc::SYS_io_uring_setup, [4, parameters.as_mut_ptr() as usize]).map(drop)
    }),
    ("open a file through the ring", false, |world| {
        let path = c"/proc/self/status";
        ring(world, &opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build())
    }),
    ("make a socket through the ring", false, |world| ring(world, &opcode::Socket::new(libc::AF_INET, libc::SOCK_DGRAM, 0).build())),
    ("connect through the ring", false, |world| {
        let to = socket2::SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 9)));
        let entry = opcode::Connect::new(types::Fixed(0), to.as_ptr().cast(), to.len()).build();
        // The loopback device may be down: that the kernel looked is success enough.
        match ring(world, &entry) {
            Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => Ok(()),
            other => other,
        }
    }),
    ("remove a file through the ring", false, |world| {
        let path = world.present.clone();
        ring(world, &opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build())
    }),
    ("do nothing through the ring", false, |world| ring(world, &opcode::Nop::new().build())),
    ("wait through the ring", false, |world| ring(world, &opcode::PollAdd::new(types::Fixed(0), libc::POLLOUT as u32).build())),
    ("use a file that the ring does not have", false, |world| {
        let memory = types::Fd(world.memory.as_raw_fd());
        let (page, length) = (world.page as *mut u8, PAGE as u32);
        ring(world, &opcode::Read::new(memory, page, length).build())
    }),
    ("set a socket's options through the ring", false, |world| {
        let value = (&raw const MARK).cast();
        let (level, name) = (libc::SOL_SOCKET as u32, libc::SO_MARK as u32);
        ring(world, &opcode::SetSockOpt::new(types::Fixed(0), level, name, value, 4).build())
    }),
    ("take away a thread's work through the ring", false, |world| {
        let page = world.page as *const u8;
        let entry = opcode::Write::new(types::Fixed(0), page, 0).build().flags(Flags::FIXED_FILE | Flags::ASYNC);
        match ring(world, &entry) {
            Err(error) if error.raw_os_error() == Some(libc::EDESTADDRREQ) => Ok(()),
            other => other,
        }
    }),
    ("exchange a ring's files", false, |world| {
        let (ring, files) = (world.ring.as_raw_fd() as usize, [world.memory.as_raw_fd()]);
        let update = [0u64, files.as_ptr() as u64];
        const FILES_UPDATE: usize = 6;
        call(libc::SYS_io_uring_register, [ring, FILES_UPDATE, update.as_ptr() as usize, 1]).map(drop)
    }),
    ("exchange files by the ring", false, |world| {
        let files = [world.memory.as_raw_fd()];
        ring(world, &opcode::FilesUpdate::new(files.as_ptr(), 1).offset(0).build())
    }),
    // Last, because all others would be judged by the rights that it gives.
    ("get namespaces by a user of its own", true, |_| call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize]).map(drop)),
];

static MARK: u32 = 7;

fn fd(socket: &impl AsRawFd) -> usize {
    socket.as_raw_fd() as usize
}

fn cwd() -> usize {
    libc::AT_FDCWD as usize
}

/// A call on a path.
fn at(number: i64, path: *const libc::c_char, rest: [usize; 2]) -> io::Result<()> {
    call(number, [cwd(), path as usize, rest[0], rest[1]]).map(drop)
}

fn fork() -> io::Result<()> {
    crate::sys::in_a_child(|| Ok(()))
}

fn execute(path: *const libc::c_char) -> io::Result<()> {
    let arguments = [path as usize, 0];
    call(libc::SYS_execve, [path as usize, arguments.as_ptr() as usize, 0]).map(drop)
}

fn process_vm(number: i64, world: &World) -> io::Result<()> {
    let here = [libc::iovec { iov_base: world.page as *mut libc::c_void, iov_len: 8 }];
    let there = [libc::iovec { iov_base: world.treasure as *mut libc::c_void, iov_len: 8 }];
    let (here, there) = (here.as_ptr() as usize, there.as_ptr() as usize);
    call(number, [world.victim, here, 1, there, 1, 0]).map(drop)
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<()> {
    call(libc::SYS_socket, [family as usize, kind as usize, protocol as usize]).map(drop)
}

fn option(socket: &socket2::Socket, name: i32, value: usize, length: usize) -> io::Result<()> {
    call(libc::SYS_setsockopt, [fd(socket), libc::SOL_SOCKET as usize, name as usize, value, length]).map(drop)
}

fn tun(world: &World, order: usize, argument: usize) -> io::Result<()> {
    call(libc::SYS_ioctl, [world.tun.as_raw_fd() as usize, order, argument]).map(drop)
}

fn map(protection: usize, flags: i32, file: RawFd) -> io::Result<()> {
    call(libc::SYS_mmap, [0, PAGE, protection, (libc::MAP_PRIVATE | flags) as usize, file as usize, 0]).map(drop)
}

fn ring(world: &mut World, entry: &Entry) -> io::Result<()> {
    through(&mut world.ring, entry)
}
