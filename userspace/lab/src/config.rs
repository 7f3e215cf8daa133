//! The configuration of a laboratory: one directory that all daemons of all hosts read, and the changes missions make.
//!
//! Objects are built as values of the model and written as the TOML an operator would write.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use weir_model::{
    Admin, Announce, Balance, CertificateFiles, Check, CheckKind, DialTcp, Group, Listener, ListenerProtocol,
    MssClamp, Name, Node, Objects, Peer, PeerAddress, Percent, Pool, PoolProtocol, ProbeVia, Server,
    Snapshot, SourceFile, Spread, SynProtection, Tls, Tunnel, Vip, Zone,
};

use crate::topology::{self, BALANCER_ASN, CORE_ASN, HOST_NAME, Host, Role, Topology, VIP4, VIP6, zone_name};

/// How often a server is checked, and how long one check may take: a dead server is known after three.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// A dead host answers nothing at all; a busy laboratory answers late.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The directory and what is in it.
pub(crate) struct Config {
    dir: PathBuf,
    healthy: Objects,
    objects: std::sync::Mutex<Objects>,
    certificate: CertificateDer<'static>,
}

impl Config {
    /// Writes the healthy configuration of `topology` into `dir`.
    pub(crate) fn create(dir: &Path, topology: Topology) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let key = rcgen::generate_simple_self_signed([HOST_NAME.to_owned()]).context("make a certificate")?;
        write(&dir.join("lab.pem"), &key.cert.pem())?;
        write(&dir.join("lab.key"), &key.signing_key.serialize_pem())?;
        let healthy = healthy(topology)?;
        let config = Self {
            dir: dir.into(),
            objects: std::sync::Mutex::new(healthy.clone()),
            healthy,
            certificate: key.cert.der().clone(),
        };
        config.change(|_| Ok(()))?;
        Ok(config)
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The certificate clients trust.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// Changes objects and writes the files that differ; refuses what the daemons would refuse.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Objects) -> Result<()>) -> Result<()> {
        let mut current = self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut objects = current.clone();
        change(&mut objects)?;
        let files = files(&objects)?;
        Snapshot::read(&files).context("the laboratory's own configuration")?;
        for file in &files {
            let path = self.dir.join(&file.path);
            if fs::read_to_string(&path).ok().as_deref() != Some(&file.text) {
                write(&path, &file.text)?;
            }
        }
        *current = objects;
        Ok(())
    }

    /// Brings everything back to the healthy configuration.
    pub(crate) fn reset(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".toml") && !files(&self.healthy)?.iter().any(|file| file.path == name) {
                self.remove(&name)?;
            }
        }
        self.change(|objects| {
            *objects = self.healthy.clone();
            Ok(())
        })
    }

    /// Puts a file beside the objects, broken or not.
    pub(crate) fn put(&self, name: &str, text: &str) -> Result<()> {
        write(&self.dir.join(name), text)
    }

    /// Removes such a file.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {name}"))
            }
            _ => Ok(()),
        }
    }
}

/// Parses a name the laboratory made up itself.
pub(crate) fn name(text: &str) -> Result<Name> {
    Ok(text.parse()?)
}

/// Whole or not at all: the daemons watch the directory.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(".new");
    fs::write(&hidden, text)
        .and_then(|()| fs::rename(&hidden, path))
        .with_context(|| format!("write {}", path.display()))
}

fn table<T: Serialize>(kind: &str, objects: &BTreeMap<impl Serialize + Ord, T>) -> Result<String> {
    toml::to_string(&BTreeMap::from([(kind, objects)])).with_context(|| format!("write the {kind} objects"))
}

/// The objects as files, one per kind.
fn files(objects: &Objects) -> Result<Vec<SourceFile>> {
    let texts = [
        ("groups", table("group", &objects.group)?),
        ("listeners", table("listener", &objects.listener)?),
        ("nodes", table("node", &objects.node)?),
        ("peers", table("peer", &objects.peer)?),
        ("pools", table("pool", &objects.pool)?),
        ("servers", table("server", &objects.server)?),
        ("vips", table("vip", &objects.vip)?),
        ("zones", table("zone", &objects.zone)?),
    ];
    Ok(texts.into_iter().map(|(name, text)| SourceFile { path: format!("{name}.toml"), text }).collect())
}

