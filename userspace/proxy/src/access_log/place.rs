//! Where lines go, as an operator writes it.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use weir_core::log_line::syslog::{Dialect, Facility};

/// The port of syslog. RFC 5426 §3.3.
const SYSLOG_PORT: u16 = 514;

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Off,
    Stdout,
    /// Appended to; made anew when it was renamed or removed.
    File(PathBuf),
    /// Syslog in datagrams.
    Udp(SocketAddr, Syslog),
    Unix(PathBuf, Syslog),
}

/// What syslog is told beside the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syslog {
    pub(crate) facility: Facility,
    pub(crate) dialect: Dialect,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, query) = match text.split_once('?') {
            Some((place, query)) if text.starts_with("udp://") || text.starts_with("unix://") => {
                (place, query)
            }
            _ => (text, ""),
        };
        let mut syslog = Syslog { facility: Facility::LOCAL0, dialect: Dialect::default() };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("facility", facility)) => syslog.facility = facility.parse()?,
                Some(("format", dialect)) => syslog.dialect = dialect.parse()?,
                _ => {
                    return Err(format!("{option:?} is neither facility=NAME nor format=rfc3164 or rfc5424"));
                }
            }
        }
        if let Some(address) = place.strip_prefix("udp://") {
            let with_port = || address.parse().ok();
            let without =
                || Some(SocketAddr::new(address.trim_matches(['[', ']']).parse().ok()?, SYSLOG_PORT));
            let parsed = with_port().or_else(without);
            let unreadable = || format!("{address:?} is not an address with or without a port");
            return Ok(Self::Udp(parsed.ok_or_else(unreadable)?, syslog));
        }
        if let Some(path) = place.strip_prefix("unix://") {
            return Ok(Self::Unix(path.into(), syslog));
        }
        match text {
            "" => Err("is empty".into()),
            "off" => Ok(Self::Off),
            "-" => Ok(Self::Stdout),
            _ if text.contains("://") => Err("only udp:// and unix:// are known".into()),
            path => Ok(Self::File(path.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_or_refused_with_a_reason() {
        let read = |text: &str| text.parse::<Place>();
        let local0 = Syslog { facility: Facility::LOCAL0, dialect: Dialect::Rfc3164 };
        assert_eq!(read("off"), Ok(Place::Off));
        assert_eq!(read("-"), Ok(Place::Stdout));
        assert_eq!(read("/var/log/a?b.log"), Ok(Place::File("/var/log/a?b.log".into())));
        let here: SocketAddr = "127.0.0.1:514".parse().unwrap();
        assert_eq!(read("udp://127.0.0.1"), Ok(Place::Udp(here, local0)));
        let other = Syslog { facility: "daemon".parse().unwrap(), dialect: Dialect::Rfc5424 };
        let there: SocketAddr = "[2001:db8::1]:5514".parse().unwrap();
        assert_eq!(
            read("udp://[2001:db8::1]:5514?facility=daemon&format=rfc5424"),
            Ok(Place::Udp(there, other))
        );
        assert_eq!(read("unix:///dev/log"), Ok(Place::Unix("/dev/log".into(), local0)));
        for (bad, why) in [
            ("", "empty"),
            ("tcp://127.0.0.1:514", "only udp://"),
            ("udp://logs:514", "not an address"),
            ("udp://127.0.0.1?facility=loca10", "no facility"),
            ("unix:///dev/log?format=rfc1", "neither rfc3164"),
            ("unix:///dev/log?x", "neither facility"),
        ] {
            assert!(read(bad).is_err_and(|error| error.contains(why)), "{bad}");
        }
    }
}
