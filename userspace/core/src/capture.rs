//! Events of the datapath → packets of a capture: what a packet was like when it came is shown before it is known what
//! becomes of it, so the two are put together here.

use std::collections::BTreeMap;

use weir_abi::{
    capture::{CAME, Captured, LEFT},
    counters::REASONS,
};

/// Bytes of a [`Captured`].
const HEADER_LEN: usize = size_of::<Captured>();

/// A packet to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What the datapath says of it; the direction is the one shown.
    pub event: Captured,
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// Name of the reason it was counted under.
    pub reason: &'static str,
}

/// Puts the events of all CPUs together.
#[derive(Clone, Debug)]
pub struct Assembler {
    directions: u32,
    /// Per CPU: the packet that came last, whose end has not been told.
    pending: BTreeMap<u32, (Captured, Vec<u8>)>,
    /// Packets that were wanted, but of which a part was lost.
    pub torn: u64,
}

impl Assembler {
    /// For a capture of these directions.
    pub fn new(directions: u32) -> Self {
        Self { directions, pending: BTreeMap::new(), torn: 0 }
    }

    /// Takes an event of a CPU, as it lies in the ring; gives the packets that are complete now.
    pub fn push(&mut self, cpu: u32, raw: &[u8]) -> Vec<Shown> {
        let Some((event, bytes)) = parse(raw) else {
            self.torn += 1;
            return Vec::new();
        };
        if event.direction == CAME {
            // One that is still there was not wanted: nobody has said how it ended.
            self.pending.insert(cpu, (event, bytes.to_vec()));
            return Vec::new();
        }
        let came = self.pending.remove(&cpu).filter(|(came, _)| came.turn == event.turn);
        let reason = REASONS.get(event.reason as usize).map_or("unknown", |(_, name)| name);
        let mut shown = Vec::new();
        if self.directions & CAME != 0 {
            match came {
                Some((came, bytes)) => {
                    shown.push(Shown { event: Captured { reason: event.reason, ..came }, bytes, reason });
                }
                None => self.torn += 1,
            }
        }
        if self.directions & LEFT != 0 {
            shown.push(Shown { event, bytes: bytes.to_vec(), reason });
        }
        shown
    }
}

/// The header, and the bytes it announces; the ring pads them.
fn parse(raw: &[u8]) -> Option<(Captured, &[u8])> {
    let (header, rest) = raw.split_at_checked(HEADER_LEN)?;
    let (at, words) = header.split_first_chunk()?;
    let mut words = words.chunks_exact(4).map(|word| word.try_into().map_or(0, u32::from_ne_bytes));
    let mut next = || words.next().unwrap_or_default();
    let event = Captured {
        at_ns: u64::from_ne_bytes(*at),
        turn: next(),
        direction: next(),
        reason: next(),
        len_bytes: next(),
        captured_bytes: next(),
        ingress: next(),
    };
    Some((event, rest.get(..event.captured_bytes as usize)?))
}

#[cfg(test)]
mod tests {
    use weir_abi::counters::Reason;

    use super::*;

    const ENCAP: u32 = Reason::Encap as u32;

    fn raw(turn: u32, direction: u32, reason: u32, bytes: &[u8]) -> Vec<u8> {
        let len = bytes.len() as u32;
        let words = [turn, direction, reason, 1_500, len, 7].map(u32::to_ne_bytes).concat();
        // As the ring pads.
        [&9_u64.to_ne_bytes()[..], &words, bytes, &[0; 4]].concat()
    }

    #[test]
    fn a_packet_is_shown_with_the_reason_that_is_known_at_its_end() {
        let mut both = Assembler::new(CAME | LEFT);
        assert_eq!(both.push(0, &raw(1, CAME, 0, b"came")), []);
        let shown = both.push(0, &raw(1, LEFT, ENCAP, b"left as this"));
        let said: Vec<_> =
            shown.iter().map(|one| (one.event.direction, one.reason, one.bytes.as_slice())).collect();
        assert_eq!(said, [(CAME, "encap", &b"came"[..]), (LEFT, "encap", b"left as this")]);
    }

    #[test]
    fn what_nobody_wanted_in_the_end_is_not_shown_and_what_is_torn_is_counted() {
        let mut came = Assembler::new(CAME);
        came.push(0, &raw(1, CAME, 0, b"unwanted"));
        came.push(0, &raw(2, CAME, 0, b"wanted"));
        assert_eq!(came.push(1, &raw(2, LEFT, ENCAP, b"")), [], "another CPU's");
        assert_eq!(came.push(0, &raw(2, LEFT, 15, b"")).len(), 1);
        assert_eq!(came.push(0, &raw(3, LEFT, 15, b"")), []);
        assert_eq!(came.push(0, b"short"), []);
        let mut cut = raw(4, LEFT, 15, b"bytes");
        cut.truncate(HEADER_LEN + 2);
        assert_eq!(came.push(0, &cut), []);
        assert_eq!(came.torn, 4);
    }
}
