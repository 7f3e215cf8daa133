//! What a pool does about answers that go wrong: eject servers, open the circuit, ration retries.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Percent, units};

/// Passive health: servers are judged by what became of requests. A bad answer is a connection that failed, broke or timed out
/// before a response, or a status of 500 to 599.
///
/// A server that is ejected gets no requests while another can take them. When its time is over one request at a time tries it
/// out; after `successes` good ones in a row it is back, after one bad one it is out again, for twice as long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ejection {
    /// Bad answers in a row that eject a server; 1 to 1,000, or 0 for any number.
    #[serde(default = "five")]
    pub consecutive: u32,
    /// The share of good answers within an `interval` below which a server is ejected; without it only those in a row count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<Percent>,
    /// Answers within an `interval` that it takes to judge by their share; 1 to 1,000,000.
    #[serde(default = "hundred")]
    pub min_requests: u32,
    /// How long answers are gathered; 1 s to 1 h. After one without an ejection a server's next one is half as long, down to `time`.
    #[serde(with = "units::duration", default = "ten_seconds")]
    pub interval: Duration,
    /// How long the first ejection lasts; each further one twice as long; 10 ms to 1 h.
    #[serde(with = "units::duration", default = "ten_seconds")]
    pub time: Duration,
    /// The longest; from `time` to 24 h.
    #[serde(with = "units::duration", default = "five_minutes")]
    pub max_time: Duration,
    /// Good answers in a row that end the trial; 1 to 100.
    #[serde(default = "two")]
    pub successes: u32,
    /// The share of the pool's servers that may be out at once. One may be, however few there are, but never the last.
    #[serde(default = "half")]
    pub max_ejected: Percent,
}

/// A circuit breaker around a whole pool: when it is open, requests are answered 503 (`circuit-open`) at once. What a bad answer is,
/// and how the circuit closes, is as in [`Ejection`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// Bad answers in a row, of all servers, that open it; 1 to 100,000.
    pub consecutive: u32,
    /// How long it stays open the first time; each further one twice as long; 10 ms to 1 h.
    #[serde(with = "units::duration", default = "five_seconds")]
    pub time: Duration,
    /// The longest; from `time` to 24 h.
    #[serde(with = "units::duration", default = "one_minute")]
    pub max_time: Duration,
    /// Good answers in a row, one request at a time, that close it; 1 to 100.
    #[serde(default = "two")]
    pub successes: u32,
}

/// How many retries there may be, over the last ten seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryBudget {
    /// Retries per request; 0% to 1000%.
    #[serde(default = "fifth")]
    pub share: Percent,
    /// Retries a second that are allowed however few requests there are; 0 to 100,000.
    #[serde(default = "ten")]
    pub min_per_second: u32,
}

fn two() -> u32 {
    2
}
fn five() -> u32 {
    5
}
fn ten() -> u32 {
    10
}
fn hundred() -> u32 {
    100
}
fn fifth() -> Percent {
    Percent::whole(20)
}
fn half() -> Percent {
    Percent::whole(50)
}
fn five_seconds() -> Duration {
    Duration::from_secs(5)
}
fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}
fn one_minute() -> Duration {
    Duration::from_secs(60)
}
fn five_minutes() -> Duration {
    Duration::from_secs(300)
}
