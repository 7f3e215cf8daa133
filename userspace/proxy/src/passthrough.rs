//! `protocol = "tls-passthrough"`: TLS that is not ended here; the name the client asks for says to which pool it goes.

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use weir_core::client_hello::{self, BadHello, ClientHello, HELLO_LEN_MAX};

use crate::{connection::Connection, errors::Refusal, limits::HANDSHAKE_TIMEOUT, tcp};

/// An alert of TLS that ends the connection: version 1.2 as in every first record, level fatal. RFC 8446 §6.
const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}
/// What it is called in the log.
const PROTOCOL: &str = "tls";
const DECODE_ERROR: [u8; 7] = alert(50);
const UNRECOGNIZED_NAME: [u8; 7] = alert(112);

/// Relays one connection, once its first message is read.
pub(crate) async fn relay(connection: &mut Connection, mut client: TcpStream) {
    let mut came = Vec::new();
    let hello = match timeout(HANDSHAKE_TIMEOUT, read_hello(&mut client, &mut came)).await {
        Ok(Some(Ok(hello))) => hello,
        Ok(Some(Err(bad))) => {
            connection.listener.live.handshake_failures.add(1);
            tracing::debug!(client = %connection.client, "{bad}");
            connection.begin(PROTOCOL).cause = Refusal::BAD_HELLO.cause;
            tcp::say_and_close(&mut client, &DECODE_ERROR).await;
            return;
        }
        Ok(None) | Err(_) => {
            connection.listener.live.handshake_failures.add(1);
            connection.begin(PROTOCOL).cause = "client-gone";
            return;
        }
    };
    connection.note_handshake(hello.server_name.as_deref(), None);
    let mut exchange = connection.begin(PROTOCOL);
    let host = hello.server_name.unwrap_or_default();
    exchange.note(|noted| noted.request("", &host, ""));
    if let Err(refusal) = tcp::join(connection, (&mut client, came), Some(&host), &mut exchange).await {
        exchange.cause = refusal.cause;
        tcp::say_and_close(&mut client, &UNRECOGNIZED_NAME).await;
    }
}

/// The first message; `None` when the client goes before it is whole.
async fn read_hello(client: &mut TcpStream, came: &mut Vec<u8>) -> Option<Result<ClientHello, BadHello>> {
    loop {
        match client_hello::parse(came) {
            Ok(Some(hello)) => return Some(Ok(hello)),
            Err(bad) => return Some(Err(bad)),
            // With its records a hello is a little longer; what does not fit then never will.
            Ok(None) if came.len() > 2 * HELLO_LEN_MAX => return Some(Err(BadHello::TooLong)),
            Ok(None) => {}
        }
        if client.read_buf(came).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}
