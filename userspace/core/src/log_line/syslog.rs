//! The head syslog wants in front of a line.

use std::{io::Write as _, str::FromStr};

use weir_model::Timestamp;

use super::month_name;

/// The severity of every line: informational. RFC 5424 §6.2.1.
const INFORMATIONAL: u8 = 6;
/// Facilities by name, in the order of their numbers. RFC 5424 §6.2.1; those without a name there are called as syslog(3) does.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// Which part of a system a line is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

impl Facility {
    /// What programs of the house use.
    pub const LOCAL0: Self = Self(16);
}

impl FromStr for Facility {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = FACILITIES.iter().position(|name| *name == text);
        let unknown = || format!("no facility {text:?}; such as local0, daemon or user");
        at.map(|at| Self(at as u8)).ok_or_else(unknown)
    }
}

/// Which of the two kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The older one, without a host name: what /dev/log takes, and HAProxy sends.
    #[default]
    Rfc3164,
    /// The newer one, with a full time.
    Rfc5424,
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rfc3164" => Ok(Self::Rfc3164),
            "rfc5424" => Ok(Self::Rfc5424),
            _ => Err(format!("{text:?} is neither rfc3164 nor rfc5424")),
        }
    }
}

/// Appends the head of a line written by this process at this time (UTC).
pub fn write_head(out: &mut Vec<u8>, dialect: Dialect, facility: Facility, time: Timestamp, pid: u32) {
    let priority = facility.0 * 8 + INFORMATIONAL;
    let time = time.to_string();
    // Writing to memory does not fail.
    let _ = match dialect {
        // RFC 3164 §4.1.2: "Mmm dd hh:mm:ss", the day padded with a space.
        Dialect::Rfc3164 => {
            let month = month_name(time.get(5..7).unwrap_or_default());
            let day = time.get(8..10).unwrap_or_default();
            let day = day.strip_prefix('0').unwrap_or(day);
            let clock = time.get(11..19).unwrap_or_default();
            write!(out, "<{priority}>{month} {day:>2} {clock} weir-proxy[{pid}]: ")
        }
        Dialect::Rfc5424 => write!(out, "<{priority}>1 {time} - weir-proxy {pid} - - "),
    };
}
