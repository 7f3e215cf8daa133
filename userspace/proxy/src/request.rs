//! Where a request goes: host → route → pool → home zone; and its place in the queue while all servers are at their limit.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::{Instant, timeout_at};
use weir_core::{cookie, l7::normal_host, routing::HomeReason, sticky};
use weir_model::{Name, Pool};

use crate::{
    connection::Connection,
    errors::Refusal,
    exchange::Exchange,
    limits::QUEUE_RECHECK,
    live::Slot,
    tables::{Asking, Choice, PoolTable, Tables},
};

/// A slot at a server, and how many were before this request in the pool's queue, where it waits while all servers are at their
/// limit: first come, first served.
pub(crate) async fn wait_for_slot(pool: &PoolTable, asking: Asking<'_>) -> Result<(Slot, u64), Refusal> {
    let live = &pool.live;
    // Whoever tries again has waited, and may not want the server the others wait for: such do not stand in their way.
    let is_new = asking.tried.is_empty();
    if !is_new || live.waiting.load(SeqCst) == 0 {
        match pool.choose(asking) {
            Choice::Server(slot) => return Ok((slot, 0)),
            Choice::Nobody => return Err(Refusal::NO_SERVER),
            Choice::Full => {}
        }
    }
    let place = QueuePlace(&live.waiting);
    let before = live.waiting.fetch_add(1, SeqCst);
    if before >= u64::from(pool.spec.max_queue) {
        return Err(Refusal::QUEUE_FULL);
    }
    let deadline = Instant::now() + pool.spec.queue_timeout;
    let _first = match is_new.then(|| timeout_at(deadline, live.first.lock())) {
        Some(turn) => Some(turn.await.map_err(|_| Refusal::QUEUE_TIMEOUT)?),
        None => None,
    };
    loop {
        let released = live.released.notified();
        match pool.choose(asking) {
            Choice::Server(slot) => {
                drop(place);
                return Ok((slot, before));
            }
            Choice::Nobody => return Err(Refusal::NO_SERVER),
            Choice::Full => {}
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(Refusal::QUEUE_TIMEOUT);
        }
        // Whether it was woken or not, it looks again.
        let _woken = timeout_at(deadline.min(now + QUEUE_RECHECK), released).await;
    }
}

/// A place in the queue; leaving it, also by a client that gave up, makes room.
struct QueuePlace<'a>(&'a std::sync::atomic::AtomicU64);

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Where a request goes.
pub(crate) struct Destination<'t> {
    pub(crate) pool: &'t PoolTable,
    pub(crate) home: Option<&'t Name>,
    /// What the client must be told to remember.
    pub(crate) set_cookie: Option<String>,
}

/// Finds pool and home zone of a request for a host and a path; the exchange is told of both.
pub(crate) fn destination<'t, 'a>(
    connection: &Connection,
    tables: &'t Tables,
    (host, path): (&str, &str),
    cookies: impl Iterator<Item = &'a [u8]>,
    exchange: &mut Exchange,
) -> Result<Destination<'t>, Refusal> {
    let name = &connection.listener.name;
    let routed = tables.routes.route(name, &normal_host(host), path).ok_or(Refusal::NO_ROUTE)?;
    if routed.demands_certificate && !connection.has_certificate {
        return Err(Refusal::NO_CERTIFICATE);
    }
    found(connection, tables, routed.pool, |pool| zone_cookie(cookies, pool), exchange)
}

/// The same of a connection without requests.
pub(crate) fn default_destination<'t>(
    connection: &Connection,
    tables: &'t Tables,
    exchange: &mut Exchange,
) -> Result<Destination<'t>, Refusal> {
    let pool = tables.routes.default_pool(&connection.listener.name).ok_or(Refusal::NO_ROUTE)?;
    found(connection, tables, pool, |_| None, exchange)
}

/// The same of a connection of which only the host is known.
pub(crate) fn destination_of_host<'t>(
    connection: &Connection,
    tables: &'t Tables,
    host: &str,
    exchange: &mut Exchange,
) -> Result<Destination<'t>, Refusal> {
    let name = &connection.listener.name;
    let routed = tables.routes.route(name, host, "/").ok_or(Refusal::NO_ROUTE)?;
    found(connection, tables, routed.pool, |_| None, exchange)
}

fn found<'t>(
    connection: &Connection,
    tables: &'t Tables,
    pool_name: &Name,
    cookie: impl FnOnce(&Pool) -> Option<Name>,
    exchange: &mut Exchange,
) -> Result<Destination<'t>, Refusal> {
    let listener = tables.listeners.get(&connection.listener.name).ok_or(Refusal::NO_ROUTE)?;
    listener.goes_to(pool_name, exchange);
    let pool = tables.pools.get(pool_name).ok_or(Refusal::NO_ROUTE)?;
    let (cookie, vip_home) = (cookie(&pool.spec), listener.vip_home.as_ref());
    let home = tables.homes.home(cookie.as_ref(), vip_home, connection.client.ip(), tables.zone.as_ref());
    exchange.note(|noted| noted.home = home.map(|(zone, _)| zone.clone()));
    let set_cookie = home.and_then(|(zone, why)| new_cookie(&pool.spec, zone, why, connection.tls));
    Ok(Destination { pool, home: home.map(|(zone, _)| zone), set_cookie })
}

/// The home zone a browser brings along, when the signature is ours.
fn zone_cookie<'a>(cookies: impl Iterator<Item = &'a [u8]>, pool: &Pool) -> Option<Name> {
    let sticky = pool.sticky.as_ref()?;
    let now = unix_now();
    cookie::values(cookies, &sticky.cookie)
        .find_map(|value| sticky::decode(value, now, sticky.key.as_bytes()))
}

/// The cookie that makes a browser remember its home zone, unless it already does.
fn new_cookie(pool: &Pool, home: &Name, why: HomeReason, tls: bool) -> Option<String> {
    let sticky = pool.sticky.as_ref().filter(|_| why != HomeReason::Cookie)?;
    let lifetime = sticky.lifetime.as_secs();
    let value = sticky::encode(home, unix_now() + lifetime, sticky.key.as_bytes());
    let secure = if tls { "; Secure" } else { "" };
    Some(format!("{}={value}; Path=/; Max-Age={lifetime}; HttpOnly; SameSite=Lax{secure}", sticky.cookie))
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
