//! Who stands where and has which address. Pure: every name and number of the laboratory follows from this file.
//!
//! ```text
//!                          core  AS 65000
//!              10.0.1.0/30  │  10.0.2.0/30 …
//!              tor1 AS 65001 ── tor2 ── tor3
//!        ┌────────┬─────┴────┬─────────┐
//!     z1lb1,2   z1be1..3   z1c1     10.Z.N.0/30 and fd00:Z:N::/64: router .1, host .2
//!     AS 65100
//! ```
//!
//! Addresses are the same in every laboratory: they meet only inside its own namespaces.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::daemon::Kind;

/// Zones a laboratory may have; the namespaces and threads of nine zones are what a laptop bears.
pub(crate) const ZONES_MAX: u8 = 9;
/// Balancer hosts per zone.
pub(crate) const BALANCERS: u8 = 2;
/// Backends per zone.
pub(crate) const BACKENDS: u8 = 3;
/// The autonomous system of the core router; router of zone Z is this plus Z.
pub(crate) const CORE_ASN: u32 = 65_000;
/// The autonomous system of every balancer.
pub(crate) const BALANCER_ASN: u32 = 65_100;
/// The VIP `web`.
pub(crate) const VIP4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The VIP `web`, IPv6.
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10);
/// The name in the certificate and in the requests.
pub(crate) const HOST_NAME: &str = "weir.lab";
/// The port of the backends.
pub(crate) const BACKEND_PORT: u16 = 8080;
/// MTU of links that carry tunnels: 1,500 and room for the 40 or 60 bytes of encapsulation.
pub(crate) const FABRIC_MTU: u32 = 1600;
/// MTU of all other links.
pub(crate) const ACCESS_MTU: u32 = 1500;
/// Logical clients per zone and family, each with its own source address.
pub(crate) const CLIENTS: u16 = 100;

/// What a host is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Runs `weir-l4`, `weir-proxy` and `weir-bgp`.
    Balancer,
    /// Answers requests.
    Backend,
    /// Sends them.
    Client,
}

/// A host behind the router of its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host {
    /// From 1.
    pub(crate) zone: u8,
    /// What it does.
    pub(crate) role: Role,
    /// From 1, within zone and role.
    pub(crate) index: u8,
}

impl Host {
    /// The second-lowest number of its addresses.
    fn number(self) -> u8 {
        self.index
            + match self.role {
                Role::Balancer => 10,
                Role::Backend => 20,
                Role::Client => 30,
            }
    }

    /// Its own IPv4 address.
    pub(crate) fn address4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.zone, self.number(), 2)
    }

    /// Its own IPv6 address.
    pub(crate) fn address6(self) -> Ipv6Addr {
        // The number reads the same in hexadecimal: fd00:1:11::2 is z1lb1.
        Ipv6Addr::new(0xfd00, self.zone.into(), decimal_as_hex(self.number()), 0, 0, 0, 0, 2)
    }

    /// Its router's address on the link.
    pub(crate) fn router4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.zone, self.number(), 1)
    }

    /// Its router's IPv6 address on the link.
    pub(crate) fn router6(self) -> Ipv6Addr {
        let mut segments = self.address6().segments();
        segments[7] = 1;
        segments.into()
    }

    /// MTU of its link.
    pub(crate) fn mtu(self) -> u32 {
        if self.role == Role::Balancer { FABRIC_MTU } else { ACCESS_MTU }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Balancer => "lb",
            Role::Backend => "be",
            Role::Client => "c",
        };
        f.pad(&format!("z{}{role}{}", self.zone, self.index))
    }
}

fn decimal_as_hex(number: u8) -> u16 {
    u16::from(number / 10) * 16 + u16::from(number % 10)
}

/// What can be broken and mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The hosts it is about.
    pub(crate) hosts: Vec<Host>,
    /// One daemon of each instead of the whole host.
    pub(crate) daemon: Option<Kind>,
}

const PARTS: [&str; 5] = ["balancers", "servers", "l4", "proxy", "bgp"];

/// The size of a laboratory; everything else is derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Topology {
    /// How many zones.
    pub(crate) zones: u8,
}

impl Topology {
    /// The zones, from 1.
    pub(crate) fn zones(self) -> impl Iterator<Item = u8> {
        1..=self.zones
    }

    /// Every host of every zone.
    pub(crate) fn hosts(self) -> impl Iterator<Item = Host> {
        self.zones().flat_map(|zone| {
            [(Role::Balancer, BALANCERS), (Role::Backend, BACKENDS), (Role::Client, 1)]
                .into_iter()
                .flat_map(move |(role, count)| (1..=count).map(move |index| Host { zone, role, index }))
        })
    }

    /// The hosts of one role, in all zones or in one.
    pub(crate) fn of(self, role: Role, zone: Option<u8>) -> impl Iterator<Item = Host> {
        self.hosts().filter(move |host| host.role == role && zone.is_none_or(|zone| host.zone == zone))
    }

    /// The host with an address.
    pub(crate) fn host_at(self, address: IpAddr) -> Option<Host> {
        self.hosts().find(|host| match address {
            IpAddr::V4(address) => host.address4() == address,
            IpAddr::V6(address) => host.address6() == address,
        })
    }

