//! The control packet: 24 octets, and what is checked before a session is looked for. RFC 5880 §4.1, §6.8.6.
//!
//! Intervals are in microseconds, as on the wire. Checks that need a session are the speaker's.

use std::fmt;
use std::num::{NonZeroU8, NonZeroU32};
use thiserror::Error;

/// Octets of a packet without authentication, the only kind we send.
pub const PACKET_LEN: usize = 24;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// State of a session, with its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum State {
    /// Switched off by an operator; says nothing of the path.
    AdminDown = 0,
    /// The peer is not heard, or does not hear us.
    #[default]
    Down = 1,
    /// The peer is heard; whether it hears us is not known.
    Init = 2,
    /// Both hear each other.
    Up = 3,
}

impl State {
    /// All, in the order of the wire.
    pub const ALL: [Self; 4] = [Self::AdminDown, Self::Down, Self::Init, Self::Up];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        })
    }
}

/// Why a session last changed its state: five bits. RFC 5880 §4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// 0.
    pub const NONE: Self = Self(0);
    /// 1: nothing was heard for the Detection Time.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// 3: the other side said that it is down.
    pub const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    /// 7: an operator's will.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("no diagnostic"),
            1 => f.write_str("control detection time expired"),
            2 => f.write_str("echo function failed"),
            3 => f.write_str("neighbor signaled session down"),
            4 => f.write_str("forwarding plane reset"),
            5 => f.write_str("path down"),
            6 => f.write_str("concatenated path down"),
            7 => f.write_str("administratively down"),
            8 => f.write_str("reverse concatenated path down"),
            other => write!(f, "diagnostic {other}"),
        }
    }
}

/// The head of an authentication section; its data is not looked at, for nobody here knows a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authentication {
    /// Auth Type. RFC 5880 §4.1.
    pub auth_type: u8,
    /// Auth Len: octets of the section, type and length included.
    pub len: u8,
}

/// A control packet that is well formed in itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session last changed its state.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// P: asks for an answer with F.
    pub poll: bool,
    /// F: is such an answer.
    pub is_final: bool,
    /// C: the sender's BFD survives its control plane.
    pub control_plane_independent: bool,
    /// A: an authentication section follows.
    pub authentication: Option<Authentication>,
    /// D: the sender does not want periodic packets.
    pub demand: bool,
    /// The sender is dead after this many intervals of silence.
    pub detect_mult: NonZeroU8,
    /// The sender's name for the session.
    pub my_discriminator: NonZeroU32,
    /// The receiver's name for the session; 0 as long as the sender has not heard it.
    pub your_discriminator: u32,
    /// The sender wants to send at most this often, in microseconds.
    pub desired_min_tx_us: u32,
    /// The sender can take a packet this often, in microseconds; 0: send none periodically.
    pub required_min_rx_us: u32,
    /// The same for Echo packets; 0: loops none back.
    pub required_min_echo_rx_us: u32,
}

/// Why a packet was thrown away: the checks of RFC 5880 §6.8.6 in their order, and those of RFC 5881 §5 and RFC 5883 §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum Discard {
    /// Less than the four octets that say version and length.
    #[error("{0} octets are no control packet")]
    Truncated(usize),
    /// Not sent by a neighbour on the link: it passed a router, or somebody far away pretends.
    #[error("TTL {0} where only a neighbour's 255 is taken")]
    Ttl(u8),
    /// The socket did not say the TTL.
    #[error("TTL unknown")]
    TtlUnknown,
    /// Version other than 1.
    #[error("version {0} in place of 1")]
    Version(u8),
    /// Less than the mandatory section, or than it and the head of an authentication section.
    #[error("length {0} is less than the sections it announces")]
    LengthShort(u8),
    /// More than what arrived.
    #[error("length {0} in a datagram of {1} octets")]
    LengthBeyondPayload(u8, usize),
    /// Detect Mult 0.
    #[error("detect multiplier 0")]
    DetectMultZero,
    /// M set.
    #[error("multipoint bit set")]
    Multipoint,
    /// My Discriminator 0.
    #[error("my discriminator 0")]
    MyDiscriminatorZero,
    /// Your Discriminator names no session of this kind.
    #[error("your discriminator {0:#010x} names no session")]
    UnknownDiscriminator(u32),
    /// Init or Up from somebody who has not heard our discriminator.
    #[error("your discriminator 0 in state {0}")]
    YourDiscriminatorZero(State),
    /// No session between these addresses.
    #[error("no session with this address")]
    UnknownPeer,
    /// A multihop packet from farther away than allowed.
    #[error("TTL {ttl} is below the least allowed, {least}")]
    TtlBelowMinimum {
        /// Of the packet.
        ttl: u8,
        /// Of the session.
        least: u8,
    },
    /// A set: the peer authenticates and we do not.
    #[error("the peer authenticates (type {0}), which is not configured here")]
    Authenticated(u8),
}

