//! What a service says to the one who holds its sockets: the lines of systemd's `sd_notify(3)`; and what it is given at its start,
//! `sd_listen_fds(3)`.

/// Descriptors that are given begin here.
pub const FIRST_GIVEN: i32 = 3;
/// Descriptors beside one message; the kernel takes no more.
pub const DESCRIPTORS_MAX: usize = 253;
/// Bytes of a message.
pub const LEN_MAX: usize = 4096;
/// Bytes of the name of a descriptor, and descriptors given at a start.
const NAME_LEN_MAX: usize = 255;
const GIVEN_MAX: usize = 65_536;

/// What a message says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice<'m> {
    /// It serves.
    pub ready: bool,
    /// It lives.
    pub watchdog: bool,
    /// How it is, in words.
    pub status: Option<&'m str>,
    /// The descriptors beside it are to be held.
    pub store: bool,
    /// What is held under the name is to be closed.
    pub remove: bool,
    /// The name of the descriptors, if it is one.
    pub name: Option<&'m str>,
}

impl<'m> Notice<'m> {
    /// Reads a message; what is not known in it means nothing.
    pub fn parse(message: &'m [u8]) -> Self {
        let mut notice = Self::default();
        for line in message.split(|byte| *byte == b'\n') {
            match std::str::from_utf8(line).ok().and_then(|line| line.split_once('=')) {
                Some(("READY", "1")) => notice.ready = true,
                Some(("WATCHDOG", "1")) => notice.watchdog = true,
                Some(("STATUS", status)) => notice.status = Some(status),
                Some(("FDSTORE", "1")) => notice.store = true,
                Some(("FDSTOREREMOVE", "1")) => notice.remove = true,
                Some(("FDNAME", name)) => notice.name = Some(name).filter(|name| is_name(name)),
                _ => {}
            }
        }
        notice
    }
}

/// Whether descriptors may be called so.
pub fn is_name(name: &str) -> bool {
    let fits = (1..=NAME_LEN_MAX).contains(&name.len());
    fits && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

/// Asks for the descriptors beside the message to be held. Not looked at meanwhile: a listening socket has nothing to say.
pub fn store(name: &str) -> String {
    format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0")
}

/// Asks for what is held under a name to be closed.
pub fn remove(name: &str) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={name}")
}

/// The names of the descriptors given to this process, the first of which is [`FIRST_GIVEN`], by the variables `LISTEN_PID`,
/// `LISTEN_FDS` and `LISTEN_FDNAMES`. `None` when nothing was given to it, and nothing held for it.
pub fn given(own: u32, pid: Option<&str>, count: Option<&str>, names: Option<&str>) -> Option<Vec<String>> {
    // Those of a parent may have been inherited by mistake.
    if pid?.parse() != Ok(own) {
        return None;
    }
    let count = count?.parse::<usize>().ok().filter(|count| *count <= GIVEN_MAX)?;
    let mut names = names.unwrap_or("").split(':');
    Some((0..count).map(|_| names.next().unwrap_or("").to_owned()).collect())
}
