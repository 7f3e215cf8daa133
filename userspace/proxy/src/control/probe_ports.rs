//! `/healthz` on the node's own addresses.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Socket, Type};
use weir_runtime::status::Site;

use super::Control;
use crate::hold::Door;

impl Control {
    /// Opens those the node wants, and closes others. A successor opens them when it is ready: until then the process before it
    /// answers, or whoever asks waits that long.
    pub(super) fn open_probe_ports(&mut self) {
        if self.holder.is_successor() && self.ready_by.is_some() {
            return;
        }
        let node = self.options.node.as_ref().and_then(|node| self.snapshot.nodes.get(node));
        let wanted: Vec<SocketAddr> = node
            .into_iter()
            .flat_map(|node| {
                let addresses = [node.address.map(IpAddr::V4), node.address6.map(IpAddr::V6)];
                addresses.into_iter().flatten().map(|address| SocketAddr::new(address, node.probe_port))
            })
            .collect();
        self.probe_ports.retain(|address, task| {
            let keep = wanted.contains(address) && !task.is_finished();
            if !keep {
                task.abort();
                self.holder.remove(Door::Probe(*address));
            }
            keep
        });
        for address in wanted {
            if self.probe_ports.contains_key(&address) {
                continue;
            }
            let healthz = self.healthz.clone();
            let site = Site::health_only(move |query| healthz.of_groups(query));
            let door = Door::Probe(address);
            match self.holder.take_one(door).unwrap_or_else(|| listen_free(address)) {
                Ok(listener) => {
                    self.holder.store(door, &[&listener]);
                    let task = tokio::spawn(weir_runtime::status::serve_tcp(listener, site));
                    self.probe_ports.insert(address, task);
                }
                Err(error) => tracing::error!("probe port {address}: {error}"),
            }
        }
    }

    pub(super) fn close_probe_ports(&self) {
        for task in self.probe_ports.values() {
            task.abort();
        }
    }
}

/// Listens also while the address is not on this host yet.
fn listen_free(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(128)?;
    tokio::net::TcpListener::from_std(socket.into())
}
