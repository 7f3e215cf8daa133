//! One line of the access log: what it tells of an exchange, and the formats of HAProxy (its configuration manual, chapter 8).
//!
//! ```text
//!  10.0.1.2:33317 [06/Feb/2026:12:14:14.655] http-in static/srv1 10/0/30/69/109 200 2750 - - ---- 1/1/1/1/0 0/0 "GET /x HTTP/1.1"
//!  client          when it began             listener pool/server TR/Tw/Tc/Tr/Ta                  connections  queues
//! ```
//!
//! Times are UTC, those that were not reached are -1, and nothing is captured. Syslog's head of a line: [`syslog`].

mod json;
pub mod syslog;
#[cfg(test)]
mod tests;

use std::{
    fmt::Display,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use weir_model::{Name, Timestamp};

/// All there is to tell.
#[derive(Debug)]
pub struct LogLine<'a> {
    /// When it ended.
    pub time: Timestamp,
    /// Where it came in.
    pub listener: &'a Name,
    /// Who asked.
    pub client: IpAddr,
    /// Its port.
    pub client_port: u16,
    /// The address it connected to.
    pub local: SocketAddr,
    /// `http/1.0`, `http/1.1`, `h2`, `tcp` or `tls`.
    pub protocol: &'a str,
    /// Whether TLS ended here.
    pub tls: bool,
    /// Empty where no request was understood.
    pub method: &'a str,
    /// As the client named it.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// What it is called (`x-request-id`); empty where it has no name.
    pub request_id: &'a str,
    /// Where it was routed to.
    pub pool: Option<&'a Name>,
    /// The client's home zone.
    pub home: Option<&'a Name>,
    /// The zone of the server.
    pub zone: Option<&'a Name>,
    /// The last one that was asked.
    pub server: Option<&'a Name>,
    /// 0 where there was none.
    pub status: u16,
    /// Attempts after the first.
    pub retries: u32,
    /// Bytes of the body that came from the client.
    pub bytes_in: u64,
    /// Bytes of the body that went to the client.
    pub bytes_out: u64,
    /// From the head of the request to the end.
    pub duration_us: u64,
    /// What of that went where.
    pub timers: Timers,
    /// How it ended, as HAProxy says it.
    pub state: State,
    /// Why it did not go as it should; empty when it did.
    pub cause: &'a str,
    /// Bytes of the head of the response.
    pub head_bytes_out: u64,
    /// The load it met.
    pub counts: Counts,
}

/// How long each part took, in µs; absent where it was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// From the first byte of a request's head to its last. HAProxy's TR.
    pub request_us: u64,
    /// In the queue. Tw.
    pub queue_us: Option<u64>,
    /// Until there was a connection, attempts that failed included. Tc.
    pub connect_us: Option<u64>,
    /// Until the head of the response was there. Tr.
    pub response_us: Option<u64>,
}

/// How many there were of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections of clients to the process, when it ended.
    pub process: u64,
    /// And to the listener.
    pub listener: u64,
    /// Requests at the pool, when the server was chosen.
    pub pool: u64,
    /// And at the server.
    pub server: u64,
    /// Requests of the pool that waited before this one.
    pub queued: u64,
}

/// How far an exchange has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The request is not routed yet.
    Request,
    /// It waits for a server.
    Queue,
    /// A server was chosen.
    Connect,
    /// The server was asked.
    Response,
    /// The server has answered.
    Data,
}

/// Who or what ended an exchange, and at which stage it was: HAProxy's two characters, `--` when all went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State([u8; 2]);

impl State {
    /// `cause`: the word of the log for what went wrong, empty for nothing.
    pub fn of(cause: &str, stage: Stage) -> Self {
        let at = match stage {
            Stage::Request => b'R',
            Stage::Queue => b'Q',
            Stage::Connect => b'C',
            Stage::Response => b'H',
            Stage::Data => b'D',
        };
        Self(match cause {
            "" => *b"--",
            "client-gone" => [b'C', at],
            "header-timeout" => *b"cR",
            "client-timeout" | "body-too-slow" if stage == Stage::Data => *b"cD",
            "client-timeout" | "body-too-slow" => *b"cH",
            "idle" => *b"cD",
            "no-server" | "connect-failed" | "tls-failed" => *b"SC",
            "connect-timeout" => *b"sC",
            "circuit-open" => *b"PC",
            "queue-full" => *b"SQ",
            "queue-timeout" => *b"sQ",
            "connection-closed" | "connection-broken" | "tunnel-broken" if stage == Stage::Data => *b"SD",
            "connection-closed" | "connection-broken" | "tunnel-broken" => *b"SH",
            "response-timeout" => *b"sH",
            "bad-response" => *b"PH",
            "response-broken" => *b"SD",
            "response-stalled" => *b"sD",
            // All else is what the proxy found fault with.
            _ => *b"PR",
        })
    }
}

