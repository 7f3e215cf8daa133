//! A second server, asked beside one that takes its time: the first answer counts. Dean and Barroso, "The Tail at Scale",
//! CACM 56(2), 2013.
//!
//! Only of requests that can be asked twice: idempotent, without a body, and with no wish to switch protocols.

use std::{
    future::poll_fn,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout},
};
use weir_core::h1::{self, Bad, Framing};

use super::{
    asked::Asked,
    buffer::Buffer,
    server::Server,
    transfer::{Answer, Transfer},
};
use crate::{
    attempts::Attempts,
    connection::Connection,
    dialect::Dialect,
    errors::Failure,
    exchange::Exchange,
    live::{ServerLive, Slot},
};

/// After how long a second server is asked, if at all.
pub(super) fn hedge_after(asked: &Asked<'_>) -> Option<Duration> {
    let may = asked.framing == Framing::None && asked.is_idempotent && !asked.wants_upgrade;
    asked.pool.spec.hedge_after.filter(|_| may)
}

/// How it went at the second server.
type Outcome = Result<(Server, Buffer), (Slot, Failure)>;

/// Asks one server and, when that has said nothing for so long, another one.
pub(super) async fn ask<S, D>(
    transfer: &mut Transfer<'_, '_, S, D>,
    (attempts, slot): (&mut Attempts<'_>, Slot),
    after: Duration,
    exchange: &mut Exchange,
) -> Result<(Server, Answer), (Slot, Failure)>
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Dialect,
{
    let (asked, connection) = (transfer.asked, transfer.connection);
    let first = Arc::clone(&slot.server);
    let second: Arc<ServerLive>;
    let outcome: Outcome = {
        let mut asking = Box::pin(transfer.ask_one(slot, exchange));
        if let Ok(result) = timeout(after, &mut asking).await {
            return result;
        }
        let Some(slot) = attempts.beside(&first) else { return asking.await };
        asked.pool.live.hedges.fetch_add(1, Relaxed);
        second = Arc::clone(&slot.server);
        let mut other = Box::pin(ask_other(slot, asked, connection));
        tokio::select! {
            biased;
            result = &mut asking => match result {
                Err((slot, failure)) if failure.is_servers() => {
                    // Somebody else is at it.
                    attempts.failed(&slot.server, &failure);
                    drop(slot);
                    other.await
                }
                result => return result,
            },
            outcome = &mut other => match outcome {
                Err((slot, failure)) => {
                    attempts.failed(&slot.server, &failure);
                    drop(slot);
                    return asking.await;
                }
                answered => answered,
            },
        }
    };
    exchange.note(|noted| noted.asks(&second, 0));
    exchange.retries += 1;
    let (server, came) = outcome?;
    exchange.answered = Some(Instant::now());
    match transfer.answer_in(came) {
        Ok(answer) => {
            asked.pool.live.hedges_won.fetch_add(1, Relaxed);
            Ok((server, answer))
        }
        Err(bad) => Err((server.slot, Failure::BadResponse(bad))),
    }
}

/// Asks a server until the head of its answer is there. A kept connection that turns out to be closed is no failure of the server.
async fn ask_other(slot: Slot, asked: &Asked<'_>, connection: &Connection) -> Outcome {
    let mut server = Server::obtain(slot, asked.pool, connection, Instant::now()).await?;
    loop {
        match timeout(asked.pool.spec.response_timeout, answer_of(&mut server, asked)).await {
            Ok(Ok(came)) => return Ok((server, came)),
            Ok(Err(failure @ Failure::Lost(_))) if server.reused && !failure.is_silence() => {
                server = Server::obtain(server.slot, asked.pool, connection, Instant::now()).await?;
            }
            Ok(Err(failure)) => return Err((server.slot, failure)),
            Err(_) => return Err((server.slot, Failure::ResponseTimeout)),
        }
    }
}

async fn answer_of(server: &mut Server, asked: &Asked<'_>) -> Result<Buffer, Failure> {
    let sent = async {
        server.stream.write_all(&asked.head.0).await?;
        server.stream.flush().await
    };
    sent.await.map_err(Failure::Lost)?;
    let mut came = Buffer::default();
    while !has_answer(&mut came, asked.is_head).map_err(Failure::BadResponse)? {
        let filled = poll_fn(|cx| came.poll_fill(cx, &mut server.stream)).await;
        if filled.map_err(Failure::Lost)? == 0 {
            return Err(Failure::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok(came)
}

/// Whether the head of an answer is whole; what a server says before its answer is passed over.
fn has_answer(came: &mut Buffer, to_head: bool) -> Result<bool, Bad> {
    while !came.is_empty() {
        let mut room = h1::field_room();
        let Some(head) = h1::parse_response(came.data(), &mut room, to_head)? else { return Ok(false) };
        match head.status {
            // RFC 9110 §7.8: nobody asked for that.
            101 => return Err(Bad::Connection),
            100..=199 => {
                let len = head.len;
                came.consume(len);
            }
            _ => return Ok(true),
        }
    }
    Ok(false)
}
