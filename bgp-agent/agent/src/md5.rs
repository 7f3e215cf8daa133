//! What the kernel says of TCP MD5 signatures that did not fit. A wrong password looks like a router that is away: the segments
//! are dropped, and only these counters tell.

use std::fs;

/// The counters of a network namespace. RFC 2385; names of the kernel's TcpExt group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Md5Counters {
    /// A key is set, and the segment was not signed.
    pub(crate) not_found: u64,
    /// It was signed, and there is no key.
    pub(crate) unexpected: u64,
    /// It was signed with another key.
    pub(crate) failure: u64,
}

impl Md5Counters {
    /// Those of this namespace; all zero where the kernel has none.
    pub(crate) fn read() -> Self {
        parse(&fs::read_to_string("/proc/thread-self/net/netstat").unwrap_or_default())
    }

    fn since(self, before: Self) -> Self {
        Self {
            not_found: self.not_found.saturating_sub(before.not_found),
            unexpected: self.unexpected.saturating_sub(before.unexpected),
            failure: self.failure.saturating_sub(before.failure),
        }
    }
}

/// Pairs of lines: names, then values in the same order.
fn parse(netstat: &str) -> Md5Counters {
    let mut counters = Md5Counters::default();
    let lines: Vec<&str> = netstat.lines().filter(|line| line.starts_with("TcpExt:")).collect();
    if let [names, values] = lines[..] {
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            let value = value.parse().unwrap_or(0);
            match name {
                "TCPMD5NotFound" => counters.not_found = value,
                "TCPMD5Unexpected" => counters.unexpected = value,
                "TCPMD5Failure" => counters.failure = value,
                _ => {}
            }
        }
    }
    counters
}

/// What the counters suggest about a session that does not come up; `has_key` when it has a password.
pub(crate) fn suspicion(has_key: bool, before: Md5Counters, now: Md5Counters) -> Option<String> {
    let grown = now.since(before);
    match (has_key, grown) {
        (true, Md5Counters { failure: 1.., .. }) => Some(format!(
            "probable MD5 mismatch: {} segments were signed with another password",
            grown.failure
        )),
        (true, Md5Counters { not_found: 1.., .. }) => {
            Some(format!("probable MD5 mismatch: {} segments were not signed", grown.not_found))
        }
        (false, Md5Counters { unexpected: 1.., .. }) => Some(format!(
            "probable MD5 mismatch: {} segments were signed, and there is no password",
            grown.unexpected
        )),
        // The router drops what we send, and nothing of it is seen here.
        (true, _) => Some("a wrong MD5 password on either side looks like this".to_owned()),
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let text = "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure Other\n\
                    TcpExt: 9 1 2 3 8\nIpExt: InNoRoutes\nIpExt: 7\n";
        assert_eq!(parse(text), Md5Counters { not_found: 1, unexpected: 2, failure: 3 });
        assert_eq!(parse("nothing of the kind"), Md5Counters::default());
    }

    #[test]
    fn what_grew_says_what_is_wrong() {
        let zero = Md5Counters::default();
        let grown = |not_found, unexpected, failure| Md5Counters { not_found, unexpected, failure };
        let says = |has_key, now| suspicion(has_key, zero, now).unwrap_or_default();
        assert!(says(true, grown(0, 0, 4)).contains("another password"));
        assert!(says(true, grown(4, 0, 0)).contains("not signed"));
        assert!(says(false, grown(0, 4, 0)).contains("no password"));
        assert!(says(true, zero).contains("either side"));
        assert_eq!(says(false, grown(4, 0, 4)), "", "somebody else's");
        assert_eq!(suspicion(false, grown(1, 1, 1), grown(1, 1, 1)), None);
    }
}
