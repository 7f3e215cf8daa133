//! gRPC through the proxy, frame by frame on both sides: unary calls, streams, errors in trailers, cancelled calls, refusals.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use h2::{Reason, RecvStream, client, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};

use crate::subject::{LIMIT, Proxy};

/// A message as it stands in a body: not compressed, length, bytes.
fn message(text: &str) -> Bytes {
    [&[0][..], &(text.len() as u32).to_be_bytes(), text.as_bytes()].concat().into()
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(code))])
}

#[derive(Default)]
struct Service {
    connections: AtomicUsize,
    calls: AtomicUsize,
    /// Refuses every call without looking at it.
    refuses: AtomicBool,
    cancelled: Notify,
    goes_on: Notify,
}

async fn start(refuses: bool) -> (SocketAddr, Arc<Service>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Arc::new(Service { refuses: refuses.into(), ..Service::default() });
    let shared = Arc::clone(&service);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = Arc::clone(&shared);
            service.connections.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut connection = server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(call(Arc::clone(&service), request, respond));
                }
            });
        }
    });
    (address, service)
}

async fn call(service: Arc<Service>, request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>) {
    if service.refuses.load(SeqCst) {
        return respond.send_reset(Reason::REFUSED_STREAM);
    }
    service.calls.fetch_add(1, SeqCst);
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.headers()["grpc-timeout"], "5S");
    let path = request.uri().path().to_owned();
    let head = || Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut body = request.into_body();
    match path.as_str() {
        "/t.T/Unary" => {
            let asked = collect(&mut body).await.unwrap();
            let mut stream = respond.send_response(head(), false).unwrap();
            stream.send_data(asked, false).unwrap();
            stream.send_trailers(status("0")).unwrap();
        }
        // Each message is answered before the next is sent.
        "/t.T/Chat" => {
            let mut stream = respond.send_response(head(), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                stream.send_data(data, false).unwrap();
            }
            stream.send_trailers(status("0")).unwrap();
        }
        "/t.T/Fails" => {
            let mut response = head();
            response.headers_mut().extend(status("5"));
            respond.send_response(response, true).unwrap();
        }
        "/t.T/FailsLate" => {
            let mut stream = respond.send_response(head(), false).unwrap();
            stream.send_data(message("a part"), false).unwrap();
            stream.send_trailers(status("13")).unwrap();
        }
        "/t.T/Resets" => {
            let mut stream = respond.send_response(head(), false).unwrap();
            stream.send_data(message("a part"), false).unwrap();
            service.goes_on.notified().await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        "/t.T/Waits" => {
            let mut stream = respond.send_response(head(), false).unwrap();
            let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
            assert_eq!(reset, Reason::CANCEL);
            service.cancelled.notify_one();
        }
        other => panic!("no method {other}"),
    }
}

async fn collect(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        all.extend_from_slice(&data);
    }
    Ok(all.into())
}

fn config(servers: &[SocketAddr]) -> String {
    let mut config = "[zone.az1]\n[pool.p]\nprotocol = \"h2c\"\n[listener.web]\nprotocol = \"http\"\n\
                      bind = \"127.0.0.1:0\"\npool = \"p\"\n"
        .to_owned();
    for (index, address) in servers.iter().enumerate() {
        config += &format!("[server.s{index}]\npools = [\"p\"]\naddress = \"{address}\"\nzone = \"az1\"\n");
    }
    config
}

