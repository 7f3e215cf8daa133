//! Connections that have made one request each, and then do nothing.

use anyhow::Result;
use tokio::net::TcpStream;

use super::{
    Budget, KeepAlive,
    h1::{Connection, get_of},
    together,
};
use crate::{
    origin::{BODY_LEN, ORDINARY},
    proxies::Places,
};

/// How many are opened at once.
const OPENERS: usize = 64;

/// Opens so many; they stay as long as what is returned.
pub(crate) async fn hold_idle(places: &Places, count: usize) -> Result<KeepAlive<TcpStream>> {
    let (http, budget) = (places.http, Budget::new(count));
    let opening = (0..OPENERS).map(|_| {
        let budget = budget.clone();
        async move {
            let request = get_of(ORDINARY);
            let mut opened = Vec::new();
            while budget.take() {
                let mut connection = Connection::open(http).await?;
                connection.ask(&request, BODY_LEN).await?;
                opened.push(connection);
            }
            Ok(opened)
        }
    });
    Ok(KeepAlive::of(together(opening).await?.into_iter().flatten().collect()))
}
