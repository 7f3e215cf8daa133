//! One health probe within a timeout: TCP, HTTP, TLS or an agent, or several of them in a row. Rise and fall are `weir-core`'s.

mod http;
pub mod tls;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use weir_core::{
    health::{AGENT_ANSWER_LEN_MAX, Outcome, Said},
    proxy_protocol::{self, Tlvs},
};
use weir_model::{Check, CheckKind, Name, SendProxy};

pub use http::HttpProbe;

/// What to probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProbeTarget {
    /// What is tried, one after the other; all must pass.
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Step {
    address: SocketAddr,
    /// What is said first: that it is nobody's connection but the prober's.
    announce: Option<SendProxy>,
    kind: Kind,
}

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Tcp,
    Http(HttpProbe),
    Https(HttpProbe, Tls),
    Tls(Tls),
    Agent,
}

/// What TLS must be like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tls {
    ca: Option<PathBuf>,
    name: ServerName<'static>,
}

impl ProbeTarget {
    /// What the check of a pool tries at a server; `dir` is where the configuration and the files it names lie.
    pub fn check(check: &Check, server: SocketAddr, dir: &Path) -> Self {
        Self { steps: check.steps().map(|check| Step::of(check, server, dir)).collect() }
    }

    /// The same for servers that want a header of the PROXY protocol first; not at ports beside the server's own, where others answer.
    pub fn announced(mut self, version: Option<SendProxy>, server: SocketAddr) -> Self {
        for step in self.steps.iter_mut().filter(|step| step.address == server) {
            step.announce = version;
        }
        self
    }

    /// The `/healthz` of a proxy: does it serve every VIP of these groups?
    pub fn readiness(address: SocketAddr, groups: &[&Name]) -> Self {
        let query: Vec<String> = groups.iter().map(|group| format!("group={group}")).collect();
        let target = format!("/healthz?{}", query.join("&"));
        let http = HttpProbe::new("GET", &target, address.to_string(), (200, 299));
        Self { steps: vec![Step { address, announce: None, kind: Kind::Http(http) }] }
    }
}

impl Step {
    fn of(check: &Check, mut address: SocketAddr, dir: &Path) -> Self {
        if let Some(port) = check.port {
            address.set_port(port);
        }
        let http = || HttpProbe::of(check, address.to_string());
        let tls = |host: Option<&str>| {
            let wanted = check.tls.as_ref();
            let name = wanted.and_then(|tls| tls.name.as_deref()).or(host);
            let name = name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
            Tls {
                ca: wanted.and_then(|tls| Some(dir.join(tls.ca.as_ref()?))),
                name: name.unwrap_or_else(|| ServerName::from(address.ip())),
            }
        };
        let kind = match check.kind {
            CheckKind::Tcp => Kind::Tcp,
            CheckKind::Http => Kind::Http(http()),
            CheckKind::Https => {
                let http = http();
                let tls = tls(check.host.as_ref().map(|_| http.host_name()));
                Kind::Https(http, tls)
            }
            CheckKind::Tls => Kind::Tls(tls(None)),
            CheckKind::Agent => Kind::Agent,
        };
        Self { address, announce: None, kind }
    }

    async fn attempt(&self) -> io::Result<ProbeResult> {
        let mut stream = TcpStream::connect(self.address).await?;
        if let Some(version) = self.announce {
            let mut header = Vec::new();
            proxy_protocol::write(&mut header, version.into(), None, &Tlvs::default());
            stream.write_all(&header).await?;
        }
        match &self.kind {
            Kind::Tcp => Ok(ProbeResult::Up),
            Kind::Http(http) => http.ask(stream).await,
            Kind::Https(http, tls) => http.ask(tls.handshake(stream).await?).await,
            Kind::Tls(tls) => tls.handshake(stream).await.map(|_| ProbeResult::Up),
            Kind::Agent => listen(stream).await,
        }
    }
}

impl Tls {
    async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = match &self.ca {
            Some(ca) => tls::signed_by(ca).await,
            None => tls::any_certificate().map_err(|error| error.to_string()),
        };
        let connector = TlsConnector::from(Arc::new(config.map_err(io::Error::other)?));
        let handshake = connector.connect(self.name.clone(), stream).await;
        handshake.map_err(|error| io::Error::new(error.kind(), format!("tls handshake: {error}")))
    }
}

/// The line an agent says.
async fn listen(stream: TcpStream) -> io::Result<ProbeResult> {
    let mut answer = Vec::new();
    let mut limited = stream.take(AGENT_ANSWER_LEN_MAX as u64);
    while limited.read_buf(&mut answer).await? > 0 && !answer.contains(&b'\n') {}
    Ok(match Said::read(&answer) {
        Ok(said) => ProbeResult::Said(said),
        Err(what) => ProbeResult::Down(what),
    })
}

/// What a probe saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// It answered as expected.
    Up,
    /// It answered 503 and that it is draining.
    Draining,
    /// It did not, and why.
    Down(String),
    /// It answered as expected as far as it was asked, and its agent says this.
    Said(Said),
}

impl From<ProbeResult> for Outcome {
    fn from(result: ProbeResult) -> Self {
        match result {
            ProbeResult::Up => Self::Pass,
            ProbeResult::Draining => Self::Drain,
            ProbeResult::Down(reason) => Self::Fail(reason),
            ProbeResult::Said(said) => Self::Said(said),
        }
    }
}

/// Probes once; takes at most `limit`.
pub async fn run(target: &ProbeTarget, limit: Duration) -> ProbeResult {
    match timeout(limit, attempt(target, limit)).await {
        Ok(result) => result,
        Err(_) => ProbeResult::Down(format!("no answer within {limit:?}")),
    }
}

async fn attempt(target: &ProbeTarget, limit: Duration) -> ProbeResult {
    let is_one = target.steps.len() == 1;
    let (mut said, mut is_draining) = (None, false);
    for step in &target.steps {
        if step.kind == Kind::Agent && !is_one {
            // It adds to what the others find. Silence of the agent, for half of the time there is, adds nothing.
            let heard = timeout(limit / 2, step.attempt()).await;
            said = Some(match heard {
                Ok(Ok(ProbeResult::Said(said))) => said,
                _ => Said::default(),
            });
            continue;
        }
        // With several it matters which.
        let at = |what: String| if is_one { what } else { format!("{}: {what}", step.address) };
        match step.attempt().await {
            Ok(ProbeResult::Up) => {}
            Ok(ProbeResult::Draining) => is_draining = true,
            Ok(ProbeResult::Said(words)) => said = Some(words),
            Ok(ProbeResult::Down(why)) => return ProbeResult::Down(at(why)),
            Err(error) => return ProbeResult::Down(at(error.to_string())),
        }
    }
    match said {
        _ if is_draining => ProbeResult::Draining,
        Some(said) => ProbeResult::Said(said),
        None => ProbeResult::Up,
    }
}

#[cfg(test)]
mod tests;
