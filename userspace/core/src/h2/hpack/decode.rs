//! Heads unpacked. RFC 7541 §3, §6.

use super::{Broken, TABLE_LEN, dynamic::Dynamic, fixed::FIXED, huffman, take_integer};
use crate::h2::list::{List, is_clean_name, is_clean_value};

/// What unpacks the heads of one connection, in the order they came in.
#[derive(Debug, Default)]
pub(in crate::h2) struct Decoder {
    dynamic: Dynamic,
}

impl Decoder {
    /// Adds the fields of a head to a list. All of them are read even if the list takes no more, for others lean on them.
    pub(in crate::h2) fn decode(&mut self, mut block: &[u8], list: &mut List) -> Result<(), Broken> {
        let mut may_resize = true;
        while let Some(&first) = block.first() {
            match first {
                // RFC 7541 §6.1.
                0x80.. => {
                    let index = take_integer(&mut block, 7)?;
                    self.indexed(index, list)?;
                }
                // RFC 7541 §6.2.1.
                0x40.. => self.literal(&mut block, 6, true, list)?,
                // RFC 7541 §6.3, §4.2: in front of all fields, and never more than was granted.
                0x20.. => {
                    let size = take_integer(&mut block, 5)?;
                    if !may_resize || size > TABLE_LEN {
                        return Err(Broken);
                    }
                    self.dynamic.resize(size);
                    continue;
                }
                // RFC 7541 §6.2.2, §6.2.3.
                _ => self.literal(&mut block, 4, false, list)?,
            }
            may_resize = false;
        }
        Ok(())
    }

    fn indexed(&self, index: usize, list: &mut List) -> Result<(), Broken> {
        if let Some((name, value)) = FIXED.get(index.wrapping_sub(1)) {
            list.add_known(name, value.as_bytes(), true);
            return Ok(());
        }
        let (entry, name, value) =
            index.checked_sub(FIXED.len()).and_then(|index| self.dynamic.get(index)).ok_or(Broken)?;
        match entry.known {
            Some(known) => list.add_known(known, value, entry.is_clean),
            None => list.add(name, value, entry.is_clean),
        }
        Ok(())
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        prefix: u32,
        is_remembered: bool,
        list: &mut List,
    ) -> Result<(), Broken> {
        let index = take_integer(block, prefix)?;
        let begin = list.bytes.len();
        let mut known = None;
        let mut is_clean = true;
        match index.checked_sub(1) {
            None => {
                take_text(block, &mut list.bytes)?;
                is_clean = is_clean_name(list.bytes.get(begin..).unwrap_or_default());
            }
            Some(at) if at < FIXED.len() => known = FIXED.get(at).map(|(name, _)| *name),
            Some(at) => {
                let (entry, name, _) = self.dynamic.get(at + 1 - FIXED.len()).ok_or(Broken)?;
                known = entry.known;
                // A right name may have been remembered with a wrong value.
                is_clean = entry.is_clean || known.is_some() || is_clean_name(name);
                list.bytes.extend_from_slice(name);
            }
        }
        let middle = list.bytes.len();
        take_text(block, &mut list.bytes)?;
        let (name, value) = list.bytes.get(begin..).unwrap_or_default().split_at(middle - begin);
        is_clean &= is_clean_value(value);
        if is_remembered {
            self.dynamic.insert(known, name, value, is_clean);
        }
        list.added(known, begin, middle, is_clean);
        Ok(())
    }

    /// Bytes of all entries, as both sides count them, and those it keeps.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        self.dynamic.sizes()
    }
}

/// Takes a text, packed or not. RFC 7541 §5.2.
fn take_text(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    let is_packed = block.first().is_some_and(|first| first & 0x80 != 0);
    let len = take_integer(block, 7)?;
    let (text, rest) = block.split_at_checked(len).ok_or(Broken)?;
    *block = rest;
    if is_packed {
        return huffman::decode(text, out);
    }
    out.extend_from_slice(text);
    Ok(())
}
