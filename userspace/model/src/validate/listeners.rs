//! Listeners: where they lead, and what their protocol allows.

use super::{Checker, DAY, HOUR, MS};
use crate::{Listener, ListenerProtocol, Name, Protocol, RequestId, Trace};

/// Prefixes a listener takes headers of the PROXY protocol from: each new connection looks through them.
const PREFIXES_MAX: usize = 1_024;

impl Checker<'_> {
    pub(super) fn listener(&mut self, name: &Name, listener: &Listener) {
        if let Some(vip) = &listener.vip
            && self.known(("listener", name, "vip"), "vip", &self.objects.vip, vip)
            && let Some(port) = listener.port
        {
            if let Some(pool) = &self.objects.vip[vip].pool {
                let what = format!(
                    "vip {vip} points straight at the servers of pool {pool}: no proxy sees its packets"
                );
                self.problem(
                    "listener",
                    name,
                    "vip",
                    what,
                    format!("remove vip.{vip}.pool, or this listener"),
                );
            }
            let services = &self.objects.vip[vip].services;
            if !services.iter().any(|s| s.protocol == Protocol::Tcp && s.ports.contains(port)) {
                let what = format!("vip {vip} does not serve tcp/{port}");
                self.problem(
                    "listener",
                    name,
                    "port",
                    what,
                    format!("add \"tcp/{port}\" to vip.{vip}.services"),
                );
            }
        }
        if let Some(pool) = &listener.pool {
            self.known(("listener", name, "pool"), "pool", &self.objects.pool, pool);
        }
        for (index, route) in listener.routes.iter().enumerate() {
            let at = format!("routes.{index}");
            self.known(("listener", name, &format!("{at}.pool")), "pool", &self.objects.pool, &route.pool);
            if !route.path.starts_with('/') {
                let what = format!("{:?} is not a path", route.path);
                self.problem("listener", name, &format!("{at}.path"), what, "begin it with a slash");
            }
        }
        self.within(("listener", name, "max_connections"), listener.max_connections, 1, 1_000_000);
        self.listener_tls(name, listener);
        self.duration_within(("listener", name, "idle_timeout"), listener.idle_timeout, 10 * MS, 7 * DAY);
        if let Some(limit) = listener.half_closed_timeout {
            self.duration_within(("listener", name, "half_closed_timeout"), limit, 10 * MS, 7 * DAY);
        }
        self.times_of_requests(name, listener);
        self.proxy_protocol_from(name, listener);
        self.speaks_to(name, listener);
        if listener.pool.is_none() && listener.routes.is_empty() {
            self.problem("listener", name, "", "leads to no pool".into(), "give pool or routes");
        }
    }

    fn times_of_requests(&mut self, name: &Name, listener: &Listener) {
        if !listener.protocol.is_http() {
            for field in listener.times_of_requests() {
                let what = "there are no requests here".to_owned();
                self.problem("listener", name, field, what, "remove it; idle_timeout bounds what is relayed");
            }
        }
        for (field, value, max) in [
            ("header_timeout", listener.header_timeout, HOUR),
            ("keep_alive_timeout", listener.keep_alive_timeout, DAY),
            ("client_timeout", listener.client_timeout, DAY),
            ("body_rate_grace", listener.body_rate_grace, HOUR),
        ] {
            self.duration_within(("listener", name, field), value, 10 * MS, max);
        }
        self.within(("listener", name, "body_rate_min"), listener.body_rate_min, 0, 1_000_000);
    }

    fn proxy_protocol_from(&mut self, name: &Name, listener: &Listener) {
        let from = &listener.proxy_protocol_from;
        if from.len() > PREFIXES_MAX {
            let what = format!("has more than {PREFIXES_MAX} prefixes");
            self.problem("listener", name, "proxy_protocol_from", what, "");
        }
        for (index, prefix) in from.iter().enumerate().filter(|(_, prefix)| prefix.trunc() != **prefix) {
            let (field, hint) = (format!("proxy_protocol_from.{index}"), format!("write {}", prefix.trunc()));
            self.problem("listener", name, &field, format!("{prefix} has bits beyond its length"), hint);
        }
    }

    /// What each protocol has of certificates and of requests.
    fn listener_tls(&mut self, name: &Name, listener: &Listener) {
        let mut problem = |field: &str, what: &str, hint: &str| {
            self.problem("listener", name, field, what.into(), hint);
        };
        match (listener.protocol, &listener.tls) {
            (ListenerProtocol::Https, Some(tls))
                if !tls.certificates.is_empty() || tls.directory.is_some() => {}
            (ListenerProtocol::Https, _) => {
                problem("tls", "https needs a certificate", "add tls.certificates or tls.directory");
            }
            (ListenerProtocol::Http, Some(_)) => {
                problem("tls", "http has no certificates", "use protocol = \"https\"");
            }
            (ListenerProtocol::Tcp | ListenerProtocol::TlsPassthrough, Some(_)) => {
                problem(
                    "tls",
                    "this protocol does not terminate TLS",
                    "remove it, or use protocol = \"https\"",
                );
            }
            (_, None) => {}
        }
        if !listener.protocol.is_http() && listener.request_id != RequestId::Off {
            problem("request_id", "there are no requests to name here", "remove it");
        }
        if !listener.protocol.is_http() && listener.trace != Trace::Pass {
            problem("trace", "there are no requests to trace here", "remove it");
        }
        if listener.protocol == ListenerProtocol::Tcp && !listener.routes.is_empty() {
            problem(
                "routes",
                "tcp mode has no requests to route",
                "use pool, or protocol = \"tls-passthrough\"",
            );
        }
        let client = listener.tls.as_ref().and_then(|tls| tls.client.as_ref());
        for (index, route) in listener.routes.iter().enumerate() {
            if route.client_certificate && client.is_none() {
                let what = "no certificates of clients are asked for here";
                problem(&format!("routes.{index}.client_certificate"), what, "add tls.client.ca");
            }
            if listener.protocol == ListenerProtocol::TlsPassthrough && route.path != "/" {
                let what = "paths are encrypted; only hosts can be told apart";
                problem(&format!("routes.{index}.path"), what, "remove it");
            }
        }
    }
}
