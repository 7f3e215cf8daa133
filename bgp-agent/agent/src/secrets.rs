//! Passwords of peers and keys of groups, from the configuration or from files beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use tracing::{info, warn};
use weir_model::{Group, Peer, Secret};

/// More than any key has: 80 bytes and an end of line. A longer file is no password file.
const FILE_LEN_MAX: u64 = 1024;

/// What the kernel takes: `TCP_MD5SIG_MAXKEYLEN`.
const KEY_LEN_MAX: usize = 80;

/// The passwords read last, by file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets {
    files: BTreeMap<PathBuf, Option<Secret>>,
}

impl Secrets {
    /// Read the files of these peers anew. One that cannot be read keeps the password it had.
    pub(crate) fn read<'a>(&mut self, peers: impl Iterator<Item = &'a Peer>) {
        self.read_files(peers.filter_map(|peer| peer.password_file.clone()));
    }

    /// The same for the keys of these groups.
    pub(crate) fn read_keys<'a>(&mut self, groups: impl Iterator<Item = &'a Group>) {
        self.read_files(groups.filter_map(|group| group.announcers_key_file.clone()));
    }

    fn read_files(&mut self, paths: impl Iterator<Item = PathBuf>) {
        let mut before = std::mem::take(&mut self.files);
        for path in paths {
            let known = before.remove(&path);
            let secret = match (read(&path), known) {
                (Ok(secret), known) => {
                    if known.flatten().is_some_and(|known| known != secret) {
                        info!(file = %path.display(), "password changed");
                    }
                    Some(secret)
                }
                (Err(error), None) => {
                    warn!(file = %path.display(), error, "no password: what needs it does without");
                    None
                }
                (Err(_), Some(known)) => known,
            };
            self.files.insert(path, secret);
        }
    }

    /// The password of a peer; `Err` when it has one that cannot be known: no session then, rather than one without.
    pub(crate) fn of(&self, peer: &Peer) -> Result<Option<Secret>, String> {
        self.known("password_file", peer.password.as_ref(), peer.password_file.as_ref())
    }

    /// The key of a group; `Err` when it has one that cannot be known: nothing is said or believed then.
    pub(crate) fn key_of(&self, group: &Group) -> Result<Option<Secret>, String> {
        self.known("announcers_key_file", group.announcers_key.as_ref(), group.announcers_key_file.as_ref())
    }

    fn known(
        &self,
        field: &str,
        given: Option<&Secret>,
        file: Option<&PathBuf>,
    ) -> Result<Option<Secret>, String> {
        match (given, file) {
            (Some(password), _) => Ok(Some(password.clone())),
            (None, None) => Ok(None),
            (None, Some(path)) => match self.files.get(path) {
                Some(Some(secret)) => Ok(Some(secret.clone())),
                _ => Err(format!("{field} {} cannot be read, or holds no password", path.display())),
            },
        }
    }
}

fn read(path: &std::path::Path) -> Result<Secret, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let key = text.trim_end();
    match key.len() {
        0 => Err("is empty".to_owned()),
        1..=KEY_LEN_MAX => Ok(Secret::new(key)),
        len => Err(format!("{len} bytes are more than {KEY_LEN_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::PeerAddress;

    #[test]
    fn a_file_that_goes_away_keeps_its_password_and_one_that_never_was_gives_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let address = PeerAddress::Host("10.0.0.1".parse().unwrap());
        let mut peer = Peer::new("n1".parse().unwrap(), address, 1, 2);
        peer.password_file = Some(path.clone());
        let mut secrets = Secrets::default();
        let mut of = |peer: &Peer| {
            secrets.read(std::iter::once(peer));
            secrets.of(peer).map(|secret| secret.map(|secret| secret.reveal().to_owned()))
        };
        assert!(of(&peer).is_err());
        std::fs::write(&path, "\n").unwrap();
        assert!(of(&peer).is_err(), "empty");
        std::fs::write(&path, "s3cret \n").unwrap();
        assert_eq!(of(&peer), Ok(Some("s3cret".to_owned())));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(of(&peer), Ok(Some("s3cret".to_owned())));
        std::fs::write(&path, "x".repeat(81)).unwrap();
        assert_eq!(of(&peer), Ok(Some("s3cret".to_owned())), "too long");
        peer.password_file = None;
        assert_eq!(of(&peer), Ok(None));
    }
}
