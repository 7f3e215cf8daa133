use std::{net::IpAddr, sync::Arc, time::Duration};

use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    authority::Authority,
    secure::server_config,
    subject::{LIMIT, Proxy},
};

fn config(listener: &str, pool: &str, server: &TcpListener) -> String {
    format!(
        "[zone.az1]\n[pool.p]\n{pool}\n[listener.raw]\nprotocol = \"tcp\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         {listener}\n[server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.local_addr().unwrap()
    )
}

/// Bytes that do not repeat in step with any buffer.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as u8).collect()
}

/// Pipes the proxy has open.
fn pipes(proxy: &Proxy) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
    let links = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
}

#[tokio::test]
async fn bytes_are_relayed_and_each_direction_ends_by_itself() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = format!(
        "[zone.az1]\n[pool.p]\n[listener.raw]\nprotocol = \"tcp\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         [server.dead]\npools = [\"p\"]\naddress = \"{dead}\"\nzone = \"az1\"\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.local_addr().unwrap()
    );
    let proxy = Proxy::start(&config, &[]).await;
    let raw = proxy.address("raw").await;
    for _ in 0..4 {
        let mut client = TcpStream::connect(raw).await.unwrap();
        let (mut accepted, _) = server.accept().await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        accepted.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        // The other direction is still open.
        let long = vec![b'x'; 1 << 20];
        accepted.write_all(&long).await.unwrap();
        drop(accepted);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, long);
    }
    proxy.until("the relays have ended", |status| status.listeners["raw"].connections == 0).await;
    let log = proxy.logged(4).await;
    assert_eq!((&log[0]["server"], &log[0]["bytes_out"]), (&"s".into(), &(1 << 20).into()));
}

#[tokio::test]
async fn much_is_spliced_and_comes_whole_though_one_side_does_not_read() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = "tcp = { fast_open = true, keep_alive = \"5s\", user_timeout = \"5s\" }";
    let proxy = Proxy::start(&config("", pool, &server), &["--threads", "1"]).await;
    let raw = proxy.address("raw").await;
    let before = pipes(&proxy);
    let (up, down) = (pattern(24 << 20, 1), pattern(24 << 20, 2));
    let expected = [up.clone(), down.clone()];
    let serving = tokio::spawn(async move {
        let (stream, _) = server.accept().await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let writing = tokio::spawn(async move {
            write.write_all(&down).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut came = Vec::new();
        read.read_to_end(&mut came).await.unwrap();
        writing.await.unwrap();
        came
    });
    let mut client = TcpStream::connect(raw).await.unwrap();
    // All of it goes up while what comes down has nowhere to go.
    timeout(LIMIT, client.write_all(&up)).await.expect("no deadlock").unwrap();
    client.shutdown().await.unwrap();
    let mut came = Vec::new();
    timeout(LIMIT, client.read_to_end(&mut came)).await.expect("in time").unwrap();
    assert!(came == expected[1] && serving.await.unwrap() == expected[0], "something changed on the way");
    assert_eq!(proxy.logged(1).await[0]["bytes_out"], 24 << 20);
    // Those that were needed are kept for the next, and no more.
    let kept = pipes(&proxy) - before;
    assert!((2..=4).contains(&kept), "{kept} ends of pipes");
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_cut_and_a_half_closed_one_sooner() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = "idle_timeout = \"1s\"\nhalf_closed_timeout = \"100ms\"";
    let proxy = Proxy::start(&config(listener, "", &server), &[]).await;
    let raw = proxy.address("raw").await;
    let mut busy = TcpStream::connect(raw).await.unwrap();
    let (mut accepted, _) = server.accept().await.unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        busy.write_all(b"x").await.unwrap();
        assert_eq!(accepted.read(&mut [0; 8]).await.unwrap(), 1);
        sleep(Duration::from_millis(20)).await;
    }
    let still = Instant::now();
    assert_eq!(timeout(LIMIT, busy.read(&mut [0])).await.expect("an end in time").unwrap_or(0), 0);
    assert!(still.elapsed() >= Duration::from_millis(900), "{:?}", still.elapsed());

    let mut half = TcpStream::connect(raw).await.unwrap();
    let _accepted = server.accept().await.unwrap();
    let began = Instant::now();
    half.shutdown().await.unwrap();
    assert_eq!(timeout(LIMIT, half.read(&mut [0])).await.expect("an end in time").unwrap_or(0), 0);
    let took = began.elapsed();
    assert!((Duration::from_millis(90)..Duration::from_millis(900)).contains(&took), "{took:?}");
    let log = proxy.logged(2).await;
    assert!(log.iter().all(|line| line["cause"] == "idle"), "{log:#?}");
}

