//! `protocol = "tcp"`: bytes, relayed as they come; the same choice of zone and server as for a request.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    attempts::Attempts,
    connection::Connection,
    errors::Refusal,
    exchange::Exchange,
    limits::LINGER,
    live::Slot,
    request::{Destination, default_destination},
    tables::Tables,
    upstream::connect,
};

/// Relays one connection. Without a server it is closed: there is no way to say why.
pub(crate) async fn relay(connection: &Connection, client: TcpStream) {
    let mut exchange = connection.begin("tcp");
    let tables = connection.tables();
    match default_destination(connection, &tables, &mut exchange) {
        Ok(found) => join(connection, (client, &[]), found, &tables, &mut exchange).await,
        Err(refusal) => exchange.cause = refusal.cause,
    }
}

/// Joins a client, of whom `came` was read already, with a server.
pub(crate) async fn join(
    connection: &Connection,
    (mut client, came): (TcpStream, &[u8]),
    to: Destination<'_>,
    tables: &Tables,
    exchange: &mut Exchange,
) {
    let Destination { pool, home, .. } = to;
    match find_server(Attempts::new(pool, tables, connection, home), exchange).await {
        Ok((slot, mut server)) => {
            // An end of stream on one side is passed on as one; the other direction stays open.
            let joined = async {
                server.write_all(came).await?;
                copy_bidirectional(&mut client, &mut server).await
            };
            match joined.await {
                Ok((came_later, out)) => {
                    (exchange.bytes_in, exchange.bytes_out) = (came.len() as u64 + came_later, out);
                }
                Err(error) => {
                    exchange.cause = "connection-broken";
                    tracing::debug!(client = %connection.client, server = %slot.server.name, "relay: {error}");
                }
            }
        }
        Err(refusal) => exchange.cause = refusal.cause,
    }
}

/// Says the last there is to say, so that it arrives: a close with bytes unread would make the kernel throw it away.
pub(crate) async fn say_and_close(client: &mut TcpStream, words: &[u8]) {
    if client.write_all(words).await.is_err() || client.shutdown().await.is_err() {
        return;
    }
    let mut left = vec![0; 4096];
    let drained = async {
        for _ in 0..16 {
            if !matches!(client.read(&mut left).await, Ok(1..)) {
                return;
            }
        }
    };
    let _in_time = timeout(LINGER, drained).await;
}

async fn find_server(
    mut attempts: Attempts<'_>,
    exchange: &mut Exchange,
) -> Result<(Slot, TcpStream), Refusal> {
    loop {
        let slot = attempts.next(exchange).await?;
        match connect(&slot, attempts.spec().connect_timeout).await {
            Ok(stream) => {
                exchange.connected = Some(Instant::now());
                attempts.answered(&slot.server, 200);
                return Ok((slot, stream));
            }
            Err(failure) => attempts.failed(&slot.server, &failure),
        }
    }
}