impl Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

impl LogLine<'_> {
    /// Appends it as HAProxy's `option httplog` does; `option tcplog` where there are no requests. No line end.
    pub fn write_haproxy(&self, out: &mut Vec<u8>) {
        let is_http = !matches!(self.protocol, "tcp" | "tls");
        let total_us = self.duration_us + self.timers.request_us;
        let began =
            Timestamp(self.time.0.checked_sub(Duration::from_micros(total_us)).unwrap_or(self.time.0));
        let pool = self.pool.unwrap_or(self.listener);
        let server = self.server.map_or("<NOSRV>", Name::as_str);
        let tls = if self.tls { "~" } else { "" };
        // Writing to memory does not fail.
        let _ = write!(out, "{}:{} [", self.client, self.client_port);
        write_date(out, &began.to_string());
        let _ = write!(out, "] {}{tls} {pool}/{server} ", self.listener);
        let Timers { request_us, queue_us, connect_us, response_us } = self.timers;
        if is_http {
            let _ = write!(out, "{}/", request_us / 1000);
        }
        for timer in [queue_us, connect_us].into_iter().chain(is_http.then_some(response_us)) {
            match timer {
                Some(us) => _ = write!(out, "{}/", us / 1000),
                None => out.extend_from_slice(b"-1/"),
            }
        }
        let _ = write!(out, "{} ", total_us / 1000);
        if is_http {
            match self.status {
                0 => out.extend_from_slice(b"-1 "),
                status => _ = write!(out, "{status} "),
            }
        }
        let Counts { process, listener, pool, server, queued } = self.counts;
        let (captured, cookies) = if is_http { ("- - ", "--") } else { ("", "") };
        // The sign says that it is not the server of the first attempt.
        let sign = if self.retries > 0 { "+" } else { "" };
        let _ = write!(
            out,
            "{} {captured}{}{cookies} {process}/{listener}/{pool}/{server}/{sign}{} 0/{queued}",
            self.head_bytes_out + self.bytes_out,
            self.state,
            self.retries
        );
        if is_http {
            out.extend_from_slice(b" \"");
            if self.method.is_empty() {
                out.extend_from_slice(b"<BADREQ>");
            } else {
                write_encoded(out, self.method);
                out.push(b' ');
                write_encoded(out, self.target);
                let version = if self.protocol == "h2" { "HTTP/2.0" } else { &self.protocol["http".len()..] };
                let before = if self.protocol == "h2" { " " } else { " HTTP" };
                out.extend_from_slice(before.as_bytes());
                out.extend_from_slice(version.as_bytes());
            }
            out.push(b'"');
        }
    }
}

/// `2026-02-06T12:14:14.655Z` as `06/Feb/2026:12:14:14.655`.
fn write_date(out: &mut Vec<u8>, rfc3339: &str) {
    let (date, time) = rfc3339.split_once('T').unwrap_or_default();
    let mut parts = date.split('-');
    let [year, month, day] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let _ = write!(out, "{day}/{}/{year}:{}", month_name(month), time.trim_end_matches('Z'));
}

fn month_name(number: &str) -> &'static str {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let index = number.parse::<usize>().unwrap_or(1);
    MONTHS.get(index.wrapping_sub(1)).copied().unwrap_or("Jan")
}

/// What could be taken for the end of a field, and what is no plain ASCII, as HAProxy writes it: `#` and two digits.
fn write_encoded(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'#' | 0..=b' ' | 0x7f.. => _ = write!(out, "#{byte:02X}"),
            byte => out.push(byte),
        }
    }
}