/// A server of TLS that takes a header of the PROXY protocol before it, and says back what it is told, the other way round.
async fn secure_echo(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    headers: mpsc::UnboundedSender<String>,
) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n") {
            match stream.read_u8().await {
                Ok(byte) => header.push(byte),
                Err(_) => break,
            }
        }
        headers.send(String::from_utf8_lossy(&header).into_owned()).unwrap();
        let Ok(mut stream) = TlsAcceptor::from(Arc::clone(&config)).accept(stream).await else { continue };
        let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(protocol, None, "no protocol was asked for");
        let mut came = Vec::new();
        stream.read_to_end(&mut came).await.unwrap();
        came.reverse();
        stream.write_all(&came).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn bytes_go_on_over_tls_where_the_pool_has_it_and_only_to_servers_that_are_believed() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = "tls = { ca = \"ca.pem\", name = \"db.example\" }\nsend_proxy = \"v1\"\nretries = 0";
    let config = config("", tls, &listener);
    let (headers, mut came) = mpsc::unbounded_channel();
    let good = server_config(&authority, &["db.example"], "postgresql", None);
    let serving = tokio::spawn(secure_echo(listener, good, headers));
    let files = [("ca.pem", authority.pem.clone())];
    let proxy = Proxy::start_with_files(&config, &files, &["--threads", "1"]).await;
    let raw = proxy.address("raw").await;
    // Long enough to be spliced, if it could be.
    let words = pattern(3 << 20, 3);
    let mut client = TcpStream::connect(raw).await.unwrap();
    let port = client.local_addr().unwrap().port();
    timeout(LIMIT, client.write_all(&words)).await.expect("in time").unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(LIMIT, client.read_to_end(&mut answer)).await.expect("in time").unwrap();
    answer.reverse();
    assert!(answer == words, "{} bytes of {}", answer.len(), words.len());
    let header = came.recv().await.unwrap();
    assert!(header.starts_with(&format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} ")), "{header:?}");
    let log = proxy.logged(1).await;
    assert_eq!((&log[0]["state"], &log[0]["bytes_in"]), (&"--".into(), &words.len().into()));

    // Signed by somebody else.
    proxy.write("ca.pem", &Authority::new().pem);
    let deadline = Instant::now() + LIMIT;
    let mut asked = 1;
    loop {
        asked += 1;
        let mut client = TcpStream::connect(raw).await.unwrap();
        let _refused = client.write_all(b"secret").await;
        let _refused = client.shutdown().await;
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _either_way = timeout(LIMIT, client.read_to_end(&mut answer)).await.expect("an end in time");
        if answer.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "it is believed still");
        sleep(Duration::from_millis(50)).await;
    }
    let log = proxy.logged(asked).await;
    let last = log.iter().find(|line| line["cause"] == "tls-failed").unwrap_or_else(|| panic!("{log:#?}"));
    assert_eq!((&last["state"], &last["bytes_out"]), (&"SC".into(), &0.into()));
    serving.abort();
}

#[tokio::test]
async fn servers_are_connected_to_from_the_address_the_pool_says() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let seen = async |proxy: &Proxy| -> IpAddr {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.5:0".parse().unwrap()).unwrap();
        let _client = socket.connect(proxy.address("raw").await).await.unwrap();
        timeout(LIMIT, server.accept()).await.expect("a connection in time").unwrap().1.ip()
    };
    let proxy = Proxy::start(&config("", "source = \"127.0.0.9\"", &server), &[]).await;
    assert_eq!(seen(&proxy).await.to_string(), "127.0.0.9");

    let may_be_anybody = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap().set_ip_transparent_v4(true);
    let transparent = config("", "source = \"client\"", &server);
    let mut refused = vec![config("", "source = \"192.0.2.1\"", &server)];
    if may_be_anybody.is_ok() {
        let proxy = Proxy::start(&transparent, &[]).await;
        assert_eq!(seen(&proxy).await.to_string(), "127.0.0.5");
    } else {
        refused.push(transparent);
    }
    for config in refused {
        let mut proxy = Proxy::spawn(&config, &[], &[]);
        assert!(!proxy.exited().await.success());
        assert!(proxy.log().contains("pool.p.source"), "{}", proxy.log());
    }
}
