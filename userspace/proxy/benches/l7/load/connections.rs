//! A new connection for each request: through TCP mode, and with a TLS handshake, full or resumed.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::{
    Budget, Done, Load,
    h1::{BUFFER_LEN, Connection, get_of},
    together,
};
use crate::{
    origin::{BODY_LEN, CLOSING, ORDINARY},
    proxies::Places,
    tls::{self, Certificate},
};

/// Connections at once.
const AT_ONCE: usize = 16;
/// TCP connections of a round.
const TCP_CONNECTIONS: usize = 4_000;
/// Handshakes of a round.
const HANDSHAKES: usize = 1_000;

/// Connects, asks, and reads until the origin ends the connection.
pub(crate) struct TcpConnections {
    to: SocketAddr,
}

impl TcpConnections {
    pub(crate) fn new(places: &Places) -> Self {
        Self { to: places.tcp }
    }
}

impl Load for TcpConnections {
    async fn round(&mut self) -> Result<Done> {
        let (to, budget) = (self.to, Budget::new(TCP_CONNECTIONS));
        together((0..AT_ONCE).map(|_| {
            let budget = budget.clone();
            async move {
                let request = get_of(CLOSING);
                while budget.take() {
                    let mut connection = Connection::open(to).await?;
                    connection.ask(&request, BODY_LEN).await?;
                    connection.until_ended().await?;
                }
                Ok(())
            }
        }))
        .await?;
        Ok(Done::Units(TCP_CONNECTIONS as f64))
    }
}

/// Whether a client takes up its old session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resumption {
    Never,
    Always,
}

/// Connects, shakes hands, asks, and ends the connection.
pub(crate) struct Handshakes {
    to: SocketAddr,
    /// Each with sessions of its own, so that every ticket is used once.
    clients: Vec<tls::Client>,
    resumption: Resumption,
}

impl Handshakes {
    /// Clients that are to resume have made one connection each.
    pub(crate) async fn new(
        places: &Places,
        certificate: &Certificate,
        resumption: Resumption,
    ) -> Result<Self> {
        let resumes = resumption == Resumption::Always;
        let clients = (0..AT_ONCE).map(|_| tls::Client::new(certificate, resumes)).collect::<Result<_>>()?;
        let mut this = Self { to: places.https, clients, resumption };
        this.shake(AT_ONCE).await?;
        Ok(this)
    }

    /// Makes so many connections; returns how many took up an old session.
    async fn shake(&mut self, count: usize) -> Result<usize> {
        let (to, budget) = (self.to, Budget::new(count));
        let resumed = together(self.clients.clone().into_iter().map(|client| {
            let budget = budget.clone();
            async move {
                let request = get_of(ORDINARY);
                let mut resumed = 0;
                while budget.take() {
                    let (stream, is_resumed) = client.connect(to).await?;
                    resumed += usize::from(is_resumed);
                    let mut connection = Connection::over(stream, BUFFER_LEN);
                    connection.ask(&request, BODY_LEN).await?;
                    connection.close().await?;
                }
                Ok(resumed)
            }
        }))
        .await?;
        Ok(resumed.iter().sum())
    }
}

impl Load for Handshakes {
    async fn round(&mut self) -> Result<Done> {
        let resumed = self.shake(HANDSHAKES).await?;
        match self.resumption {
            Resumption::Never => {
                ensure!(resumed == 0, "{resumed} sessions were resumed that were not offered")
            }
            Resumption::Always if resumed < HANDSHAKES => {
                return Ok(Done::Cannot(format!("{resumed} of {HANDSHAKES} handshakes were resumed")));
            }
            Resumption::Always => {}
        }
        Ok(Done::Units(HANDSHAKES as f64))
    }
}
