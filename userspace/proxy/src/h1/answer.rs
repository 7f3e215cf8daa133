//! Answers of our own: why nobody is asked.

use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use weir_core::{
    h1::{Bad, Version},
    request_id::REQUEST_ID,
};

use super::{
    asked::name,
    buffer::Scratch,
    client::{After, Client, write},
};
use crate::{
    connection::Connection,
    errors::{CAUSE_HEADER, Refusal},
    exchange::Exchange,
};

/// A request that nobody is asked.
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    /// Whether the connection can go on: the request is whole.
    pub(super) is_whole: bool,
    pub(super) is_head: bool,
}

/// Refuses what is no request.
pub(super) async fn refuse_bad<S>(
    connection: &Connection,
    client: &mut Client<S>,
    bad: Bad,
    head_began: Option<Instant>,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let status = StatusCode::from_u16(bad.status()).unwrap_or(StatusCode::BAD_REQUEST);
    refuse_unread(connection, client, Refusal { status, cause: bad.cause() }, head_began).await
}

/// Refuses a request that did not come in time. RFC 9110 §15.5.9.
pub(super) async fn refuse_slow<S>(
    connection: &Connection,
    client: &mut Client<S>,
    head_began: Option<Instant>,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let refusal = Refusal { status: StatusCode::REQUEST_TIMEOUT, cause: "header-timeout" };
    refuse_unread(connection, client, refusal, head_began).await
}

/// Refuses a request of which nothing is known, not even what its client calls it.
async fn refuse_unread<S>(
    connection: &Connection,
    client: &mut Client<S>,
    refusal: Refusal,
    head_began: Option<Instant>,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut exchange = connection.begin(name(Version::Http11));
    exchange.head_began = head_began;
    connection.names(std::iter::empty(), &mut exchange);
    let refused = Refused { refusal, is_whole: false, is_head: false };
    say(connection, client, &mut exchange, refused).await
}

/// The field line that tells a client what its request is called; nothing where it has no name.
pub(super) fn id_line(id: &[u8]) -> Vec<u8> {
    if id.is_empty() { Vec::new() } else { [REQUEST_ID.as_bytes(), b": ", id, b"\r\n"].concat() }
}

/// An answer of our own.
pub(super) async fn say<S>(
    connection: &Connection,
    client: &mut Client<S>,
    exchange: &mut Exchange,
    refused: Refused,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Refused { refusal, is_whole, is_head } = refused;
    exchange.status = refusal.status.as_u16();
    exchange.cause = refusal.cause;
    let goes_on = is_whole && !connection.is_ending();
    let close = if goes_on { "" } else { "connection: close\r\n" };
    let body = refusal.body();
    let mut out = Scratch::new();
    let head = format!(
        "HTTP/1.1 {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n{CAUSE_HEADER}: {}\r\n{close}\r\n",
        refusal.status,
        body.len(),
        refusal.cause
    );
    let id = id_line(&exchange.id);
    let (line, rest) = head.split_at(head.find("\r\n").map_or(0, |end| end + 2));
    for part in [line.as_bytes(), &id, rest.as_bytes()] {
        out.0.extend_from_slice(part);
    }
    exchange.head_bytes_out = out.0.len() as u64;
    if !is_head {
        out.0.extend_from_slice(&body);
        exchange.bytes_out = body.len() as u64;
    }
    match write(&mut client.stream, &out).await {
        Ok(()) if goes_on => After::Next,
        Ok(()) => After::Close,
        Err(_) => After::Cut,
    }
}
