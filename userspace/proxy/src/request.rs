//! The life of one request, top to bottom: host → route → pool → home zone → zone → server → connection → response.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Method, Request, Response, Version, header, request::Parts};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use weir_core::{cookie, l7::normal_host, request_id::REQUEST_ID, routing::HomeReason, sticky};
use weir_model::{Name, Pool};

use crate::{
    attempts::Attempts,
    body::{Progress, RequestBody, ResponseBody},
    connection::Connection,
    errors::{CAUSE_HEADER, Failure, Refusal},
    exchange::{Account, Exchange},
    headers,
    limits::QUEUE_RECHECK,
    live::Slot,
    tables::{Asking, Choice, PoolTable, Tables},
    upstream::Upstream,
};

/// Answers one request, by a server or with the reason why not.
pub(crate) async fn serve(
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let mut exchange = Account::begin(Arc::clone(connection), version_name(request.version()));
    let answer = relay(connection, request, &mut exchange).await;
    let id = HeaderValue::from_bytes(&exchange.id).ok().filter(|id| !id.is_empty());
    let mut response = match answer {
        Ok((response, upstream)) => {
            exchange.status = response.status().as_u16();
            response.map(|incoming| ResponseBody::server(incoming, upstream, exchange))
        }
        Err(refusal) => {
            exchange.status = refusal.status.as_u16();
            exchange.cause = refusal.cause;
            let mut response = Response::new(ResponseBody::words(refusal.body(), exchange));
            *response.status_mut() = refusal.status;
            response.headers_mut().insert(CAUSE_HEADER, refusal.cause_value());
            response
        }
    };
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

async fn relay(
    connection: &Connection,
    request: Request<Incoming>,
    exchange: &mut Exchange,
) -> Result<(Response<Incoming>, Upstream), Refusal> {
    let (mut parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    exchange.note(|noted| noted.request(parts.method.as_str(), "", target));
    if parts.method == Method::CONNECT {
        return Err(Refusal::NO_TUNNELS);
    }
    let host = headers::host_of(&parts)?;
    exchange.note(|noted| noted.request(parts.method.as_str(), &host, target));

    let tables = connection.tables();
    let cookies = parts.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let Destination { pool, home, set_cookie } =
        destination(connection, &tables, (&host, parts.uri.path()), cookies, exchange)?;

    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let key = pool.key(target, parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    let takes_trailers = headers::takes_trailers(&parts.headers);
    let named = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let names = connection.names(named, exchange);
    headers::to_server(&mut parts, &host, connection.client, connection.tls)?;
    headers::instead(&mut parts.headers, names.fields());
    if pool.spec.protocol.is_h2() {
        headers::as_http2(&mut parts, &host, pool.tls.is_some(), takes_trailers)?;
    }
    let progress = Arc::new(Progress::default());
    exchange.progress = Some(Arc::clone(&progress));
    let message = Message::new(parts, RequestBody::new(body, &progress));
    let (mut response, upstream) = ask_servers(
        connection,
        Attempts::new(pool, &tables, connection, home).by(key),
        message,
        &progress,
        exchange,
    )
    .await?;

    let version = response.version();
    headers::to_client(response.headers_mut(), version);
    *response.version_mut() = Version::HTTP_11;
    if let Some(cookie) = set_cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok((response, upstream))
}

/// Asks one server after the other until one answers, the retries are used up, or asking again could do harm.
pub(crate) async fn ask_servers(
    connection: &Connection,
    mut attempts: Attempts<'_>,
    mut message: Message,
    progress: &Arc<Progress>,
    exchange: &mut Exchange,
) -> Result<(Response<Incoming>, Upstream), Refusal> {
    loop {
        let slot = attempts.next(exchange).await?;
        let server = Arc::clone(&slot.server);
        let failure = match ask(connection, slot, attempts.pool(), &mut message, progress, exchange).await {
            Ok(answer) => {
                attempts.answered(&server, answer.0.status().as_u16());
                return Ok(answer);
            }
            Err(failure) => failure,
        };
        attempts.failed(&server, &failure);
        if !message.may_be_sent_again(failure) {
            return Err(attempts.refusal());
        }
    }
}

/// Asks one server. A kept connection that turns out to be closed is no failure of the server: it is asked on another.
async fn ask(
    connection: &Connection,
    slot: Slot,
    pool: &PoolTable,
    message: &mut Message,
    progress: &Arc<Progress>,
    exchange: &mut Exchange,
) -> Result<(Response<Incoming>, Upstream), Failure> {
    let obtain = |slot| Upstream::obtain(slot, pool, connection, progress);
    let mut upstream = obtain(slot).await?;
    let mut may_repeat = true;
    loop {
        exchange.connected = Some(Instant::now());
        let request = message.request();
        match upstream.send(request, pool.spec.response_timeout).await {
            Ok(response) => {
                exchange.answered = Some(Instant::now());
                return Ok((response, upstream));
            }
            Err(failure) if upstream.reused && may_repeat => {
                // Kept connections become fewer with each attempt; one that is shared may stay as it is.
                may_repeat = !upstream.is_shared();
                let Upstream { slot, .. } = upstream;
                if !message.may_be_sent_again_quietly(&failure) {
                    return Err(failure);
                }
                if let Failure::NotSent(request) = failure {
                    message.take_back(*request);
                }
                upstream = obtain(slot).await?;
            }
            Err(failure) => return Err(failure),
        }
    }
}

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

/// A request that may have to be sent more than once.
pub(crate) struct Message {
    parts: Parts,
    body: Option<RequestBody>,
    is_empty: bool,
}

impl Message {
    pub(crate) fn new(parts: Parts, body: RequestBody) -> Self {
        let is_empty = matches!(body, RequestBody::Empty);
        Self { parts, body: Some(body), is_empty }
    }

    fn request(&mut self) -> Request<RequestBody> {
        let body = self.body.take().unwrap_or(RequestBody::Empty);
        Request::from_parts(self.parts.clone(), body)
    }

    fn take_back(&mut self, request: Request<RequestBody>) {
        self.body = Some(request.into_body());
    }

    /// Whether another server may be asked after `failure`: the request was not sent, or is idempotent and complete.
    fn may_be_sent_again(&mut self, failure: Failure) -> bool {
        match failure {
            Failure::Connect(_) | Failure::ConnectTimeout | Failure::Tls(_) => true,
            Failure::NotSent(request) => {
                self.take_back(*request);
                true
            }
            // What was taken of a body is gone.
            Failure::Unprocessed(_) => self.is_empty,
            Failure::Broken(_) | Failure::Lost(_) => self.is_empty && self.parts.method.is_idempotent(),
            Failure::BadResponse(_) | Failure::BadRequest | Failure::SlowClient(_) | Failure::Client => false,
            // It may be working on it still; a second one would make matters worse.
            Failure::ResponseTimeout => false,
        }
    }

    /// The same for another connection to the same server, after a kept one failed.
    fn may_be_sent_again_quietly(&self, failure: &Failure) -> bool {
        match failure {
            Failure::NotSent(_) => true,
            Failure::Unprocessed(_) => self.is_empty,
            // Its host is silent: no other connection to it will do better.
            failure if failure.is_silence() => false,
            Failure::Broken(_) => self.is_empty && self.parts.method.is_idempotent(),
            _ => false,
        }
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

fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "h2",
        Version::HTTP_10 => "http/1.0",
        _ => "http/1.1",
    }
}
