//! How servers are spoken to, and who can use pools that are not spoken to in the clear.

use super::Checker;
use crate::{Listener, ListenerProtocol, Name, Pool, PoolProtocol};

impl Checker<'_> {
    pub(super) fn towards(&mut self, name: &Name, pool: &Pool) {
        let mut problem = |field: &str, what: &str, hint: &str| {
            self.problem("pool", name, field, what.into(), hint);
        };
        match (pool.protocol, &pool.tls) {
            (PoolProtocol::H2, None) => {
                problem("protocol", "h2 is HTTP/2 over TLS", "add tls, or use protocol = \"h2c\"");
            }
            (PoolProtocol::H2c, Some(_)) => {
                problem("protocol", "h2c is HTTP/2 without TLS", "use protocol = \"h2\", or remove tls");
            }
            _ => {}
        }
        if pool.protocol.is_h2() && pool.dials_for_one_client() {
            let what = "connections of HTTP/2 are shared by clients, and this makes each one client's";
            problem(
                "protocol",
                what,
                "remove send_proxy and source = \"client\", or use protocol = \"http1\"",
            );
        }
        let Some(tls) = &pool.tls else { return };
        match (&tls.ca, tls.verify) {
            (None, true) => problem(
                "tls.ca",
                "certificates cannot be verified without authorities",
                "for example ca = \"/etc/ssl/certs/ca-certificates.crt\"; verify = false takes any certificate",
            ),
            (Some(_), false) => {
                problem("tls.ca", "is not looked at with verify = false", "remove one of them");
            }
            _ => {}
        }
        if tls.certificate.is_some() != tls.key.is_some() {
            problem("tls.certificate", "certificate and key belong together", "give both, or neither");
        }
        let printable = |name: &str| name.bytes().all(|byte| byte.is_ascii_graphic());
        if tls.name.as_deref().is_some_and(|name| name.is_empty() || name.len() > 253 || !printable(name)) {
            problem("tls.name", "is not a name", "for example \"app.example\"");
        }
    }

    /// Where bytes are passed on as they come, nothing is spoken to servers; TLS may be around it, but not around TLS.
    pub(super) fn speaks_to(&mut self, name: &Name, listener: &Listener) {
        if listener.protocol.is_http() {
            return;
        }
        for pool_name in listener.pool.iter().chain(listener.routes.iter().map(|route| &route.pool)) {
            let Some(pool) = self.objects.pool.get(pool_name) else { continue };
            if pool.protocol.is_h2() {
                let what =
                    format!("pool {pool_name} speaks HTTP/2, and here bytes are passed on as they come");
                self.problem("listener", name, "pool", what, "use a pool without a protocol");
            } else if pool.tls.is_some() && listener.protocol == ListenerProtocol::TlsPassthrough {
                let what =
                    format!("pool {pool_name} has tls, and here the TLS of clients is passed on as it comes");
                self.problem("listener", name, "pool", what, "use a pool without tls");
            }
        }
    }
}
