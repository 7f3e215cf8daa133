//! HTTP/1.1 Upgrade (RFC 9110 §7.8), as WebSocket uses it: after a 101 the connections are joined and bytes flow.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::{body::ResponseBody, connection::Connection, exchange::Exchange, upstream::Upstream};

/// A client's wish to speak something else on its connection.
#[derive(Debug)]
pub(crate) struct Wish {
    /// The Upgrade field.
    pub(crate) protocol: HeaderValue,
    upgrade: OnUpgrade,
}

impl Wish {
    /// The wish of a request, if it has one. "h2c" is none: whoever wants HTTP/2 begins with it (RFC 9113 §3.1).
    pub(crate) fn of(request: &mut Request<Incoming>) -> Option<Self> {
        if request.version() != Version::HTTP_11 {
            return None;
        }
        let connection = request.headers().get_all(header::CONNECTION);
        let mut options =
            connection.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        if !options.any(|option| option.trim().eq_ignore_ascii_case("upgrade")) {
            return None;
        }
        let protocol = request.headers().get(header::UPGRADE)?.clone();
        if protocol.as_bytes().eq_ignore_ascii_case(b"h2c") {
            return None;
        }
        Some(Self { protocol, upgrade: hyper::upgrade::on(request) })
    }
}

/// Says on one hop what was wished or granted.
pub(crate) fn announce(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Passes the 101 on and joins the two connections once it has been sent.
pub(crate) fn tunnel(
    wish: Option<Wish>,
    mut response: Response<Incoming>,
    upstream: Upstream,
    exchange: Exchange,
    connection: &Arc<Connection>,
) -> Response<ResponseBody> {
    let server = hyper::upgrade::on(&mut response);
    let connection = Arc::clone(connection);
    tokio::spawn(async move {
        // The whole value moves in here: without this line only the fields set below would, as copies.
        let mut exchange = exchange;
        // Both count until the end of the tunnel: the connection of the client and the slot of the server.
        let (_connection, _slot) = (connection, upstream.into_slot());
        let joined = async {
            let client = match wish {
                Some(wish) => wish.upgrade.await?,
                None => return Err("the server switched protocols unasked".into()),
            };
            let server = server.await?;
            join(client, server).await
        };
        let result: Result<u64, crate::body::BodyError> = joined.await;
        match result {
            Ok(out) => exchange.bytes_out = out,
            Err(error) => {
                tracing::debug!("tunnel: {error}");
                exchange.cause = "tunnel-broken";
            }
        }
    });
    response.map(|_| ResponseBody::none())
}

async fn join(client: Upgraded, server: Upgraded) -> Result<u64, crate::body::BodyError> {
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    let (_in, out) = copy_bidirectional(&mut client, &mut server).await?;
    Ok(out)
}
