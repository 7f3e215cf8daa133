//! A table's rows together: what a balancer remembers of them, and one look at all of them.
//!
//! What a row does is [`super::phases`]' decision.

use std::{sync::Arc, time::Duration};

use weir_abi::{limits::TABLE_LEN, service::Slot};

use super::{
    TableWords,
    phases::{Row, Rules},
};
use crate::{
    hash,
    maglev::{self, Weighted},
};

/// What a balancer remembers of a table beside its rows. Times are since a start that the caller chose.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableHistory {
    /// When rows last prepared or flipped.
    pub(super) stepped: Duration,
    /// Whether a start is all that is known.
    pub(super) started: bool,
    /// Per row what [`Row::held`] says. Empty: all 0. 256 KiB where a table has not settled.
    pub(super) held: Arc<Vec<u32>>,
    /// The owners that shall be, and a hash of what they were made from. 128 KiB.
    wished: (u64, Arc<Vec<u16>>),
    /// The words this history is about, when no row has a second hop.
    settled: Option<TableWords>,
}

impl TableHistory {
    /// Nothing is known: flips wait as if everything had been prepared now, and preparations wait for nothing.
    pub(super) fn unknown(now: Duration) -> Self {
        Self { stepped: now, started: true, ..Self::default() }
    }

    /// What was known of a table before a restart.
    pub(super) fn known(stepped: Duration, held: Vec<u32>) -> Self {
        Self { stepped, held: Arc::new(held), ..Self::default() }
    }

    /// Sets who shall own the rows; `numbers` are the backend slots. True when they shall already.
    pub(super) fn wish(&mut self, weighted: &[Weighted<'_>], numbers: &[u16]) -> bool {
        let from = weighted.iter().zip(numbers).fold(1, |from, (weighted, number)| {
            let share = u64::from(weighted.weight) << 16 | u64::from(*number);
            hash::mix(from ^ hash::bytes(weighted.id.as_bytes())) ^ hash::mix(share)
        });
        let unchanged = from == self.wished.0;
        if !unchanged {
            self.wished = (from, Arc::new(targets(weighted, numbers)));
        }
        unchanged
    }

    /// Whether the words are those in which no row had anything left to do.
    pub(super) fn is_settled_as(&self, words: &TableWords) -> bool {
        self.settled.as_ref().is_some_and(|settled| Arc::ptr_eq(settled, words))
    }

    /// One look at every row of a table in the kernel: its words, and when to look again.
    pub(super) fn step(&mut self, rules: &Rules<'_>, current: &TableWords) -> (TableWords, Option<Duration>) {
        let (targets, before) = (Arc::clone(&self.wished.1), Arc::clone(&self.held));
        let mut rows = Rows::new(&before);
        for (bucket, (target, word)) in targets.iter().zip(current.iter()).enumerate() {
            let held = before.get(bucket).copied().unwrap_or_default();
            if *word == u32::from(*target) && held == 0 {
                rows.words.push(*word);
                continue;
            }
            rows.push(held, rules.next(Slot::unpack(*word), held, *target));
        }
        self.remember(rows, rules.now, Some(current))
    }

    /// The same without memory: `others` are the owners in a world without this node.
    pub(super) fn first(&mut self, rules: &Rules<'_>, others: &[u16]) -> (TableWords, Option<Duration>) {
        let targets = Arc::clone(&self.wished.1);
        let mut rows = Rows::new(&[]);
        for (target, other) in targets.iter().zip(others) {
            let before = Slot { owner: *target, previous: if other == target { 0 } else { *other } };
            rows.push(0, rules.next(before, 0, *target));
        }
        self.remember(rows, rules.now, None)
    }

    fn remember(
        &mut self,
        rows: Rows<'_>,
        now: Duration,
        current: Option<&TableWords>,
    ) -> (TableWords, Option<Duration>) {
        let Rows { words, held, stepped, wake, .. } = rows;
        let words = match current {
            Some(current) if **current == words => Arc::clone(current),
            _ => Arc::new(words),
        };
        if stepped {
            self.stepped = now;
        }
        self.started = false;
        if let Some(held) = held {
            self.held = Arc::new(if held.iter().all(|held| *held == 0) { Vec::new() } else { held });
        }
        // A row with a second hop, or with another owner than it shall have, wants to be looked at again.
        self.settled = wake.is_none().then(|| Arc::clone(&words));
        (words, wake)
    }
}

/// The owners of all rows, as backend slots; without any, none in every row.
pub(super) fn targets(weighted: &[Weighted<'_>], numbers: &[u16]) -> Vec<u16> {
    let owners = maglev::build(weighted, TABLE_LEN);
    if owners.is_empty() {
        return vec![0; TABLE_LEN];
    }
    owners.iter().map(|owner| numbers[*owner as usize]).collect()
}

/// The rows of a table as they come to be.
struct Rows<'a> {
    before: &'a [u32],
    words: Vec<u32>,
    /// What they hold, once that is not what it was.
    held: Option<Vec<u32>>,
    stepped: bool,
    wake: Option<Duration>,
}

impl<'a> Rows<'a> {
    fn new(before: &'a [u32]) -> Self {
        Self { before, words: Vec::with_capacity(TABLE_LEN), held: None, stepped: false, wake: None }
    }

    fn push(&mut self, before: u32, row: Row) {
        let bucket = self.words.len();
        self.words.push(row.slot.pack());
        if row.held != before {
            let all = self.before;
            let held = self.held.get_or_insert_with(|| match all.is_empty() {
                true => vec![0; TABLE_LEN],
                false => all.to_vec(),
            });
            held[bucket] = row.held;
        }
        self.stepped |= row.stepped;
        self.wake = [self.wake, row.wake].into_iter().flatten().min();
    }
}
