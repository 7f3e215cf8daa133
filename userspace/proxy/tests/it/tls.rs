use std::time::Duration;

use crate::{
    authority::{Authority, leaf},
    clients::{Client, field, text},
    servers::Server,
    subject::Proxy,
};

fn config(server: &Server, certificates: &str) -> String {
    format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"https\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         tls.certificates = [{certificates}]\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    )
}

const TWO: &str =
    "{ certificate = \"a.pem\", key = \"a.key\" }, { certificate = \"b.pem\", key = \"b.key\" }";

#[tokio::test]
async fn each_name_gets_its_certificate_and_alpn_its_protocol() {
    let server = Server::start("s").await;
    let authority = Authority::new();
    let (a, b) = (authority.sign(&["a.example"]), authority.sign(&["*.b.example"]));
    let files = [("a.pem", a.0), ("a.key", a.1), ("b.pem", b.0), ("b.key", b.1)];
    let proxy = Proxy::start_with_files(&config(&server, TWO), &files, &[]).await;
    let web = proxy.address("web").await;

    let stream = authority.connect(web, "x.b.example", &["http/1.1"]).await.unwrap();
    let answer = Client::over(stream).await.unwrap().get("/").await.unwrap();
    assert!(text(&answer).contains("x-forwarded-proto: https\n"));
    assert!(authority.connect(web, "a.example", &[]).await.is_ok());
    assert!(
        authority.connect(web, "c.example", &[]).await.is_err(),
        "the first certificate is served, and not valid"
    );

    let stream = authority.connect(web, "a.example", &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let body = http_body_util::Full::<bytes::Bytes>::default();
    let request = hyper::Request::get("https://a.example/").body(body).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-served-by"]), (200, &"s".parse().unwrap()));
}

#[tokio::test]
async fn a_bad_certificate_is_refused_and_a_renewed_one_is_served_without_a_change_of_objects() {
    let server = Server::start("s").await;
    let authority = Authority::new();
    let (a, b) = (authority.sign(&["a.example"]), authority.sign(&["b.example"]));
    let one = "{ certificate = \"a.pem\", key = \"a.key\" }";
    let files = [("a.pem", a.0), ("a.key", a.1.clone()), ("b.pem", b.0), ("b.key", a.1)];
    let proxy = Proxy::start_with_files(&config(&server, one), &files, &[]).await;
    let web = proxy.address("web").await;
    let old = leaf(&authority.connect(web, "a.example", &[]).await.unwrap());

    // The key of b is that of a.
    proxy.write("a.toml", &config(&server, TWO));
    let status = proxy.until("it is refused", |status| !status.config.refused.is_empty()).await;
    assert_eq!(status.config.refused[0].path, "listener.web.tls.certificates.1");
    assert_eq!(leaf(&authority.connect(web, "a.example", &[]).await.unwrap()), old);

    let renewed = authority.sign(&["a.example"]);
    proxy.write("a.key", &renewed.1);
    proxy.write("a.pem", &renewed.0);
    let deadline = std::time::Instant::now() + crate::subject::LIMIT;
    loop {
        let stream = authority.connect(web, "a.example", &["http/1.1"]).await.unwrap();
        if leaf(&stream) != old {
            let answer = Client::over(stream).await.unwrap().get("/").await.unwrap();
            assert_eq!(field(&answer, "x-served-by"), "s");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the renewed certificate is not served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
