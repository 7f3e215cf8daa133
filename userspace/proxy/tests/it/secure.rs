//! Servers that speak HTTP/1.1 or HTTP/2, with TLS or without, and count what comes to them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{HandshakeKind, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;

/// One of them.
pub(crate) struct SecureServer {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<SeenThere>,
}

/// What came.
#[derive(Default)]
pub(crate) struct SeenThere {
    pub(crate) accepted: AtomicUsize,
    pub(crate) requests: AtomicUsize,
    pub(crate) resumed: AtomicUsize,
    /// Whether a connection ends with its first request.
    pub(crate) closes: AtomicBool,
    /// The names asked for, and how many certificates were shown.
    pub(crate) hellos: Mutex<Vec<(Option<String>, usize)>>,
}

/// A certificate for `names`, and ALPN; clients must show one of `clients`, where there is such an authority.
pub(crate) fn server_config(
    authority: &Authority,
    names: &[&str],
    alpn: &str,
    clients: Option<&Authority>,
) -> Arc<ServerConfig> {
    let (certificate, key) = authority.sign(names);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = match clients {
        None => builder.unwrap().with_no_client_auth(),
        Some(clients) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(clients.certificate.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.unwrap().with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Arc::new(config)
}

impl SecureServer {
    pub(crate) async fn start(h2: bool, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<SeenThere> = Arc::default();
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, tls) = (Arc::clone(&shared), tls.clone());
                seen.accepted.fetch_add(1, SeqCst);
                tokio::spawn(async move {
                    let Some(tls) = tls else { return serve(h2, stream, seen).await };
                    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
                    let session = stream.get_ref().1;
                    let shown = session.peer_certificates().map_or(0, <[_]>::len);
                    seen.hellos.lock().unwrap().push((session.server_name().map(str::to_owned), shown));
                    if session.handshake_kind() == Some(HandshakeKind::Resumed) {
                        seen.resumed.fetch_add(1, SeqCst);
                    }
                    serve(h2, stream, seen).await;
                });
            }
        });
        Self { address, seen }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.seen.accepted.load(SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.requests.load(SeqCst)
    }
}

async fn serve<S>(h2: bool, stream: S, seen: Arc<SeenThere>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| answer(Arc::clone(&seen), request));
    // However it ends.
    if h2 {
        let _ =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    } else {
        let keeps = !seen.closes.load(SeqCst);
        let mut builder = http1::Builder::new();
        let _ = builder.keep_alive(keeps).serve_connection(TokioIo::new(stream), service).await;
    }
}

/// Head and body come back as the body; `/trailers` ends with a trailer field, `/204` is empty, `/slow` takes its time and
/// `/broken` ends before its end.
async fn answer(
    seen: Arc<SeenThere>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, std::io::Error>>, Infallible> {
    seen.requests.fetch_add(1, SeqCst);
    let path = request.uri().path().to_owned();
    let is_head = request.method() == hyper::Method::HEAD;
    let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (field, value) in request.headers() {
        text.push_str(&format!("{field}: {}\n", value.to_str().unwrap()));
    }
    text.push('\n');
    let sent = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if path == "/slow" {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut frames: Vec<Result<Frame<Bytes>, std::io::Error>> = Vec::new();
    if path != "/204" && !is_head {
        frames.push(Ok(Frame::data(text.into())));
        for piece in sent.chunks(10_000) {
            frames.push(Ok(Frame::data(Bytes::copy_from_slice(piece))));
        }
    }
    if path == "/trailers" {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", sent.len().into());
        frames.push(Ok(Frame::trailers(trailers)));
    }
    if path == "/broken" {
        frames.push(Err(std::io::Error::other("as asked")));
    }
    // An end that is none comes once the head has gone out.
    let frames = futures_util::StreamExt::then(stream::iter(frames), |frame| async move {
        if frame.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        frame
    });
    let response = Response::builder().status(if path == "/204" { 204 } else { 200 });
    let response = if path == "/trailers" { response.header("trailer", "x-sum") } else { response };
    Ok(response.body(StreamBody::new(frames).boxed()).unwrap())
}
