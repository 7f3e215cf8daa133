//! Requests on kept connections, one after the other on each, plain and inside TLS.

use anyhow::Result;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::{
    Budget, Done, Load,
    h1::{BUFFER_LEN, Connection, get_of},
    together,
};
use crate::{
    origin::{BODY_LEN, ORDINARY},
    proxies::Places,
    tls,
};

/// Connections of a load.
pub(crate) const CONNECTIONS: usize = 64;
/// Requests of a round.
const REQUESTS: usize = 20_000;

pub(crate) struct KeepAlive<S> {
    connections: Vec<Connection<S>>,
}

impl KeepAlive<TcpStream> {
    pub(crate) async fn plain(places: &Places) -> Result<Self> {
        let http = places.http;
        let connections = together((0..CONNECTIONS).map(|_| Connection::open(http))).await?;
        Ok(Self { connections })
    }
}

impl KeepAlive<TlsStream<TcpStream>> {
    pub(crate) async fn tls(places: &Places, client: &tls::Client) -> Result<Self> {
        let https = places.https;
        let connections = together((0..CONNECTIONS).map(|_| {
            let client = client.clone();
            async move { Ok(Connection::over(client.connect(https).await?.0, BUFFER_LEN)) }
        }));
        Ok(Self { connections: connections.await? })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> KeepAlive<S> {
    /// So many requests, over all connections.
    pub(crate) async fn ask(&mut self, requests: usize) -> Result<()> {
        let budget = Budget::new(requests);
        let asking = self.connections.drain(..).map(|mut connection| {
            let budget = budget.clone();
            async move {
                let request = get_of(ORDINARY);
                while budget.take() {
                    connection.ask(&request, BODY_LEN).await?;
                }
                Ok(connection)
            }
        });
        self.connections = together(asking.collect::<Vec<_>>()).await?;
        Ok(())
    }

    /// One request on each connection.
    pub(crate) async fn ask_each(&mut self) -> Result<()> {
        let request = get_of(ORDINARY);
        for connection in &mut self.connections {
            connection.ask(&request, BODY_LEN).await?;
        }
        Ok(())
    }

    pub(crate) fn of(connections: Vec<Connection<S>>) -> Self {
        Self { connections }
    }

    pub(crate) fn into_connections(self) -> Vec<Connection<S>> {
        self.connections
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Load for KeepAlive<S> {
    async fn round(&mut self) -> Result<Done> {
        self.ask(REQUESTS).await?;
        Ok(Done::Units(REQUESTS as f64))
    }
}
