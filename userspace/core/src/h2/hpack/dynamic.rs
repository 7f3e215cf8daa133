//! The fields a client has told to remember. RFC 7541 §2.3.2, §4.

use std::collections::VecDeque;

use super::TABLE_LEN;

/// What each entry counts for beside its bytes. RFC 7541 §4.1.
const ENTRY_LEN: usize = 32;

/// Entries, the youngest last.
#[derive(Debug)]
pub(super) struct Dynamic {
    entries: VecDeque<Entry>,
    /// Bytes of the entries, one behind the other, in front of them those of entries that are gone.
    bytes: Vec<u8>,
    size: usize,
    size_max: usize,
}

/// A field that is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// A name everybody knows; its bytes are not among ours.
    pub(super) known: Option<&'static str>,
    at: usize,
    name_len: usize,
    value_len: usize,
    /// Whether name and value are such as may be.
    pub(super) is_clean: bool,
}

impl Entry {
    fn size(&self) -> usize {
        self.known.map_or(self.name_len, str::len) + self.value_len + ENTRY_LEN
    }
}

impl Default for Dynamic {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: Vec::new(), size: 0, size_max: TABLE_LEN }
    }
}

impl Dynamic {
    /// The entry of an index, which begins with 1, and the bytes of its name, unless it is known, and of its value.
    pub(super) fn get(&self, index: usize) -> Option<(Entry, &[u8], &[u8])> {
        let entry = *self.entries.get(self.entries.len().checked_sub(index)?)?;
        let (name, rest) = self.bytes.get(entry.at..)?.split_at_checked(entry.name_len)?;
        Some((entry, name, rest.get(..entry.value_len)?))
    }

    /// Remembers a field: a known name, or its bytes. RFC 7541 §4.4: one that is too large empties the table.
    pub(super) fn insert(&mut self, known: Option<&'static str>, name: &[u8], value: &[u8], is_clean: bool) {
        let mut entry = Entry { known, at: 0, name_len: name.len(), value_len: value.len(), is_clean };
        self.shrink(self.size_max.saturating_sub(entry.size()));
        if entry.size() > self.size_max {
            return;
        }
        // The bytes of those gone are given up when they are as many as all others may be.
        let begin = self.entries.front().map_or(self.bytes.len(), |entry| entry.at);
        if begin >= TABLE_LEN {
            self.bytes.drain(..begin);
            self.entries.iter_mut().for_each(|entry| entry.at -= begin);
        }
        entry.at = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.size += entry.size();
        self.entries.push_back(entry);
    }

    /// Remembers no more than so many bytes from now on. RFC 7541 §4.3.
    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.shrink(size_max);
    }

    /// Forgets the oldest until the rest is no larger.
    fn shrink(&mut self, size: usize) {
        while self.size > size {
            let Some(entry) = self.entries.pop_front() else { return };
            self.size -= entry.size();
        }
    }

    /// Bytes of all entries, as both sides count them, and those it keeps.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.size, self.bytes.len())
    }
}
