//! The life of one request: host → route → pool → home zone → zone → server → connection → response.

use std::pin::Pin;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use weir_core::h1::Framing;

use super::{
    answer::{refuse_bad, say},
    asked::{Asked, read},
    bridge,
    buffer::Scratch,
    client::{After, Client, write},
    deadline::Deadline,
    hedge,
    transfer::Transfer,
};
use crate::{
    attempts::Attempts,
    connection::Connection,
    dialect::{Dialect, Said},
    errors::Failure,
    exchange::Exchange,
    tables::Tables,
};

/// Relays the request whose head is in the buffer.
pub(crate) async fn relay<S, D>(
    connection: &Connection,
    client: &mut Client<S, D>,
    (head_began, mut deadline): (Option<Instant>, Pin<&mut Deadline>),
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Dialect,
{
    let tables = connection.tables();
    match read(connection, client, &tables) {
        Ok(None) => {
            greet(client).await;
            After::Cut
        }
        Ok(Some((mut exchange, asked))) => {
            exchange.head_began = head_began;
            let after = match asked {
                Ok(mut asked) if asked.parts.is_some() => {
                    let deadline = deadline.as_mut();
                    Box::pin(bridge::serve(
                        connection,
                        client,
                        &tables,
                        &mut asked,
                        (&mut exchange, deadline),
                    ))
                    .await
                }
                Ok(asked) => {
                    serve(connection, client, &tables, asked, (&mut exchange, deadline.as_mut())).await
                }
                Err(refused) => say(connection, client, &mut exchange, refused).await,
            };
            let now = *exchange.ended.get_or_insert_with(Instant::now);
            deadline.set(now + connection.listener.spec.keep_alive_timeout);
            after
        }
        Err(bad) => refuse_bad(connection, client, bad, head_began).await,
    }
}

async fn serve<S, D>(
    connection: &Connection,
    client: &mut Client<S, D>,
    tables: &Tables,
    asked: Asked<'_>,
    (exchange, deadline): (&mut Exchange, Pin<&mut Deadline>),
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Dialect,
{
    let mut attempts = Attempts::new(asked.pool, tables, connection, asked.home).by(asked.key);
    let mut transfer = Transfer::new(connection, client, &asked, exchange, deadline);
    loop {
        let slot = match attempts.next(exchange).await {
            Ok(slot) => slot,
            Err(refusal) => return transfer.refuse(exchange, refusal).await,
        };
        let asking = match hedge::hedge_after(&asked) {
            None => transfer.ask_one(slot, exchange).await,
            Some(after) => Box::pin(hedge::ask(&mut transfer, (&mut attempts, slot), after, exchange)).await,
        };
        let (live, failure) = match asking {
            Ok((server, answer)) => {
                attempts.answered(&server.slot.server, answer.status);
                return transfer.respond(server, answer, exchange).await;
            }
            Err((slot, failure)) => (slot.server.clone(), failure),
        };
        match failure {
            Failure::Client => {
                exchange.cause = "client-gone";
                return After::Cut;
            }
            // No fault of the server's.
            Failure::BadRequest | Failure::SlowClient(_) => {
                return transfer.refuse(exchange, failure.refusal()).await;
            }
            _ => {}
        }
        attempts.failed(&live, &failure);
        if !transfer.may_be_sent_again(&failure) {
            return transfer.refuse(exchange, attempts.refusal()).await;
        }
    }
}

/// Tells a check of our own that somebody is here.
async fn greet<S: AsyncRead + AsyncWrite + Unpin, D: Dialect>(client: &mut Client<S, D>) {
    let said = Said {
        status: 204,
        reason: "No Content",
        framing: Framing::None,
        length: None,
        client: D::VERSION,
        goes_on: false,
        protocol: None,
    };
    let mut out = Scratch::new();
    client.dialect.respond(&mut out.0, &said, std::iter::empty());
    let _either_way = write(&mut client.stream, &out).await;
}
