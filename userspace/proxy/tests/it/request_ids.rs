//! What requests are called, and the traces they belong to: to servers, back to clients, in the log.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::{
    clients::{Answer, Client, field},
    raw::say,
    servers::Server,
    subject::Proxy,
};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn with(server: &Server, listener: &str) -> Proxy {
    let config = format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n{listener}\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    );
    Proxy::start(&config, &[]).await
}

/// The same request over HTTP/1.1 and HTTP/2.
async fn ask(proxy: &Proxy, fields: &[(&'static str, &'static str)]) -> [Answer; 2] {
    let web = proxy.address("web").await;
    let fields: HeaderMap = fields
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    let request = |uri: String| {
        let mut request = Request::get(uri).body(Full::default()).unwrap();
        request.headers_mut().extend(fields.clone());
        request
    };
    let mut over_1 = request("/".into());
    over_1.headers_mut().insert("host", HeaderValue::from_static("test.example"));
    let first = Client::connect(web).await.unwrap().send(over_1).await.unwrap();
    let stream = TokioIo::new(TcpStream::connect(web).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request(format!("http://{web}/"))).await.unwrap().into_parts();
    let second = Response::from_parts(parts, body.collect().await.unwrap().to_bytes());
    [first, second]
}

/// A field as the server saw it.
fn seen<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let text = std::str::from_utf8(answer.body()).unwrap();
    text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

#[tokio::test]
async fn a_request_has_one_name_for_the_server_the_client_and_the_log() {
    let server = Server::start("s").await;
    let proxy = with(&server, "request_id = \"keep\"").await;
    for answer in ask(&proxy, &[("x-request-id", "theirs-1")]).await {
        assert_eq!(
            (field(&answer, "x-request-id"), seen(&answer, "x-request-id")),
            ("theirs-1", vec!["theirs-1"])
        );
    }
    for answer in ask(&proxy, &[("x-request-id", "no name")]).await {
        let id = field(&answer, "x-request-id");
        assert!(id.len() == 36 && seen(&answer, "x-request-id") == [id], "{answer:?}");
    }
    let logged = proxy.logged(4).await;
    assert_eq!(logged.iter().filter(|line| line["request_id"] == "theirs-1").count(), 2, "{logged:#?}");
    assert!(logged.iter().all(|line| line["request_id"].as_str().is_some_and(|id| !id.contains(' '))));
}

#[tokio::test]
async fn a_trace_is_kept_when_it_is_one_replaced_when_it_is_broken_and_begun_where_asked_for() {
    let server = Server::start("s").await;
    let proxy = with(&server, "trace = \"make\"").await;
    for answer in ask(&proxy, &[("traceparent", TRACE), ("tracestate", "a=b")]).await {
        assert_eq!((seen(&answer, "traceparent"), seen(&answer, "tracestate")), (vec![TRACE], vec!["a=b"]));
    }
    for broken in ["00-0-0-0", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
        for answer in ask(&proxy, &[("traceparent", broken), ("tracestate", "a=b")]).await {
            let trace = seen(&answer, "traceparent");
            assert!(trace.len() == 1 && trace[0].len() == 55 && trace[0].starts_with("00-"), "{trace:?}");
            assert_eq!(seen(&answer, "tracestate"), [""; 0]);
        }
    }
    for answer in ask(&proxy, &[]).await {
        assert_eq!(seen(&answer, "traceparent").len(), 1);
    }
    let proxy = with(&server, "trace = \"repair\"").await;
    for answer in ask(&proxy, &[]).await {
        assert_eq!(seen(&answer, "traceparent").len(), 0);
    }
}

#[tokio::test]
async fn without_being_told_the_proxy_names_nothing() {
    let server = Server::start("s").await;
    let proxy = with(&server, "").await;
    for answer in ask(&proxy, &[("x-request-id", "no name"), ("traceparent", "broken")]).await {
        assert_eq!(field(&answer, "x-request-id"), "");
        assert_eq!(
            (seen(&answer, "x-request-id"), seen(&answer, "traceparent")),
            (vec!["no name"], vec!["broken"])
        );
    }
}

#[tokio::test]
async fn requests_that_are_refused_at_once_have_names_too() {
    let server = Server::start("s").await;
    let config = format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\nrequest_id = \"keep\"\n\
         routes = [{{ path = \"/x\", pool = \"p\" }}]\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    );
    let proxy = Proxy::start(&config, &[]).await;
    let web = proxy.address("web").await;
    for (said, status, id) in [
        ("GET / HTTP/1.1\r\nhost: a\r\nx-request-id: theirs-1\r\n\r\n", 404, Some("theirs-1")),
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", 404, None),
        // Of what cannot be read nothing is taken over.
        ("GET / HTTP/1.1\r\nx-request-id: theirs-2\r\n\r\n", 400, None),
        ("nonsense\r\n\r\n", 400, None),
    ] {
        let answer = say(web, said.as_bytes(), &["weir-cause: ", "\r\n\r\n"]).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let named = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
        assert!(id.map_or(named.len() == 36, |id| named == id), "{said:?}: {named}");
    }
    let logged = proxy.logged(4).await;
    assert!(
        logged.iter().all(|line| line["request_id"].as_str().is_some_and(|id| !id.is_empty())),
        "{logged:#?}"
    );
}
