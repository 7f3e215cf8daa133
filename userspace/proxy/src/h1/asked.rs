//! What is asked, and of whom: the head of a request, read and written anew.

use http::request::Parts;
use weir_core::{
    ClientKey,
    h1::{self, Bad, Framing, RequestHead, Version},
};
use weir_model::Name;

use super::{answer::Refused, bridge, buffer::Scratch, client::Client};
use crate::{
    connection::Connection,
    dialect::Dialect,
    exchange::{Account, Exchange},
    live::random,
    request::{Destination, destination},
    tables::{PoolTable, Tables},
};

/// A request as it is asked of servers.
pub(super) struct Asked<'t> {
    pub(super) pool: &'t PoolTable,
    pub(super) home: Option<&'t Name>,
    /// What the pool hashes it by.
    pub(super) key: Option<ClientKey>,
    /// Its head for a server.
    pub(super) head: Scratch,
    /// The same where servers are asked by HTTP/2.
    pub(super) parts: Option<Box<Parts>>,
    pub(super) expects_continue: bool,
    /// How its body is framed where it goes, and where it comes from.
    pub(super) framing: Framing,
    pub(super) body: Framing,
    pub(super) client: Version,
    /// Whether the client goes on with the connection.
    pub(super) is_persistent: bool,
    pub(super) is_head: bool,
    pub(super) is_idempotent: bool,
    pub(super) wants_upgrade: bool,
    pub(super) set_cookie: Option<String>,
}

/// What the head in a buffer says; nothing of it is held, nor the room its fields took.
pub(super) type Request<'c, 't> = (Account<&'c Connection>, Result<Asked<'t>, Refused>);

/// Reads it; `None` where a check of our own asks.
pub(super) fn read<'c, 't, S, D: Dialect>(
    connection: &'c Connection,
    client: &mut Client<S, D>,
    tables: &'t Tables,
) -> Result<Option<Request<'c, 't>>, Bad> {
    let mut room = h1::field_room();
    let head = client.dialect.request(client.came.data(), &mut room)?.ok_or(Bad::Syntax)?;
    if connection.answers_itself() {
        return Ok(None);
    }
    let mut exchange = connection.begin(name(head.version));
    let asked = ask(&head, connection, tables, &mut exchange);
    let len = head.len;
    client.came.consume(len);
    Ok(Some((exchange, asked)))
}

/// Finds out what a request is and whom it is for.
fn ask<'t>(
    head: &RequestHead<'_, '_>,
    connection: &Connection,
    tables: &'t Tables,
    exchange: &mut Exchange,
) -> Result<Asked<'t>, Refused> {
    let is_whole = head.framing == Framing::None && head.is_persistent;
    let is_head = head.method == "HEAD";
    let refused = |refusal| Refused { refusal, is_whole, is_head };
    exchange.note(|noted| noted.request(head.method, head.host, head.target));
    // Also of those that are refused at once.
    let named = head.fields.iter().map(|field| (field.name, field.value));
    let names = connection.names(named, exchange);
    let path = head.target.split('?').next().unwrap_or_default();
    let cookies = head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("cookie"));
    let cookies = cookies.map(|field| field.value);
    let found = destination(connection, tables, (head.host, path), cookies, exchange);
    let Destination { pool, home, set_cookie } = found.map_err(refused)?;
    let key = pool.key(head.target, head.fields.iter().map(|field| (field.name, field.value)));
    let instead = names.fields();
    let mut out = Scratch(Vec::new());
    let mut parts = None;
    if pool.spec.protocol.is_h2() {
        parts = Some(Box::new(bridge::parts(head, connection, pool, instead).map_err(refused)?));
    } else {
        out = Scratch::new();
        let mut sender = h1::Sender::new(connection.client.ip(), connection.tls);
        if head.is_extended_connect {
            let [a, b] = [random(), random()].map(u64::to_ne_bytes);
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&a);
            nonce[8..].copy_from_slice(&b);
            sender = sender.with_nonce(nonce);
        }
        h1::write_request(&mut out.0, head, &sender.with(&instead));
    }
    Ok(Asked {
        pool,
        home,
        key,
        head: out,
        parts,
        expects_continue: head.expects_continue,
        framing: head.framing,
        // Of HTTP/2 the end of the stream says it.
        body: match (head.framing, head.version) {
            (Framing::Chunked, Version::Http2) => Framing::UntilClose,
            (framing, _) => framing,
        },
        client: head.version,
        is_persistent: head.is_persistent,
        is_head,
        is_idempotent: matches!(head.method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE"),
        wants_upgrade: head.upgrade.is_some(),
        set_cookie,
    })
}

/// What a version is called in the log.
pub(super) fn name(version: Version) -> &'static str {
    match version {
        Version::Http10 => "http/1.0",
        Version::Http11 => "http/1.1",
        Version::Http2 => "h2",
    }
}
