//! `protocol = "tcp"`: bytes, relayed as they come; the same choice of zone and server as for a request.

use tokio::{io::copy_bidirectional, net::TcpStream};

use crate::{
    attempts::Attempts,
    connection::Connection,
    errors::Refusal,
    exchange::Exchange,
    live::Slot,
    request::{Destination, default_destination},
    upstream::connect,
};

/// Relays one connection. Without a server it is closed: there is no way to say why.
pub(crate) async fn relay(connection: &Connection, mut client: TcpStream) {
    let mut exchange = connection.begin("tcp");
    let tables = connection.tables();
    let Destination { pool, home, .. } = match default_destination(connection, &tables, &mut exchange) {
        Ok(found) => found,
        Err(refusal) => {
            exchange.cause = refusal.cause;
            return;
        }
    };
    match find_server(Attempts::new(pool, &tables, connection, home), &mut exchange).await {
        Ok((slot, mut server)) => {
            // An end of stream on one side is passed on as one; the other direction stays open.
            match copy_bidirectional(&mut client, &mut server).await {
                Ok((_, out)) => exchange.bytes_out = out,
                Err(error) => {
                    exchange.cause = "connection-broken";
                    tracing::debug!(client = %connection.client, server = %slot.server.name, "relay: {error}");
                }
            }
        }
        Err(refusal) => exchange.cause = refusal.cause,
    }
}

async fn find_server(
    mut attempts: Attempts<'_>,
    exchange: &mut Exchange,
) -> Result<(Slot, TcpStream), Refusal> {
    loop {
        let slot = attempts.next(exchange).await?;
        match connect(&slot, attempts.spec().connect_timeout).await {
            Ok(stream) => {
                attempts.answered(&slot.server, 200);
                return Ok((slot, stream));
            }
            Err(failure) => attempts.failed(&slot.server, &failure),
        }
    }
}
