//! Communities as operators write them. RFC 1997, RFC 8092; the well-known names of RFC 1997 §3, RFC 7999, RFC 8326.

use std::{fmt, str::FromStr};

/// A community of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    /// `AS:value`, as `AS << 16 | value`.
    Standard(u32),
    /// `global:local:local`.
    Large(u32, u32, u32),
}

const WELL_KNOWN: [(&str, u32); 5] = [
    ("graceful-shutdown", 0xffff_0000),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
];

/// Why a text is not a [`Community`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a community")]
pub struct CommunityError(String);

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        if let Some((_, value)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Standard(*value));
        }
        let bad = || CommunityError(text.chars().take(80).collect());
        // Digits only: `parse` would take a sign.
        let parts: Vec<&str> = text.split(':').collect();
        if parts.iter().any(|part| part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit())) {
            return Err(bad());
        }
        let short = |part: &str| part.parse::<u16>().map(u32::from).map_err(|_| bad());
        let long = |part: &str| part.parse::<u32>().map_err(|_| bad());
        match parts[..] {
            [asn, value] => Ok(Self::Standard(short(asn)? << 16 | short(value)?)),
            [global, local1, local2] => Ok(Self::Large(long(global)?, long(local1)?, long(local2)?)),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(value) => match WELL_KNOWN.iter().find(|(_, known)| known == value) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "{}:{}", value >> 16, value & 0xffff),
            },
            Self::Large(global, local1, local2) => write!(f, "{global}:{local1}:{local2}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_read_and_written_alike() {
        for (text, value) in [
            ("65000:100", Community::Standard(0xfde8_0064)),
            ("no-export", Community::Standard(0xffff_ff01)),
            ("blackhole", Community::Standard(0xffff_029a)),
            ("4200000000:1:2", Community::Large(4_200_000_000, 1, 2)),
        ] {
            assert_eq!(text.parse(), Ok(value));
            assert_eq!(value.to_string(), text);
        }
        for text in ["", "x", "65536:1", "1:65536", "1:2:3:4", "1:", "+1:2", "1:2:4294967296", "NO-EXPORT"] {
            assert!(text.parse::<Community>().is_err(), "{text}");
        }
    }
}
