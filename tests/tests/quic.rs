//! QUIC by a real stack (quinn) whose clients move from port to port, to two servers behind a balancer.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig,
    TokioRuntime,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use weir_model::status::L4Status;
use weir_tests::rig::{Rig, Role, VIP4, VIP6, own4, own6};

const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];
const PORT: u16 = 443;
const NAME: &str = "weir.test";
/// Connections, each with an endpoint of its own, which it takes along.
const CONNECTIONS: usize = 40;
/// How often each moves.
const MOVES: usize = 12;
/// How long an answer may take; a lost packet is sent again well within.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// Hosts with a server, and the numbers in their connection ids.
const SERVERS: [(usize, u16); 2] = [(1, 0x1201), (2, 0x1202)];

/// Connection ids in plaintext: the first byte has config 0 in its high bits and says how many follow; the server id; the
/// nonce, which must not come again.
struct Numbered {
    server: u16,
    nonce: Arc<AtomicU32>,
}

impl ConnectionIdGenerator for Numbered {
    fn generate_cid(&mut self) -> ConnectionId {
        let ([a, b], [c, d, e, f]) =
            (self.server.to_be_bytes(), self.nonce.fetch_add(1, Relaxed).to_be_bytes());
        ConnectionId::new(&[6, a, b, c, d, e, f])
    }

    fn cid_len(&self) -> usize {
        7
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// One balancer and two servers, of which `drained` gets no new connections.
fn config(quic: bool, drained: Option<usize>) -> String {
    let mut text = format!(
        "[zone.az1]\n[node.h1]\nzone = \"az1\"\naddress = \"{}\"\naddress6 = \"{}\"\n[group.edge]\nnodes = [\"h1\"]\n\
         [vip.dns]\naddresses = [\"{VIP4}\", \"{VIP6}\"]\ngroup = \"edge\"\npool = \"web\"\n\
         services = [\"udp/{PORT}\"]\nquic = {quic}\n[pool.web]\n",
        own4(1, 2),
        own6(1, 2)
    );
    for (host, id) in SERVERS {
        let number = host as u8 + 1;
        let (at, admin) = (own4(number, 2), if drained == Some(host) { "drain" } else { "active" });
        text += &format!(
            "[server.h{number}]\npools = [\"web\"]\nzone = \"az1\"\naddress = \"{at}:{PORT}\"\nadmin = \"{admin}\"\n\
             quic_id = {id}\n"
        );
    }
    text
}

/// The network with its servers, which answer each stream with their host's number.
struct Site {
    rig: Rig,
    client: ClientConfig,
    _servers: Vec<Endpoint>,
}

impl Site {
    async fn build(quic: bool) -> Result<Self> {
        let rig = Rig::with(&[Role::Node, Role::Server, Role::Server], &config(quic, None)).await?;
        let key = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let secret = rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], secret.into())?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(key.cert.der().clone())?;
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?));
        let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?));
        let mut servers = Vec::new();
        for (host, id) in SERVERS {
            let nonce = Arc::new(AtomicU32::new(1));
            for vip in VIPS {
                let mut endpoint = EndpointConfig::default();
                let nonce = nonce.clone();
                endpoint.cid_generator(move || Box::new(Numbered { server: id, nonce: nonce.clone() }));
                let socket = rig.socket(host, vip, PORT)?;
                let endpoint = Endpoint::new(endpoint, Some(server.clone()), socket, Arc::new(TokioRuntime))?;
                tokio::spawn(serve(endpoint.clone(), host as u8));
                servers.push(endpoint);
            }
        }
        Ok(Self { rig, client, _servers: servers })
    }

    /// A port nobody has.
    fn port(&self, vip: IpAddr) -> Result<UdpSocket> {
        let local: IpAddr = if vip.is_ipv4() { own4(1, 1).into() } else { own6(1, 1).into() };
        self.rig.router.netns.run(|| Ok(UdpSocket::bind(SocketAddr::new(local, 0))?))
    }

    async fn connect(&self, vip: IpAddr) -> Result<Client> {
        let endpoint =
            Endpoint::new(EndpointConfig::default(), None, self.port(vip)?, Arc::new(TokioRuntime))?;
        let connecting = endpoint.connect_with(self.client.clone(), SocketAddr::new(vip, PORT), NAME)?;
        let connection = tokio::time::timeout(ANSWERED_WITHIN, connecting).await.context("handshake")??;
        let mut client = Client { endpoint, connection, vip, server: 0 };
        client.server = client.ask().await?;
        Ok(client)
    }

    /// Puts another configuration in force.
    async fn configure(&self, config: &str) -> Result<()> {
        let generation = |status: &L4Status| status.config.generation.to_string();
        let before = generation(&self.rig.until(0, "a status", |_| true).await?);
        self.rig.configure("rig.toml", config)?;
        let changed = |status: &L4Status| generation(status) != before && !status.changing;
        self.rig.until(0, "the configuration is in force", changed).await?;
        Ok(())
    }

    /// Moves all connections again and again while servers are drained and taken back. Returns what broke, and between how
    /// many servers the others changed.
    async fn move_around(&self, quic: bool) -> Result<Vec<String>> {
        let mut clients = Vec::new();
        for number in 0..CONNECTIONS {
            clients.push(self.connect(VIPS[number % 2]).await?);
        }
        for (host, _) in SERVERS {
            let here = clients.iter().filter(|client| usize::from(client.server) == host).count();
            println!("{here} connections at h{}", host + 1);
            assert!(here >= CONNECTIONS / 8, "{here} connections at h{}", host + 1);
        }
        let mut broken = Vec::new();
        for turn in 0..MOVES {
            // Slots change their owner in every turn but one in three.
            let drained = [Some(SERVERS[0].0), Some(SERVERS[1].0), None][turn % 3];
            self.configure(&config(quic, drained)).await?;
            for client in &clients {
                client.endpoint.rebind(self.port(client.vip)?)?;
            }
            let asked: Vec<_> = clients
                .into_iter()
                .map(|client| tokio::spawn(async move { (client.ask().await, client) }))
                .collect();
            clients = Vec::new();
            for asked in asked {
                let (answer, client) = asked.await?;
                match answer {
                    Ok(server) if server == client.server => clients.push(client),
                    Ok(server) => broken.push(format!(
                        "move {turn}: h{} answered for h{}",
                        server + 1,
                        client.server + 1
                    )),
                    Err(error) => broken.push(format!("move {turn}: {error:#}")),
                }
            }
        }
        println!("{} connections live after {MOVES} moves each, {} are broken", clients.len(), broken.len());
        Ok(broken)
    }
}

