//! Reading one packet of a file somebody else wrote: every length is looked at before it is believed.

use super::{BYTE_ORDER, ETHERNET, INTERFACE, PACKET, RAW, SECTION, SIMPLE_PACKET};

/// Why there is no such packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Neither pcap nor pcapng.
    #[error("neither a pcap nor a pcapng file")]
    Unknown,
    /// It ends in the middle.
    #[error("the file is cut off or damaged at byte {0}")]
    Damaged(usize),
    /// It has fewer packets.
    #[error("the file has {0} packets")]
    TooFew(usize),
    /// Of another kind of link.
    #[error("the packet is of link type {0}; Ethernet and raw IP are understood")]
    LinkType(u16),
}

/// The bytes of packet `number`, from 1, as an Ethernet frame: raw IP packets get a header without addresses.
pub fn frame(file: &[u8], number: usize) -> Result<Vec<u8>, ReadError> {
    let first = Bytes { bytes: file, is_big: false }.u32(0).map_err(|_| ReadError::Unknown)?;
    match first {
        SECTION => next_generation(file, number),
        0xa1b2_c3d4 | 0xa1b2_3c4d => classic(Bytes { bytes: file, is_big: false }, number),
        0xd4c3_b2a1 | 0x4d3c_b2a1 => classic(Bytes { bytes: file, is_big: true }, number),
        _ => Err(ReadError::Unknown),
    }
}

fn framed(link_type: u16, packet: &[u8]) -> Result<Vec<u8>, ReadError> {
    if link_type == ETHERNET {
        return Ok(packet.to_vec());
    }
    if !RAW.contains(&link_type) {
        return Err(ReadError::LinkType(link_type));
    }
    let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let ethertype: [u8; 2] = if is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    Ok([&[0; 12][..], &ethertype, packet].concat())
}

/// File header of 24 bytes; then packets with headers of 16.
fn classic(file: Bytes<'_>, number: usize) -> Result<Vec<u8>, ReadError> {
    let link_type = file.u32(20)? as u16;
    let mut at = 24;
    for seen in 0.. {
        if at >= file.bytes.len() {
            return Err(ReadError::TooFew(seen));
        }
        let len = file.u32(at + 8)? as usize;
        let packet = file.slice(at + 16, len)?;
        if seen + 1 == number {
            return framed(link_type, packet);
        }
        at += 16 + len;
    }
    Err(ReadError::TooFew(0))
}

/// Blocks with their length in front and behind.
fn next_generation(file: &[u8], number: usize) -> Result<Vec<u8>, ReadError> {
    let mut file = Bytes { bytes: file, is_big: false };
    // Of the section at hand: link type and snap length.
    let mut interfaces: Vec<(u16, u32)> = Vec::new();
    let (mut at, mut seen) = (0, 0);
    while at < file.bytes.len() {
        let kind = file.u32(at)?;
        if kind == SECTION {
            file.is_big = false;
            file.is_big = file.u32(at + 8)? != BYTE_ORDER;
            if file.u32(at + 8)? != BYTE_ORDER {
                return Err(ReadError::Damaged(at));
            }
            interfaces.clear();
        }
        let len = file.u32(at + 4)? as usize;
        if len < 12 || !len.is_multiple_of(4) {
            return Err(ReadError::Damaged(at));
        }
        let body = Bytes { bytes: file.slice(at + 8, len - 12)?, ..file };
        let within = |error: ReadError| match error {
            ReadError::Damaged(_) => ReadError::Damaged(at),
            other => other,
        };
        match kind {
            INTERFACE => {
                // The first two bytes, whatever their order.
                let first = body.u32(0).map_err(within)?;
                let link_type = if file.is_big { first >> 16 } else { first } as u16;
                interfaces.push((link_type, body.u32(4).map_err(within)?));
            }
            PACKET | SIMPLE_PACKET => {
                seen += 1;
                if seen == number {
                    let (interface, start, len) = if kind == PACKET {
                        (body.u32(0).map_err(within)? as usize, 20, body.u32(12).map_err(within)?)
                    } else {
                        (0, 4, body.u32(0).map_err(within)?)
                    };
                    let (link_type, snap_len) = *interfaces.get(interface).ok_or(ReadError::Damaged(at))?;
                    let cut = kind == SIMPLE_PACKET && snap_len != 0;
                    let len = if cut { len.min(snap_len) } else { len } as usize;
                    return framed(link_type, body.slice(start, len).map_err(within)?);
                }
            }
            _ => {}
        }
        at += len;
    }
    Err(ReadError::TooFew(seen))
}

/// Bytes of either byte order.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    bytes: &'a [u8],
    is_big: bool,
}

impl<'a> Bytes<'a> {
    fn u32(self, at: usize) -> Result<u32, ReadError> {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk()).copied();
        let bytes = bytes.ok_or(ReadError::Damaged(at))?;
        Ok(if self.is_big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn slice(self, at: usize, len: usize) -> Result<&'a [u8], ReadError> {
        let rest = self.bytes.get(at..).ok_or(ReadError::Damaged(at))?;
        rest.get(..len).ok_or(ReadError::Damaged(at))
    }
}
