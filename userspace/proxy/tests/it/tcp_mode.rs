use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::subject::Proxy;

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
