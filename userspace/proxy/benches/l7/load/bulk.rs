//! Much data through TCP mode, towards the client.

use anyhow::Result;
use tokio::net::TcpStream;

use super::{
    Done, Load,
    h1::{Connection, get_of},
    together,
};
use crate::{
    origin::{BULK, BULK_LEN},
    proxies::Places,
};

const CONNECTIONS: usize = 4;
/// What a client reads at once.
const READ_LEN: usize = 256 << 10;
const MIB: f64 = (1 << 20) as f64;

pub(crate) struct Bulk {
    connections: Vec<Connection<TcpStream>>,
}

impl Bulk {
    pub(crate) async fn open(places: &Places) -> Result<Self> {
        let tcp = places.tcp;
        let connections = together((0..CONNECTIONS).map(|_| async move {
            let stream = TcpStream::connect(tcp).await?;
            Ok(Connection::over(stream, READ_LEN))
        }));
        Ok(Self { connections: connections.await? })
    }
}

impl Load for Bulk {
    async fn round(&mut self) -> Result<Done> {
        let asking = self.connections.drain(..).map(|mut connection| async move {
            connection.ask(&get_of(BULK), BULK_LEN).await?;
            Ok(connection)
        });
        self.connections = together(asking.collect::<Vec<_>>()).await?;
        Ok(Done::Units((CONNECTIONS * BULK_LEN) as f64 / MIB))
    }
}
