//! An outcome as it travels and is shown: names for numbers, hex for bytes.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use weir_abi::counters::REASONS;

use super::{Action, Outcome, Step};

/// What was done with a frame, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Name of the reason it is counted under.
    pub reason: String,
    /// `drop`, `pass`, `transmit` or `redirect`.
    pub action: String,
    /// The frame as it leaves or is passed on, in hex; empty when it is dropped.
    pub frame: String,
    /// What was decided, in order; empty where nobody tells.
    pub steps: Vec<Step>,
}

impl From<Outcome> for Told {
    fn from(outcome: Outcome) -> Self {
        let frame = if outcome.action == Action::Drop { String::new() } else { to_hex(&outcome.frame) };
        let reason = REASONS.get(outcome.reason as usize).map_or("", |(_, name)| name);
        Self { reason: reason.into(), action: outcome.action.name().into(), frame, steps: outcome.steps }
    }
}

impl Action {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Pass => "pass",
            Self::Transmit => "transmit",
            Self::Redirect(_) => "redirect",
        }
    }
}

/// Two digits for each byte.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _never_fails = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes of hex digits; spaces, line ends, colons and `0x` in front are passed over.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text).chars().filter(|c| !c.is_whitespace() && *c != ':');
    let digits: Option<Vec<u8>> = digits.map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