async fn connect(to: SocketAddr) -> client::SendRequest<Bytes> {
    let (client, connection) = client::handshake(TcpStream::connect(to).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

fn request(method: &str) -> Request<()> {
    Request::post(format!("http://grpc.example/t.T/{method}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "5S")
        .body(())
        .unwrap()
}

/// Fields, messages and trailers of a call with one message.
async fn ask(
    client: &mut client::SendRequest<Bytes>,
    method: &str,
) -> Result<(HeaderMap, Bytes, HeaderMap), h2::Error> {
    let exchange = async {
        let (response, mut stream) = client.send_request(request(method), false)?;
        stream.send_data(message("hello"), true)?;
        let (parts, mut body) = response.await?.into_parts();
        assert_eq!(parts.status, 200, "{:?}", parts.headers);
        let data = collect(&mut body).await?;
        Ok((parts.headers, data, body.trailers().await?.unwrap_or_default()))
    };
    timeout(LIMIT, exchange).await.unwrap()
}

#[tokio::test]
async fn calls_streams_and_errors_of_grpc_come_through_as_they_are() {
    let (server, service) = start(false).await;
    let proxy = Proxy::start(&config(&[server]), &["--threads", "1"]).await;
    let mut client = connect(proxy.address("web").await).await;

    let (head, data, trailers) = ask(&mut client, "Unary").await.unwrap();
    assert_eq!((&head["content-type"], data), (&"application/grpc".parse().unwrap(), message("hello")));
    assert_eq!(trailers["grpc-status"], "0");
    let (head, data, trailers) = ask(&mut client, "Fails").await.unwrap();
    assert_eq!((&head["grpc-status"], data.len(), trailers.len()), (&"5".parse().unwrap(), 0, 0));
    let (_, data, trailers) = ask(&mut client, "FailsLate").await.unwrap();
    assert_eq!((data, &trailers["grpc-status"]), (message("a part"), &"13".parse().unwrap()));

    // Both ways at once.
    let (response, mut stream) = client.send_request(request("Chat"), false).unwrap();
    let chat = async {
        let mut body = response.await.unwrap().into_body();
        for text in ["one", "two", "three"] {
            stream.send_data(message(text), false).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), message(text));
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    };
    timeout(LIMIT, chat).await.unwrap();
    assert_eq!((service.connections.load(SeqCst), service.calls.load(SeqCst)), (1, 4));
}

#[tokio::test]
async fn a_call_that_is_reset_is_reset_on_the_other_side_and_others_go_on() {
    let (server, service) = start(false).await;
    let proxy = Proxy::start(&config(&[server]), &["--threads", "1"]).await;
    let mut client = connect(proxy.address("web").await).await;

    let (response, mut stream) = client.send_request(request("Resets"), false).unwrap();
    stream.send_data(message("hello"), true).unwrap();
    let mut body = timeout(LIMIT, response).await.unwrap().unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), message("a part"));
    service.goes_on.notify_one();
    let ended = timeout(LIMIT, body.data()).await.unwrap().expect("no end").unwrap_err();
    assert_eq!(ended.reason(), Some(Reason::INTERNAL_ERROR));

    let (response, mut stream) = client.send_request(request("Waits"), false).unwrap();
    stream.send_data(message("hello"), true).unwrap();
    let body = timeout(LIMIT, response).await.unwrap().unwrap().into_body();
    stream.send_reset(Reason::CANCEL);
    drop((stream, body));
    timeout(LIMIT, service.cancelled.notified()).await.expect("the server hears that nobody waits any more");

    assert_eq!(ask(&mut client, "Unary").await.unwrap().1, message("hello"));
    assert_eq!(service.connections.load(SeqCst), 1, "the connection outlives what is reset on it");
}

#[tokio::test]
async fn a_request_that_a_server_refuses_to_look_at_goes_to_another() {
    let ((bad, refusing), (good, service)) = (start(true).await, start(false).await);
    let proxy = Proxy::start(&config(&[bad, good]), &["--threads", "1"]).await;
    let mut client = connect(proxy.address("web").await).await;
    for _ in 0..6 {
        // Without a body: what was read of one is gone.
        let (response, _) = client.send_request(request("Fails"), true).unwrap();
        assert_eq!(timeout(LIMIT, response).await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(service.calls.load(SeqCst), 6);
    assert!(refusing.connections.load(SeqCst) > 0, "it was asked");
}