impl Discard {
    /// Labels of all reasons, in the order of the variants.
    pub const LABELS: [&str; 14] = [
        "truncated",
        "ttl",
        "ttl-unknown",
        "version",
        "length-short",
        "length-beyond-payload",
        "detect-mult-zero",
        "multipoint",
        "my-discriminator-zero",
        "unknown-discriminator",
        "your-discriminator-zero",
        "unknown-peer",
        "ttl-below-minimum",
        "authenticated",
    ];

    /// Index into [`Discard::LABELS`].
    pub fn index(self) -> usize {
        match self {
            Self::Truncated(_) => 0,
            Self::Ttl(_) => 1,
            Self::TtlUnknown => 2,
            Self::Version(_) => 3,
            Self::LengthShort(_) => 4,
            Self::LengthBeyondPayload(..) => 5,
            Self::DetectMultZero => 6,
            Self::Multipoint => 7,
            Self::MyDiscriminatorZero => 8,
            Self::UnknownDiscriminator(_) => 9,
            Self::YourDiscriminatorZero(_) => 10,
            Self::UnknownPeer => 11,
            Self::TtlBelowMinimum { .. } => 12,
            Self::Authenticated(_) => 13,
        }
    }

    /// A short fixed name, for metrics.
    pub fn label(self) -> &'static str {
        Self::LABELS[self.index()]
    }
}

impl Packet {
    /// Read the payload of a datagram. Octets behind the length it gives are not looked at.
    pub fn decode(payload: &[u8]) -> Result<Self, Discard> {
        let [first, flags, detect_mult, len, ..] = *payload else {
            return Err(Discard::Truncated(payload.len()));
        };
        // RFC 5880 §6.8.6, in its order: "If the version number is not correct (1), the packet MUST be discarded."
        if first >> 5 != VERSION {
            return Err(Discard::Version(first >> 5));
        }
        // "If the Length field is less than the minimum correct value (24 if the A bit is clear, or 26 if the A bit is set) …"
        let authenticated = flags & AUTHENTICATION != 0;
        if usize::from(len) < PACKET_LEN + if authenticated { 2 } else { 0 } {
            return Err(Discard::LengthShort(len));
        }
        // "If the Length field is greater than the payload of the encapsulating protocol …"
        let Some((mandatory, rest)) =
            payload.get(..usize::from(len)).and_then(|packet| packet.split_first_chunk::<PACKET_LEN>())
        else {
            return Err(Discard::LengthBeyondPayload(len, payload.len()));
        };
        // "If the Detect Mult field is zero …"
        let detect_mult = NonZeroU8::new(detect_mult).ok_or(Discard::DetectMultZero)?;
        // "If the Multipoint (M) bit is nonzero …"
        if flags & MULTIPOINT != 0 {
            return Err(Discard::Multipoint);
        }
        let word = |index: usize| {
            let at = 4 * index;
            u32::from_be_bytes([mandatory[at], mandatory[at + 1], mandatory[at + 2], mandatory[at + 3]])
        };
        // "If the My Discriminator field is zero …"
        let my_discriminator = NonZeroU32::new(word(1)).ok_or(Discard::MyDiscriminatorZero)?;
        let authentication = match *rest {
            [auth_type, len, ..] if authenticated => Some(Authentication { auth_type, len }),
            _ => None,
        };
        Ok(Self {
            diagnostic: Diagnostic(first & 0x1f),
            state: State::ALL[usize::from(flags >> 6)],
            poll: flags & POLL != 0,
            is_final: flags & FINAL != 0,
            control_plane_independent: flags & INDEPENDENT != 0,
            authentication,
            demand: flags & DEMAND != 0,
            detect_mult,
            my_discriminator,
            your_discriminator: word(2),
            desired_min_tx_us: word(3),
            required_min_rx_us: word(4),
            required_min_echo_rx_us: word(5),
        })
    }

    /// The octets of the packet, without authentication.
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let mut flags = (self.state as u8) << 6;
        for (set, bit) in [
            (self.poll, POLL),
            (self.is_final, FINAL),
            (self.control_plane_independent, INDEPENDENT),
            (self.demand, DEMAND),
        ] {
            flags |= if set { bit } else { 0 };
        }
        let mut out = [0; PACKET_LEN];
        out[..4].copy_from_slice(&[
            VERSION << 5 | self.diagnostic.0 & 0x1f,
            flags,
            self.detect_mult.get(),
            PACKET_LEN as u8,
        ]);
        let words = [
            self.my_discriminator.get(),
            self.your_discriminator,
            self.desired_min_tx_us,
            self.required_min_rx_us,
            self.required_min_echo_rx_us,
        ];
        for (at, word) in out[4..].chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&word.to_be_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests;