/// Everything active: VIP `web` of all balancers, its listeners for http and https, one pool of all backends.
fn healthy(topology: Topology) -> Result<Objects> {
    let mut objects = Objects::default();
    for zone in topology.zones() {
        let client_prefixes = topology::client_prefixes(zone);
        objects
            .zone
            .insert(name(&zone_name(zone))?, Zone { client_prefixes, spill_weight: 1, ..Zone::default() });
    }
    for host in topology.of(Role::Balancer, None) {
        let node = name(&host.to_string())?;
        objects.node.insert(
            node.clone(),
            Node {
                zone: name(&zone_name(host.zone))?,
                address: Some(host.address4()),
                address6: Some(host.address6()),
                weight: 100,
                admin: Admin::Active,
                tunnel: Tunnel::Gue,
                quic_id: None,
                probe_port: 9180,
                probe_via: ProbeVia::Tunnel,
                probe_interval: Duration::from_millis(100),
                probe_timeout: Duration::from_millis(500),
                probe_rise: 2,
                probe_fall: 3,
                withdrawals_per_minute: None,
            },
        );
        objects.peer.insert(node.clone(), peer(node, host));
    }
    objects.group.insert(name("edge")?, Group::of(objects.node.keys().cloned().collect()));
    objects.vip.insert(
        name("web")?,
        Vip {
            addresses: vec![VIP4.into(), VIP6.into()],
            group: name("edge")?,
            pool: None,
            services: ["tcp/80", "tcp/443"]
                .into_iter()
                .map(|text| text.to_owned().try_into().map_err(anyhow::Error::msg))
                .collect::<Result<_>>()?,
            home_zone: None,
            spread: Spread::Zone,
            flow_hold: Duration::from_secs(3600),
            udp_flows: true,
            quic: false,
            sources: Vec::new(),
            new_connections_per_source: None,
            syn_protection: SynProtection::default(),
            mss_clamp: MssClamp::default(),
            announce: Announce::default(),
        },
    );
    let web = |protocol, port, tls| -> Result<Listener> {
        Ok(Listener {
            protocol,
            vip: Some(name("web")?),
            port: Some(port),
            bind: None,
            tls,
            routes: Vec::new(),
            pool: Some(name("web")?),
            max_connections: 20_000,
            request_id: weir_model::RequestId::Off,
            trace: weir_model::Trace::Pass,
            proxy_protocol_from: Vec::new(),
            idle_timeout: Duration::from_secs(3_600),
            half_closed_timeout: None,
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(60),
            client_timeout: Duration::from_secs(60),
            body_rate_min: 500,
            body_rate_grace: Duration::from_secs(20),
        })
    };
    let files = CertificateFiles { certificate: "lab.pem".into(), key: "lab.key".into(), ocsp: None };
    let tls = Tls { certificates: vec![files], ..Tls::default() };
    objects.listener.insert(name("http")?, web(ListenerProtocol::Http, 80, None)?);
    objects.listener.insert(name("https")?, web(ListenerProtocol::Https, 443, Some(tls))?);
    objects.pool.insert(name("web")?, pool());
    for host in topology.of(Role::Backend, None) {
        objects.server.insert(
            name(&host.to_string())?,
            Server {
                quic_id: None,
                pools: vec![name("web")?],
                address: (host.address4(), topology::BACKEND_PORT).into(),
                zone: name(&zone_name(host.zone))?,
                weight: 100,
                admin: Admin::Active,
                tunnel: Tunnel::Gue,
                backup: false,
            },
        );
    }
    Ok(objects)
}

fn peer(node: Name, host: Host) -> Peer {
    let address = PeerAddress::Host(host.router4().into());
    Peer {
        local_port: 0,
        connect_retry: Duration::from_millis(500),
        ..Peer::new(node, address, CORE_ASN + u32::from(host.zone), BALANCER_ASN)
    }
}

fn pool() -> Pool {
    Pool {
        protocol: PoolProtocol::default(),
        tls: None,
        balance: Balance::RoundRobin,
        hash_on: None,
        bounded_load: None,
        random_of: 2,
        slow_start: None,
        critical: true,
        check: Some(Check {
            path: "/healthz".into(),
            interval: CHECK_INTERVAL,
            timeout: CHECK_TIMEOUT,
            ..Check::new(CheckKind::Http)
        }),
        overprovision: Percent::whole(140),
        spill_weights: BTreeMap::new(),
        sticky: None,
        retries: 3,
        retry_budget: None,
        hedge_after: None,
        eject: None,
        breaker: None,
        max_connections: 1_000,
        max_queue: 1_000,
        queue_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(30),
        server_timeout: Duration::from_secs(300),
        idle_timeout: Duration::from_secs(30),
        send_proxy: None,
        source: None,
        tcp: DialTcp::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_healthy_configuration_is_accepted_and_complete() {
        let files = files(&healthy(Topology { zones: 3 }).unwrap()).unwrap();
        let snapshot = Snapshot::read(&files).unwrap();
        let counts =
            (snapshot.zones.len(), snapshot.nodes.len(), snapshot.servers.len(), snapshot.peers.len());
        assert_eq!(counts, (3, 6, 9, 6));
    }
}
