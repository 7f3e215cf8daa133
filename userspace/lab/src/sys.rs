//! The system calls no safe wrapper offers: what a child does between fork and exec, the XDP program of a router port,
//! the checksum setting of an interface, the limit of open files, and what TCP knows of a connection. Nothing else in this crate is `unsafe`.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    process::Command,
};

use anyhow::{Context, Result};
use nix::{libc, sched::CloneFlags, sys::signal::Signal};

/// Makes `command` run in the network namespace behind `namespace`, and die when the thread that starts it dies.
///
/// `namespace` must stay open until the command was started.
pub fn confine(command: &mut Command, namespace: RawFd) {
    use std::os::unix::process::CommandExt;
    let parent = nix::unistd::getpid();
    // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls; it captures two
    // integers, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            // SAFETY: the caller keeps the descriptor open; it is not closed here.
            let fd = std::os::fd::BorrowedFd::borrow_raw(namespace);
            nix::sched::setns(fd, CloneFlags::CLONE_NEWNET)?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the line above took effect.
            if nix::unistd::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `union bpf_attr`, as far as this file fills it; the kernel takes the missing rest as zero.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_version_flags: [u32; 6],
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}
const _: () = assert!(size_of::<ProgLoad>() == 72);

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}
const _: () = assert!(size_of::<LinkCreate>() == 16);

/// The XDP program that passes everything. A veth transmits what its peer's program sends back (`XDP_TX`) only while
/// it has a native program of its own.
pub struct PassProgram(OwnedFd);

impl PassProgram {
    /// Loads it.
    pub fn load() -> Result<Self> {
        // r0 = XDP_PASS; exit
        let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
        let license = c"GPL";
        let mut attributes = ProgLoad {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: 2,
            insns: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            expected_attach_type: BPF_XDP,
            ..ProgLoad::default()
        };
        attributes.prog_name[..9].copy_from_slice(b"weir_pass");
        bpf(BPF_PROG_LOAD, &attributes).map(Self).context("load the XDP program of the router ports")
    }

    /// Attaches it in native mode to an interface of the calling thread's namespace, until the result is dropped.
    pub fn attach(&self, ifindex: u32) -> Result<OwnedFd> {
        let attributes = LinkCreate {
            prog_fd: self.0.as_raw_fd() as u32,
            target_ifindex: ifindex,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        bpf(BPF_LINK_CREATE, &attributes).context("attach XDP to a router port")
    }
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: both attribute structs hold plain integers; the pointers in them lead to arrays that outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Segments a TCP socket sent again, and how many of them the other side reports to have had already (RFC 2883).
pub(crate) fn sent_again(socket: &socket2::Socket) -> io::Result<(u32, u32)> {
    // `struct tcp_info` of linux/tcp.h; libc's stops short of what is needed here.
    const TOTAL_RETRANS: usize = 100;
    const DSACK_DUPS: usize = 216;
    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`, and the number written into `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < DSACK_DUPS + 4 {
        return Err(io::Error::other("the kernel does not count duplicate segments"));
    }
    let number = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok((number(TOTAL_RETRANS), number(DSACK_DUPS)))
}

/// Lets this process and those it starts have as many open files as the system allows: a client's connection takes one
/// here, and one or two in a proxy.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write one `rlimit`, which lives across them.
    let result = unsafe {
        match libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) {
            0 => {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
            }
            failed => failed,
        }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// Switches transmit checksum offload off: on a veth the checksum is otherwise never computed, and a program that
/// encapsulates the packet carries the unfinished one to a host that refuses it.
pub fn disable_tx_checksum_offload(interface: &str) -> Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let mut value: [u32; 2] = [ETHTOOL_STXCSUM, 0];
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    anyhow::ensure!(interface.len() < request.ifr_name.len(), "interface name {interface:?} is too long");
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL reads and writes the 8 bytes of `value` for this command; both live across the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("switch off checksum offload of {interface}"));
    }
    Ok(())
}
