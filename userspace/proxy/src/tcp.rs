//! `protocol = "tcp"`: bytes, relayed as they come, over TLS where the pool wants that; the same choice of zone and server as for a
//! request.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    attempts::Attempts,
    connection::Connection,
    errors::{Failure, Refusal},
    exchange::Exchange,
    limits::LINGER,
    live::Slot,
    relay::{Ended, Relay},
    request::{Destination, default_destination, destination_of_host},
    server_stream::ServerStream,
};

/// Relays one connection. Without a server it is closed: there is no way to say why.
pub(crate) async fn relay(connection: &Connection, mut client: TcpStream) {
    let mut exchange = connection.begin("tcp");
    if let Err(refusal) = join(connection, (&mut client, Vec::new()), None, &mut exchange).await {
        exchange.cause = refusal.cause;
    }
}

/// Joins a client, of whom `came` was read already, with a server of the pool for a host, or of the listener's. An error is that
/// there is no such pool.
pub(crate) async fn join(
    connection: &Connection,
    (client, came): (&mut TcpStream, Vec<u8>),
    host: Option<&str>,
    exchange: &mut Exchange,
) -> Result<(), Refusal> {
    // All that is needed only now takes no room, and holds no tables, for as long as the connection lasts.
    let (slot, mut server) = match Box::pin(find_server(connection, came, host, exchange)).await? {
        Ok(found) => found,
        Err(refusal) => {
            exchange.cause = refusal.cause;
            return Ok(());
        }
    };
    let mut relay = Relay::new(&connection.listener.spec);
    let joined = match &mut server {
        ServerStream::Plain(server) => relay.join(client, server).await,
        ServerStream::Tls(server) => relay.join_any(client, server).await,
    };
    match joined {
        Ok(Ended::Both) => {}
        Ok(Ended::Idle) => exchange.cause = "idle",
        Err(error) => {
            exchange.cause = "connection-broken";
            tracing::debug!(client = %connection.client, server = %slot.server.name, "relay: {error}");
        }
    }
    exchange.bytes_in += relay.bytes_in();
    exchange.bytes_out = relay.bytes_out();
    Ok(())
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

/// A server that took what was read already; or why there is none.
async fn find_server(
    connection: &Connection,
    came: Vec<u8>,
    host: Option<&str>,
    exchange: &mut Exchange,
) -> Result<Result<(Slot, ServerStream), Refusal>, Refusal> {
    let tables = connection.tables();
    let Destination { pool, home, .. } = match host {
        Some(host) => destination_of_host(connection, &tables, host, exchange)?,
        None => default_destination(connection, &tables, exchange)?,
    };
    let mut attempts = Attempts::new(pool, &tables, connection, home);
    exchange.bytes_in = came.len() as u64;
    loop {
        let slot = match attempts.next(exchange).await {
            Ok(slot) => slot,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let asked = async {
            let mut server = ServerStream::open(&slot, pool, connection).await?;
            // Where there is a first message, a server that does not take it is as good as none.
            match timeout(attempts.spec().connect_timeout, server.write_all(&came)).await {
                Ok(Ok(())) => Ok(server),
                Ok(Err(error)) => Err(Failure::Connect(error)),
                Err(_) => Err(Failure::ConnectTimeout),
            }
        };
        match asked.await {
            Ok(server) => {
                exchange.connected = Some(Instant::now());
                return Ok(Ok((slot, server)));
            }
            Err(failure) => attempts.failed(&slot.server, &failure),
        }
    }
}
