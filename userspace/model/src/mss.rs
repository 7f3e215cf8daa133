//! How large a client's TCP segments may be: `"tunnel"`, `"off"` or a number of bytes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What proxies tell clients in their SYN-ACK (RFC 9293 §3.7.1), so that segments fit into tunnels without anybody having to be
/// told that they do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MssClamp {
    /// What fits into a tunnel to any proxy, by the MTU of the host's interfaces.
    #[default]
    Tunnel,
    /// Whatever the kernel says.
    Off,
    /// So many bytes, for IPv4 and IPv6 alike.
    Bytes(u16),
}

impl MssClamp {
    /// Bytes that may be asked for: no IPv4 host need take less than the first (RFC 9293 §3.7.1), no frame carries more.
    pub const BYTES_MIN: u16 = 536;
    /// The most.
    pub const BYTES_MAX: u16 = 9_000;

    fn bytes<E: de::Error>(bytes: u64) -> Result<Self, E> {
        u16::try_from(bytes)
            .ok()
            .filter(|bytes| (Self::BYTES_MIN..=Self::BYTES_MAX).contains(bytes))
            .map(Self::Bytes)
            .ok_or_else(|| {
                let (min, max) = (Self::BYTES_MIN, Self::BYTES_MAX);
                E::custom(format!("{bytes} bytes are no segment size: write {min} to {max}"))
            })
    }
}

impl Serialize for MssClamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tunnel => serializer.serialize_str("tunnel"),
            Self::Off => serializer.serialize_str("off"),
            Self::Bytes(bytes) => serializer.serialize_u16(*bytes),
        }
    }
}

impl<'de> Deserialize<'de> for MssClamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = MssClamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"tunnel\", \"off\" or a number of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MssClamp, E> {
                match text {
                    "tunnel" => Ok(MssClamp::Tunnel),
                    "off" => Ok(MssClamp::Off),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<MssClamp, E> {
                MssClamp::bytes(bytes)
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<MssClamp, E> {
                MssClamp::bytes(u64::try_from(bytes).unwrap_or(0))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Has {
        mss_clamp: MssClamp,
    }

    #[test]
    fn a_clamp_is_a_word_or_a_number_of_bytes() {
        for (text, clamp) in
            [("\"tunnel\"", MssClamp::Tunnel), ("\"off\"", MssClamp::Off), ("1360", MssClamp::Bytes(1360))]
        {
            let has: Has = toml::from_str(&format!("mss_clamp = {text}")).unwrap();
            assert_eq!(has.mss_clamp, clamp);
            assert_eq!(toml::from_str::<Has>(&toml::to_string(&has).unwrap()).unwrap(), has);
        }
        for (text, expected) in [
            ("\"on\"", "\"tunnel\", \"off\" or a number of bytes"),
            ("535", "535 bytes are no segment size: write 536 to 9000"),
            ("9001", "write 536 to 9000"),
            ("-1", "write 536 to 9000"),
            ("true", "\"tunnel\", \"off\" or a number of bytes"),
        ] {
            let error = toml::from_str::<Has>(&format!("mss_clamp = {text}")).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