/// A connection that can move.
struct Client {
    endpoint: Endpoint,
    connection: Connection,
    vip: IpAddr,
    server: u8,
}

impl Client {
    /// Which server answers on a stream of its own.
    async fn ask(&self) -> Result<u8> {
        let asking = async {
            let (mut send, mut receive) = self.connection.open_bi().await?;
            send.write_all(b"who is there?").await?;
            send.finish()?;
            anyhow::Ok(receive.read_to_end(64).await?)
        };
        match tokio::time::timeout(ANSWERED_WITHIN, asking).await.context("no answer")??[..] {
            [server] => Ok(server),
            ref other => bail!("answered {other:?}"),
        }
    }
}

async fn serve(endpoint: Endpoint, host: u8) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = incoming.await?;
            // Ends when the client closes the connection, or is gone.
            loop {
                let (mut send, mut receive) = connection.accept_bi().await?;
                receive.read_to_end(64).await?;
                send.write_all(&[host]).await?;
                send.finish()?;
            }
            #[allow(unreachable_code)]
            anyhow::Ok(())
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn quic_connections_move_from_port_to_port_and_stay_with_their_server() {
    let site = Site::build(true).await.expect("site");
    let broken = site.move_around(true).await.expect("moves");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn quic_connections_that_move_break_where_their_ids_are_not_looked_at() {
    let site = Site::build(false).await.expect("site");
    let broken = site.move_around(false).await.expect("moves");
    assert!(broken.len() > CONNECTIONS / 4, "{broken:#?}");
}
