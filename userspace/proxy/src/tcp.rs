//! `protocol = "tcp"`: bytes, relayed as they come; the same choice of zone and server as for a request.

use tokio::{io::copy_bidirectional, net::TcpStream};

use crate::{
    attempts::Attempts,
    connection::Connection,
    errors::Refusal,
    exchange::Exchange,
    live::Slot,
    tables::{PoolTable, Tables},
    upstream::connect,
};

/// Relays one connection. Without a server it is closed: there is no way to say why.
pub(crate) async fn relay(connection: &Connection, mut client: TcpStream) {
    let mut exchange = connection.begin("tcp");
    let tables = connection.listener.tables(&connection.proxy);
    let pool_name = tables.routes.default_pool(&connection.listener.name);
    exchange.pool = pool_name.cloned();
    let Some(pool) = pool_name.and_then(|name| tables.pools.get(name)) else {
        exchange.cause = Refusal::NO_ROUTE.cause;
        return;
    };
    let vip_home = connection.vip_home(&tables);
    let home = tables.homes.home(None, vip_home, connection.client.ip(), tables.zone.as_ref());
    exchange.home = home.map(|(zone, _)| zone.clone());
    match find_server(connection, pool, &tables, &mut exchange).await {
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
