//! What is held for processes that may end at any moment.
//!
//! A successor says again what it wants held of what it was given. Nothing closes that a process in service wants: an old one that
//! closes a socket on purpose while its successor begins to use it takes back its own word only.

use std::collections::BTreeSet;

use super::Pid;

/// Descriptors that are held at most; more are not taken, which is told.
pub const HELD_MAX: usize = 16_384;

/// What is held, in the order it came.
#[derive(Debug)]
pub struct Store<S> {
    held: Vec<Held<S>>,
}

#[derive(Debug)]
struct Held<S> {
    name: String,
    /// What is equal in all duplicates of a socket.
    identity: u64,
    socket: S,
    owners: BTreeSet<Pid>,
}

/// What became of a socket that was to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is new.
    New,
    /// It was held already.
    Known,
    /// There is no room.
    Full,
}

impl<S> Default for Store<S> {
    fn default() -> Self {
        Self { held: Vec::new() }
    }
}

impl<S> Store<S> {
    /// Holds a socket for a process.
    pub fn put(&mut self, owner: Pid, name: &str, identity: u64, socket: S) -> Stored {
        if let Some(known) = self.held.iter_mut().find(|held| held.identity == identity) {
            known.owners.insert(owner);
            return Stored::Known;
        }
        if self.held.len() >= HELD_MAX {
            return Stored::Full;
        }
        let owners = BTreeSet::from([owner]);
        self.held.push(Held { name: name.to_owned(), identity, socket, owners });
        Stored::New
    }

    /// A process wants what has this name no longer. Returns whether nothing is held under it any more.
    pub fn remove(&mut self, owner: Pid, name: &str, in_service: impl Fn(Pid) -> bool) -> bool {
        self.held.retain_mut(|held| {
            if held.name != name {
                return true;
            }
            held.owners.remove(&owner);
            held.owners.iter().any(|owner| in_service(*owner))
        });
        !self.held.iter().any(|held| held.name == name)
    }

    /// Keeps only what this process wants, or `outside` has put there. Returns the names under which nothing is held any more.
    pub fn promote(&mut self, owner: Pid, outside: Pid) -> BTreeSet<String> {
        let before = self.names();
        self.held.retain(|held| held.owners.contains(&owner) || held.owners.contains(&outside));
        &before - &self.names()
    }

    /// A process has ended that never served. Returns the names under which nothing is held any more.
    pub fn forget(&mut self, owner: Pid) -> BTreeSet<String> {
        let before = self.names();
        self.held.retain_mut(|held| !held.owners.remove(&owner) || !held.owners.is_empty());
        &before - &self.names()
    }

    fn names(&self) -> BTreeSet<String> {
        self.held.iter().map(|held| held.name.clone()).collect()
    }

    /// Names and sockets.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &S)> {
        self.held.iter().map(|held| (held.name.as_str(), &held.socket))
    }
}
