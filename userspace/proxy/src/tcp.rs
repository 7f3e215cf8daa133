//! `protocol = "tcp"`: bytes, relayed as they come; the same choice of zone and server as for a request.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
    time::timeout,
};
use weir_model::Name;

use crate::{
    attempts::Attempts,
    connection::Connection,
    errors::Refusal,
    exchange::Exchange,
    limits::LINGER,
    live::Slot,
    tables::{PoolTable, Tables},
    upstream::connect,
};

/// Relays one connection. Without a server it is closed: there is no way to say why.
pub(crate) async fn relay(connection: &Connection, client: TcpStream) {
    let mut exchange = connection.begin("tcp");
    let tables = connection.listener.tables(&connection.proxy);
    let pool = tables.routes.default_pool(&connection.listener.name);
    join(connection, (client, &[]), pool, &tables, &mut exchange).await;
}

/// Joins a client, of whom `came` was read already, with a server of the pool.
pub(crate) async fn join(
    connection: &Connection,
    (mut client, came): (TcpStream, &[u8]),
    pool_name: Option<&Name>,
    tables: &Tables,
    exchange: &mut Exchange,
) {
    exchange.pool = pool_name.cloned();
    let Some(pool) = pool_name.and_then(|name| tables.pools.get(name)) else {
        exchange.cause = Refusal::NO_ROUTE.cause;
        return;
    };
    let vip_home = connection.vip_home(tables);
    let home = tables.homes.home(None, vip_home, connection.client.ip(), tables.zone.as_ref());
    exchange.home = home.map(|(zone, _)| zone.clone());
    match find_server(connection, pool, tables, exchange).await {
        Ok((slot, mut server)) => {
            // An end of stream on one side is passed on as one; the other direction stays open.
            let joined = async {
                server.write_all(came).await?;
                copy_bidirectional(&mut client, &mut server).await
            };
            match joined.await {
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
    connection: &Connection,
    pool: &PoolTable,
    tables: &Tables,
    exchange: &mut Exchange,
) -> Result<(Slot, TcpStream), Refusal> {
    let mut attempts = Attempts::new(pool, tables, connection, exchange.home.clone());
    loop {
        let slot = attempts.next(exchange).await?;
        match connect(&slot, pool.spec.connect_timeout).await {
            Ok(stream) => return Ok((slot, stream)),
            Err(failure) => attempts.failed(&slot.server, &failure),
        }
    }
}
