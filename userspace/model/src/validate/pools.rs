//! Pools, their checks, and the servers in them.

use std::collections::BTreeMap;

use super::{Checker, DAY, HOUR, MS};
use crate::{Balance, Check, CheckKind, CheckVersion, Name, Percent, Pool, Source, Sticky};

/// Checks beside the first.
const STEPS_MAX: usize = 8;
/// Fields of a request a check may add.
const CHECK_HEADERS_MAX: usize = 32;

impl Checker<'_> {
    pub(super) fn pools(&mut self) {
        for (name, pool) in &self.objects.pool {
            if pool.overprovision < Percent::FULL || pool.overprovision > Percent::whole(10_000) {
                let what = format!("{} is out of range", pool.overprovision);
                self.problem("pool", name, "overprovision", what, "from 100% to 10000%");
            }
            for zone in pool.spill_weights.keys() {
                let field = format!("spill_weights.{zone}");
                self.known(("pool", name, &field), "zone", &self.objects.zone, zone);
            }
            self.within(("pool", name, "retries"), pool.retries, 0, 10);
            self.within(("pool", name, "max_connections"), pool.max_connections, 1, 100_000);
            self.within(("pool", name, "max_queue"), pool.max_queue, 0, 100_000);
            for (field, value) in [
                ("queue_timeout", pool.queue_timeout),
                ("connect_timeout", pool.connect_timeout),
                ("response_timeout", pool.response_timeout),
                ("idle_timeout", pool.idle_timeout),
            ] {
                self.duration_within(("pool", name, field), value, MS, HOUR);
            }
            self.duration_within(("pool", name, "server_timeout"), pool.server_timeout, MS, 7 * DAY);
            self.balance(name, pool);
            self.resilience(name, pool);
            self.dial(name, pool);
            self.towards(name, pool);
            if let Some(sticky) = &pool.sticky {
                self.sticky(name, sticky);
            }
            if let Some(check) = &pool.check {
                self.check(name, check);
            }
        }
    }

    fn balance(&mut self, name: &Name, pool: &Pool) {
        match (pool.balance, &pool.hash_on) {
            (Balance::Hash, None) => {
                let what = "balance = \"hash\" needs something to go by".to_owned();
                self.problem("pool", name, "hash_on", what, "for example hash_on = \"header:x-user\"");
            }
            (Balance::Hash, Some(_)) | (_, None) => {}
            (_, Some(_)) => {
                let what = "only balance = \"hash\" goes by it".to_owned();
                self.problem("pool", name, "hash_on", what, "set that, or remove this");
            }
        }
        if let Some(bound) = pool.bounded_load {
            if !matches!(pool.balance, Balance::Hash | Balance::Source) {
                let what = "only balance = \"hash\" and \"source\" have a bound".to_owned();
                self.problem("pool", name, "bounded_load", what, "remove it");
            }
            self.within(("pool", name, "bounded_load"), bound, Percent::whole(101), Percent::whole(1_000));
        }
        self.within(("pool", name, "random_of"), pool.random_of, 1, 16);
        if let Some(slow_start) = pool.slow_start {
            self.duration_within(("pool", name, "slow_start"), slow_start, 100 * MS, HOUR);
        }
    }

    fn resilience(&mut self, name: &Name, pool: &Pool) {
        if let Some(eject) = &pool.eject {
            self.within(("pool", name, "eject.consecutive"), eject.consecutive, 0, 1_000);
            if eject.consecutive == 0 && eject.success_rate.is_none() {
                let what = "neither bad answers in a row nor their share eject a server".to_owned();
                self.problem("pool", name, "eject", what, "give consecutive, success_rate or both");
            }
            if let Some(rate) = eject.success_rate {
                self.within(("pool", name, "eject.success_rate"), rate, Percent::whole(1), Percent::FULL);
            }
            self.within(("pool", name, "eject.min_requests"), eject.min_requests, 1, 1_000_000);
            self.duration_within(("pool", name, "eject.interval"), eject.interval, 1_000 * MS, HOUR);
            self.duration_within(("pool", name, "eject.time"), eject.time, 10 * MS, HOUR);
            self.duration_within(("pool", name, "eject.max_time"), eject.max_time, eject.time, DAY);
            self.within(("pool", name, "eject.successes"), eject.successes, 1, 100);
            self.within(
                ("pool", name, "eject.max_ejected"),
                eject.max_ejected,
                Percent::whole(0),
                Percent::FULL,
            );
        }
        if let Some(breaker) = &pool.breaker {
            self.within(("pool", name, "breaker.consecutive"), breaker.consecutive, 1, 100_000);
            self.duration_within(("pool", name, "breaker.time"), breaker.time, 10 * MS, HOUR);
            self.duration_within(("pool", name, "breaker.max_time"), breaker.max_time, breaker.time, DAY);
            self.within(("pool", name, "breaker.successes"), breaker.successes, 1, 100);
        }
        if let Some(hedge_after) = pool.hedge_after {
            self.duration_within(("pool", name, "hedge_after"), hedge_after, MS, HOUR);
            if pool.retry_budget.is_none() {
                let what = "a pool that has become slow would get every request twice".to_owned();
                self.problem("pool", name, "hedge_after", what, "add retry_budget = {}");
            }
            if pool.protocol.is_h2() {
                let what = "requests to servers of HTTP/2 are asked of one".to_owned();
                self.problem("pool", name, "hedge_after", what, "remove it, or use protocol = \"http1\"");
            }
        }
        if let Some(budget) = &pool.retry_budget {
            let share = ("pool", name, "retry_budget.share");
            self.within(share, budget.share, Percent::whole(0), Percent::whole(1_000));
            self.within(("pool", name, "retry_budget.min_per_second"), budget.min_per_second, 0, 100_000);
        }
    }

    fn dial(&mut self, name: &Name, pool: &Pool) {
        self.duration_within(("pool", name, "tcp.keep_alive"), pool.tcp.keep_alive, 1_000 * MS, HOUR);
        if let Some(limit) = pool.tcp.user_timeout {
            self.duration_within(("pool", name, "tcp.user_timeout"), limit, 10 * MS, HOUR);
        }
        if let Some(Source::Address(address)) = pool.source
            && (address.is_unspecified() || address.is_multicast())
        {
            let what = format!("nothing can come from {address}");
            self.problem("pool", name, "source", what, "an address of the host, or \"client\"");
        }
    }

    fn sticky(&mut self, name: &Name, sticky: &Sticky) {
        if sticky.cookie.is_empty() || sticky.cookie.len() > 64 || !sticky.cookie.bytes().all(is_token) {
            let what = format!("{:?} is not a cookie name", sticky.cookie);
            self.problem("pool", name, "sticky.cookie", what, "letters, digits, '-' and '_'");
        }
        if sticky.key.len() < 16 {
            self.problem("pool", name, "sticky.key", "is shorter than 16 bytes".into(), "use a random text");
        }
    }

    fn check(&mut self, name: &Name, check: &Check) {
        self.duration_within(("pool", name, "check.interval"), check.interval, 10 * MS, HOUR);
        if let Some(fast) = check.fast_interval {
            self.duration_within(("pool", name, "check.fast_interval"), fast, 10 * MS, HOUR);
        }
        self.duration_within(("pool", name, "check.timeout"), check.timeout, MS, HOUR);
        self.within(("pool", name, "check.rise"), check.rise, 1, 100);
        self.within(("pool", name, "check.fall"), check.fall, 1, 100);
        if check.and.len() > STEPS_MAX {
            let what = format!("has more than {STEPS_MAX} checks");
            self.problem("pool", name, "check.and", what, "");
        }
        self.step(name, "check", check);
        for (index, step) in check.and.iter().enumerate() {
            let at = format!("check.and.{index}");
            self.step(name, &at, step);
            let timing = |c: &Check| (c.interval, c.fast_interval, c.timeout, c.rise, c.fall, c.via);
            if timing(step) != timing(&Check::new(step.kind)) && timing(step) != timing(check) {
                let what = "has a timing of its own".to_owned();
                self.problem(
                    "pool",
                    name,
                    &at,
                    what,
                    "interval, timeout, rise, fall and via belong to the first",
                );
            }
            if !step.and.is_empty() {
                self.problem("pool", name, &format!("{at}.and"), "is nested".into(), "make it one list");
            }
        }
    }

    /// What is tried, without the timing.
    fn step(&mut self, name: &Name, at: &str, check: &Check) {
        let field = |field: &str| format!("{at}.{field}");
        for (first, last) in &check.expect.0 {
            if *first < 100 || *last > 599 || first > last {
                let what = format!("[{first}, {last}] is not a range of status codes");
                self.problem("pool", name, &field("expect"), what, "for example [200, 399]");
            }
        }
        if check.expect.0.is_empty() || check.expect.0.len() > 16 {
            let what = "needs 1 to 16 ranges of status codes".to_owned();
            self.problem("pool", name, &field("expect"), what, "for example [200, 399]");
        }
        let printable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if !check.path.starts_with('/') || !printable(&check.path) {
            let what = format!("{:?} is not a path", check.path);
            self.problem("pool", name, &field("path"), what, "begin it with a slash");
        }
        if check.host.as_deref().is_some_and(|host| host.is_empty() || !printable(host)) {
            self.problem("pool", name, &field("host"), "is not a host".into(), "");
        }
        if check.method.is_empty() || check.method.len() > 32 || !check.method.bytes().all(is_token) {
            let what = format!("{:?} is not a method", check.method);
            self.problem("pool", name, &field("method"), what, "for example \"HEAD\"");
        }
        let has_body = check.body_contains.is_some() || check.body_matches.is_some();
        if check.method == "HEAD" && has_body {
            let what = "a response to HEAD has no body".to_owned();
            self.problem("pool", name, &field("method"), what, "use GET");
        }
        self.check_headers(name, &field("headers"), check);
        let says_more = check.method != "GET"
            || check.version != CheckVersion::default()
            || !check.headers.is_empty()
            || has_body;
        if !check.kind.is_http() && says_more {
            let what = "speaks of a request, and none is made".to_owned();
            self.problem("pool", name, at, what, "use kind = \"http\" or \"https\"");
        }
        if check.tls.is_some() && !check.kind.is_tls() {
            let what = "there is no TLS in it".to_owned();
            self.problem("pool", name, &field("tls"), what, "use kind = \"tls\" or \"https\"");
        }
        let name_of = check.tls.as_ref().and_then(|tls| tls.name.as_deref());
        if name_of.is_some_and(|name| name.is_empty() || name.len() > 253 || !printable(name)) {
            self.problem("pool", name, &field("tls.name"), "is not a name".into(), "");
        }
        if check.port == Some(0) {
            self.problem("pool", name, &field("port"), "0 is not a port".into(), "");
        }
        if check.kind == CheckKind::Agent && check.port.is_none() {
            let what = "an agent answers at a port of its own".to_owned();
            self.problem("pool", name, &field("port"), what, "give its port");
        }
    }

    fn check_headers(&mut self, name: &Name, at: &str, check: &Check) {
        if check.headers.len() > CHECK_HEADERS_MAX {
            let what = format!("has more than {CHECK_HEADERS_MAX} fields");
            self.problem("pool", name, at, what, "");
        }
        for (field, value) in &check.headers {
            // What frames the message, and what has a key of its own, is not a matter of taste.
            let ours = ["host", "connection", "content-length", "transfer-encoding"];
            if field.is_empty() || !field.bytes().all(is_token) {
                self.problem("pool", name, at, format!("{field:?} is not the name of a field"), "");
            } else if ours.iter().any(|ours| field.eq_ignore_ascii_case(ours)) {
                self.problem("pool", name, at, format!("{field} is set by the check itself"), "remove it");
            } else if !value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) || value.len() > 4_096
            {
                let what = format!("the value of {field} cannot be sent");
                self.problem("pool", name, at, what, "printable ASCII, at most 4,096 bytes");
            }
        }
    }

    pub(super) fn servers(&mut self) {
        let mut places = BTreeMap::new();
        for (name, server) in &self.objects.server {
            self.known(("server", name, "zone"), "zone", &self.objects.zone, &server.zone);
            self.within(("server", name, "weight"), server.weight, 0, 1_000);
            if server.pools.is_empty() {
                self.problem("server", name, "pools", "belongs to no pool".into(), "");
            }
            if server.address.port() == 0 || server.address.ip().is_unspecified() {
                let what = format!("{} cannot be connected to", server.address);
                self.problem("server", name, "address", what, "");
            }
            for (index, pool) in server.pools.iter().enumerate() {
                let field = format!("pools.{index}");
                self.known(("server", name, &field), "pool", &self.objects.pool, pool);
                if let Some(other) = places.insert((pool, server.address), name) {
                    let what =
                        format!("server {other} of pool {pool} has the address {} too", server.address);
                    self.problem("server", name, "address", what, "");
                }
            }
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
