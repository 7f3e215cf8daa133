//! Sockets of the proxy: which service is steered to which, and what their listeners tell clients.

use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt::TcpMaxSeg};
use weir_abi::Address;
use weir_core::image::mss;
use weir_model::Protocol;
use weir_runtime::steer;

use super::Daemon;

impl Daemon {
    pub(super) fn steer(&mut self, request: steer::Request) {
        let registration = &request.registration;
        let service = registration.service;
        let address = Address::from(registration.address);
        let index = self.current.service_at(address, number(service.protocol), service.ports.first.max(1));
        let reply = match index {
            None => steer::Reply::Error(format!(
                "{} {service} is no service of the datapath",
                registration.address
            )),
            Some(index) => match self.kernel.maps.steer(index, &request.socket) {
                Ok(()) => {
                    self.clamp(registration, &request.socket);
                    tracing::info!("steering {} {service} to a socket of the proxy", registration.address);
                    steer::Reply::Ok
                }
                Err(error) => steer::Reply::Error(error.to_string()),
            },
        };
        request.answer(reply);
    }

    /// Whether clients are to be told something else from now on.
    pub(super) fn look_at_clamps(&mut self) -> bool {
        let clamps = mss::clamps(&self.snapshot, &self.current);
        let is_new = clamps != self.clamps;
        self.clamps = clamps;
        is_new
    }

    /// Lets a listener tell clients how large their segments may be.
    fn clamp(&self, registration: &steer::Registration, socket: &OwnedFd) {
        if registration.service.protocol != Protocol::Tcp {
            return;
        }
        // 0: the kernel decides.
        let bytes = self.clamps.get(&registration.address).copied().unwrap_or(0);
        if let Err(error) = setsockopt(socket, TcpMaxSeg, &u32::from(bytes)) {
            // Clients are told too late then, by ICMP.
            tracing::warn!("MSS of {} {}: {error}", registration.address, registration.service);
        }
    }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => weir_abi::service::PROTO_TCP,
        Protocol::Udp => weir_abi::service::PROTO_UDP,
    }
}
