//! What a balancer has to know of its unsettled tables after a restart, as bytes.
//!
//! The kernel's tables say which two hosts have flows in a row, not since when and which of them is the elder. Without
//! these bytes, or with those of other tables, a restart holds every second hop from then on and takes it for the elder:
//! right for all rows but those that changed twice.
//!
//! ```text
//!  "weirrow1"  then per table: number u32, hash of its words u64, last step ms u64, rows u32, and per row: row u16, held u32
//! ```
//! All little-endian. Times are of the caller's clock, which must go on over the restart.

use std::{collections::BTreeMap, time::Duration};

use weir_abi::limits::TABLE_LEN;

use super::{
    TableHistory, TableWords,
    phases::{RETURNED, second},
};
use crate::hash;

const MAGIC: &[u8; 8] = b"weirrow1";

/// Histories of those of `tables` that have second hops → bytes.
pub fn encode(histories: &BTreeMap<u32, TableHistory>, tables: &BTreeMap<u32, TableWords>) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for (index, history) in histories {
        let Some(words) = tables.get(index).filter(|words| !history.is_settled_as(words)) else {
            continue;
        };
        let rows = history.held.iter().enumerate().filter(|(_, held)| **held != 0);
        out.extend(index.to_le_bytes());
        out.extend(fingerprint(words).to_le_bytes());
        out.extend((history.stepped.as_millis() as u64).to_le_bytes());
        out.extend((rows.clone().count() as u32).to_le_bytes());
        for (row, held) in rows {
            out.extend((row as u16).to_le_bytes());
            out.extend(held.to_le_bytes());
        }
    }
    out
}

/// Bytes → histories of those of `tables` they fit. What is cut, of another version or another table is left out; what is
/// later than `now` is taken for now.
pub fn decode(
    bytes: &[u8],
    tables: &BTreeMap<u32, TableWords>,
    now: Duration,
) -> BTreeMap<u32, TableHistory> {
    let mut histories = BTreeMap::new();
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else { return histories };
    while let Some((index, fingerprint_then, history)) = table(&mut rest, now) {
        if tables.get(&index).is_some_and(|words| fingerprint(words) == fingerprint_then) {
            histories.insert(index, history);
        }
    }
    histories
}

fn table(rest: &mut &[u8], now: Duration) -> Option<(u32, u64, TableHistory)> {
    let index = u32::from_le_bytes(take(rest)?);
    let fingerprint = u64::from_le_bytes(take(rest)?);
    // Rounded up: a flip may come late, never early.
    let stepped = Duration::from_millis(u64::from_le_bytes(take(rest)?).saturating_add(1)).min(now);
    let rows = u32::from_le_bytes(take(rest)?);
    let mut held = if rows == 0 { Vec::new() } else { vec![0; TABLE_LEN] };
    for _ in 0..rows {
        let row = u16::from_le_bytes(take(rest)?);
        let since = u32::from_le_bytes(take(rest)?);
        held[usize::from(row)] = (since & !RETURNED).min(second(now)) | since & RETURNED;
    }
    Some((index, fingerprint, TableHistory::known(stepped, held)))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

fn fingerprint(words: &[u32]) -> u64 {
    words.iter().fold(words.len() as u64, |hash, word| hash::mix(hash ^ u64::from(*word)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOW: Duration = Duration::from_secs(20);

    fn some() -> (BTreeMap<u32, TableHistory>, BTreeMap<u32, TableWords>) {
        let mut words = vec![1; TABLE_LEN];
        words[7] = 1 << 16 | 2;
        words[65_535] = 3 << 16 | 2;
        let mut held = vec![0; TABLE_LEN];
        held[7] = 11;
        held[65_535] = RETURNED | 12;
        let history = TableHistory::known(Duration::from_millis(4_999), held);
        (
            BTreeMap::from([(3, history)]),
            BTreeMap::from([(3, Arc::new(words)), (4, Arc::new(vec![1; TABLE_LEN]))]),
        )
    }

    #[test]
    fn what_is_known_of_a_table_outlives_a_restart() {
        let (histories, tables) = some();
        let back = decode(&encode(&histories, &tables), &tables, NOW);
        assert_eq!(back[&3].held, histories[&3].held);
        assert_eq!(back[&3].stepped, Duration::from_secs(5));
        assert_eq!(back.len(), 1);
    }

    #[test]
    fn what_was_known_of_another_table_is_left_out() {
        let (histories, mut tables) = some();
        let bytes = encode(&histories, &tables);
        tables.insert(3, Arc::new(vec![1; TABLE_LEN]));
        assert!(decode(&bytes, &tables, NOW).is_empty());
        assert!(decode(&bytes, &BTreeMap::new(), NOW).is_empty());
    }

    #[test]
    fn what_comes_from_the_future_is_taken_for_now() {
        let (histories, tables) = some();
        let back = decode(&encode(&histories, &tables), &tables, Duration::from_secs(3));
        assert_eq!(back[&3].stepped, Duration::from_secs(3));
        assert_eq!((back[&3].held[7], back[&3].held[65_535]), (4, RETURNED | 4));
    }

    #[test]
    fn bytes_cut_anywhere_are_read_without_harm() {
        let (histories, tables) = some();
        let bytes = encode(&histories, &tables);
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], &tables, NOW).is_empty(), "{len}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0xff;
            decode(&bytes, &tables, NOW);
        }
    }
}
