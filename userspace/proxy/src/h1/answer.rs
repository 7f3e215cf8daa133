//! Answers of our own: why nobody is asked.

use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use weir_core::{
    h1::{Bad, Framing},
    request_id::REQUEST_ID,
};

use super::{
    asked::name,
    buffer::Scratch,
    client::{After, Client, write},
    text::Text,
};
use crate::{
    connection::Connection,
    dialect::{Dialect, Said},
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
pub(super) async fn refuse_bad<S, D>(
    connection: &Connection,
    client: &mut Client<S, D>,
    bad: Bad,
    head_began: Option<Instant>,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Dialect,
{
    let status = StatusCode::from_u16(bad.status()).unwrap_or(StatusCode::BAD_REQUEST);
    refuse_unread(connection, client, Refusal { status, cause: bad.cause() }, head_began).await
}

/// Refuses a request that did not come in time. RFC 9110 §15.5.9.
pub(super) async fn refuse_slow<S>(
    connection: &Connection,
    client: &mut Client<S, Text>,
    head_began: Option<Instant>,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let refusal = Refusal { status: StatusCode::REQUEST_TIMEOUT, cause: "header-timeout" };
    refuse_unread(connection, client, refusal, head_began).await
}

/// Refuses a request of which nothing is known, not even what its client calls it.
async fn refuse_unread<S, D>(
    connection: &Connection,
    client: &mut Client<S, D>,
    refusal: Refusal,
    head_began: Option<Instant>,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Dialect,
{
    let mut exchange = connection.begin(name(D::VERSION));
    exchange.head_began = head_began;
    connection.names(std::iter::empty(), &mut exchange);
    let refused = Refused { refusal, is_whole: false, is_head: false };
    say(connection, client, &mut exchange, refused).await
}

/// An answer of our own.
pub(super) async fn say<S, D>(
    connection: &Connection,
    client: &mut Client<S, D>,
    exchange: &mut Exchange,
    refused: Refused,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Dialect,
{
    let Refused { refusal, is_whole, is_head } = refused;
    exchange.status = refusal.status.as_u16();
    exchange.cause = refusal.cause;
    let goes_on = is_whole && !connection.is_ending();
    let body = refusal.body();
    let said = Said {
        status: exchange.status,
        reason: refusal.status.canonical_reason().unwrap_or_default(),
        framing: Framing::None,
        length: Some(body.len() as u64),
        client: D::VERSION,
        goes_on,
        protocol: None,
    };
    let fields: [(&str, &[u8]); 3] = [
        ("content-type", b"text/plain; charset=utf-8"),
        (CAUSE_HEADER, refusal.cause.as_bytes()),
        (REQUEST_ID, &exchange.id),
    ];
    let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
    let mut out = Scratch::new();
    exchange.head_bytes_out = client.dialect.respond(&mut out.0, &said, fields) as u64;
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