    /// What the operator means: a place (`az1`, `z1lb1`) with or without a part (`:balancers`, `:servers`, `:l4`,
    /// `:proxy`, `:bgp`), or a part alone, which means everywhere.
    pub(crate) fn select(self, target: &str) -> Result<Target> {
        let (place, part) = match target.split_once(':') {
            Some((place, part)) => (Some(place), Some(part)),
            None if PARTS.contains(&target) => (None, Some(target)),
            None => (Some(target), None),
        };
        let (role, daemon) = match part {
            None => (None, None),
            Some("balancers") => (Some(Role::Balancer), None),
            Some("servers") => (Some(Role::Backend), None),
            Some("l4") => (Some(Role::Balancer), Some(Kind::L4)),
            Some("proxy") => (Some(Role::Balancer), Some(Kind::Proxy)),
            Some("bgp") => (Some(Role::Balancer), Some(Kind::Bgp)),
            Some(part) => bail!("{part:?} is none of {}", PARTS.join(", ")),
        };
        let hosts: Vec<Host> = self
            .hosts()
            .filter(|host| host.role != Role::Client && role.is_none_or(|role| host.role == role))
            .filter(|host| {
                place.is_none_or(|place| place == zone_name(host.zone) || place == host.to_string())
            })
            .collect();
        if hosts.is_empty() {
            bail!(
                "nothing here is called {target:?}: say az1, az1:balancers, az1:servers, z1lb1, z1be1 or l4"
            );
        }
        Ok(Target { hosts, daemon })
    }
}

/// The name of a zone's object.
pub(crate) fn zone_name(zone: u8) -> String {
    format!("az{zone}")
}

/// The zone a name means.
pub(crate) fn zone_of_name(name: &str) -> Option<u8> {
    name.strip_prefix("az")?.parse().ok()
}

/// The name of a zone's router.
pub(crate) fn router_name(zone: u8) -> String {
    format!("tor{zone}")
}

/// Addresses of the link between core and a zone's router: core's and the router's.
pub(crate) fn uplink4(zone: u8) -> (Ipv4Addr, Ipv4Addr) {
    (Ipv4Addr::new(10, 0, zone, 1), Ipv4Addr::new(10, 0, zone, 2))
}

/// The same for IPv6.
pub(crate) fn uplink6(zone: u8) -> (Ipv6Addr, Ipv6Addr) {
    let address = |last| Ipv6Addr::new(0xfd00, 0, zone.into(), 0, 0, 0, 0, last);
    (address(1), address(2))
}

/// All IPv4 addresses of a zone.
pub(crate) fn zone_prefix4(zone: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, zone, 0, 0), 16)
}

/// All IPv6 addresses of a zone.
pub(crate) fn zone_prefix6(zone: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, zone.into(), 0, 0, 0, 0, 0, 0), 32)
}

/// The source addresses of a zone's logical clients.
pub(crate) fn client_prefix4(zone: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, zone, 200, 0), 24)
}

/// The same for IPv6.
pub(crate) fn client_prefix6(zone: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, zone.into(), 0x200, 0, 0, 0, 0, 0), 48)
}

/// Both client prefixes of a zone.
pub(crate) fn client_prefixes(zone: u8) -> Vec<IpNet> {
    vec![client_prefix4(zone).into(), client_prefix6(zone).into()]
}

/// The source address of logical client `number` (from 1).
pub(crate) fn client_address(zone: u8, number: u16, v6: bool) -> IpAddr {
    if v6 {
        // Each in a /64 of its own, as at home: an address within it changes daily and says nothing.
        Ipv6Addr::new(0xfd00, zone.into(), 0x200, number, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(10, zone, 200, number as u8).into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const THREE: Topology = Topology { zones: 3 };

    #[test]
    fn every_host_has_its_own_addresses_inside_its_zone() {
        let mut seen = BTreeSet::new();
        for host in THREE.hosts() {
            assert!(seen.insert(IpAddr::from(host.address4())) && seen.insert(host.address6().into()));
            assert!(zone_prefix4(host.zone).contains(&host.address4()));
            assert!(zone_prefix6(host.zone).contains(&host.address6()));
            assert_eq!(THREE.host_at(host.address6().into()), Some(host));
        }
        assert_eq!(seen.len(), 2 * 18);
    }

    #[test]
    fn targets_name_zones_roles_and_hosts() {
        let names = |target: &str| {
            THREE.select(target).unwrap().hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("az1:balancers"), "z1lb1 z1lb2");
        assert_eq!(names("az2"), "z2lb1 z2lb2 z2be1 z2be2 z2be3");
        assert_eq!(names("z3be2"), "z3be2");
        assert_eq!(THREE.select("z1lb1:bgp").unwrap().daemon, Some(Kind::Bgp));
        assert_eq!(THREE.select("l4").unwrap().hosts.len(), 6);
        for bad in ["az4", "az1:clients", "", "z1c1", "core", "z1be1:l4"] {
            assert!(THREE.select(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
