//! Messages with descriptors beside them, over unix sockets.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, sendmsg};
use socket2::Socket;
use weir_core::keeper::notice::DESCRIPTORS_MAX;

/// One message.
#[derive(Debug)]
pub struct Received {
    /// Its text.
    pub message: Vec<u8>,
    /// What came along.
    pub descriptors: Vec<OwnedFd>,
    /// The process that sent it, where the socket was told to ask (`SO_PASSCRED`).
    pub pid: Option<i32>,
}

/// Sends one message, whole or not at all.
pub fn send(socket: &Socket, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let descriptors: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &control };
    let parts = [IoSlice::new(message)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// The next message, of which so many bytes are read; `None` at the end of a connection.
pub fn receive(socket: &Socket, len_max: usize) -> io::Result<Option<Received>> {
    let mut message = vec![0; len_max];
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX], UnixCredentials);
    let (mut descriptors, mut pid) = (Vec::new(), None);
    let len = {
        let mut parts = [IoSliceMut::new(&mut message)];
        let received =
            recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for part in received.cmsgs()? {
            match part {
                ControlMessageOwned::ScmRights(raw) => descriptors.extend(raw.into_iter().map(own)),
                ControlMessageOwned::ScmCredentials(sender) => pid = Some(sender.pid()),
                _ => {}
            }
        }
        received.bytes
    };
    message.truncate(len);
    Ok((len > 0).then_some(Received { message, descriptors, pid }))
}

#[allow(unsafe_code)]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor for us by SCM_RIGHTS; nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
