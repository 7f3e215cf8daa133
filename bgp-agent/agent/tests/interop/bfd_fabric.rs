//! A router and a host with a switch between, each in a namespace: the host can die while the router's link stays up.
//!
//! ```text
//!   router  sw0 ───── tor │ switch (bridge) │ host ───── eth0  host, with weir-bgp
//!   .1 ::1                                                 .2 ::2
//! ```

use crate::bench::{Agent, Process, available, output, until};
use crate::bird::{BIRD, Bird};
use crate::frr::{BGPD, Frr};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use weir_lab::netns::{self, NetNs};
use weir_lab::place::Place;
use weir_lab::sys;

const MTU: u32 = 1500;

/// The router's addresses.
pub(crate) const ROUTER4: &str = "10.0.1.1";
pub(crate) const ROUTER6: &str = "2001:db8:1::1";
/// The host's.
pub(crate) const HOST4: &str = "10.0.1.2";
pub(crate) const HOST6: &str = "2001:db8:1::2";
/// What is announced.
pub(crate) const VIP4: &str = "192.0.2.1";
pub(crate) const VIP6: &str = "2001:db8::1";

/// Namespaces, links and addresses; dropping it takes them away.
pub(crate) struct Fabric {
    name: String,
    runtime: Runtime,
    pub(crate) router: Place,
    switch: Place,
    pub(crate) host: Place,
    /// One fabric at a time: tests that measure milliseconds must not measure each other.
    _alone: MutexGuard<'static, ()>,
}

impl Fabric {
    /// `None`, with a word about it, where it cannot be built.
    pub(crate) fn build(test: &str) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: {test}: namespaces need root");
            return None;
        }
        if !(available(BIRD, test) && available(BGPD, test)) {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("weir-f{}x{}-", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (router, switch, host) = runtime.block_on(async {
            let router = Place::create(&format!("{name}r")).unwrap();
            let switch = Place::create(&format!("{name}s")).unwrap();
            let host = Place::create(&format!("{name}h")).unwrap();
            for place in [&router, &host] {
                let settings =
                    [("ipv6/conf/default/accept_dad", "0"), ("ipv6/conf/default/keep_addr_on_down", "1")];
                place.netns.sysctl(&settings).unwrap();
                place.set_up("lo").await.unwrap();
            }
            router.veth("sw0", &switch, "tor", MTU).await.unwrap();
            host.veth("eth0", &switch, "host", MTU).await.unwrap();
            let address = |text: &str| text.parse::<IpAddr>().unwrap();
            router.address("sw0", &[(address(ROUTER4), 24), (address(ROUTER6), 64)]).await.unwrap();
            host.address("eth0", &[(address(HOST4), 24), (address(HOST6), 64)]).await.unwrap();
            (router, switch, host)
        });
        let fabric = Self { name, runtime, router, switch, host, _alone: alone };
        fabric.ip_in(&fabric.switch, "link add br0 type bridge");
        for port in ["tor", "host"] {
            fabric.ip_in(&fabric.switch, &format!("link set {port} master br0"));
        }
        fabric.ip_in(&fabric.switch, "link set br0 up");
        Some(fabric)
    }

    /// `ip` with these arguments in the namespace of a place.
    pub(crate) fn ip_in(&self, place: &Place, arguments: &str) -> String {
        output(Command::new("ip").args(["-n", place.netns.name()]).args(arguments.split(' '))).unwrap()
    }

    /// The host's port of the switch goes down, or up again. The router's link stays up. Returns the moment before.
    pub(crate) fn host_link(&self, up: bool) -> Instant {
        let begun = Instant::now();
        self.runtime.block_on(self.switch.set_link("host", up)).unwrap();
        begun
    }

    /// weir-bgp on the host.
    pub(crate) fn agent(&self, config: &str) -> Agent {
        let netns = self.host.netns.fd();
        Agent::start_with(config, "n1", |command| sys::confine(command, netns))
    }

    /// Whether the router's kernel routes the VIPs to the host.
    pub(crate) fn routed(&self) -> (bool, bool) {
        let route = |family: &str, vip: &str| {
            self.ip_in(&self.router, &format!("{family} route show {vip}")).contains("via")
        };
        (route("-4", VIP4), route("-6", VIP6))
    }

    /// Wait until it does for both, or for neither.
    pub(crate) fn until_routed(&self, expected: bool) {
        until("routes in the router's kernel", || {
            let seen = self.routed();
            if seen == (expected, expected) { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for name in netns::names(&self.name) {
            netns::remove(&name);
        }
    }
}

/// Hears when routes come to and leave a kernel table.
pub(crate) struct RouteMonitor(OwnedFd);

impl RouteMonitor {
    pub(crate) fn new(netns: &NetNs) -> Self {
        const RTMGRP_IPV4_ROUTE: u32 = 0x40;
        let fd = netns.run(|| {
            let fd = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkRoute,
            )?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_IPV4_ROUTE))?;
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(1))?;
            Ok(fd)
        });
        Self(fd.unwrap())
    }

    /// The moment the route to [`VIP4`] is gone, or `None` after `limit`.
    pub(crate) fn until_gone(&self, limit: Duration) -> Option<Instant> {
        const RTM_DELROUTE: u8 = 25;
        self.until(RTM_DELROUTE, limit)
    }

    /// The moment it is there, or there anew.
    pub(crate) fn until_there(&self, limit: Duration) -> Option<Instant> {
        const RTM_NEWROUTE: u8 = 24;
        self.until(RTM_NEWROUTE, limit)
    }

    fn until(&self, message_type: u8, limit: Duration) -> Option<Instant> {
        let vip = VIP4.parse::<Ipv4Addr>().unwrap().octets();
        let begun = Instant::now();
        let mut buffer = [0; 4096];
        while begun.elapsed() < limit {
            let Ok(len) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { continue };
            let message = &buffer[..len];
            if message.get(4) == Some(&message_type) && message.windows(4).any(|window| window == vip) {
                return Some(Instant::now());
            }
        }
        None
    }
}

/// Timers of one side of BFD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timers {
    pub(crate) interval_ms: u32,
    pub(crate) multiplier: u8,
}

/// A BIRD that watches the host on both families.
pub(crate) fn bird(fabric: &Fabric, Timers { interval_ms, multiplier }: Timers) -> Bird {
    let bfd = format!(
        "interface \"sw0\" {{ interval {interval_ms} ms; multiplier {multiplier}; idle tx interval 200 ms; }};"
    );
    Bird::launch(&bird_protocols(&bfd, "bfd on;"), Some(&fabric.router.netns))
}

/// `bfd` goes into the BFD protocol, `options` into each BGP protocol.
pub(crate) fn bird_protocols(bfd: &str, options: &str) -> String {
    let session = |name: &str, neighbor: &str| {
        format!(
            "protocol bgp {name} {{ local as 65000; neighbor {neighbor} as 65001; direct; passive; hold time 90; \
             error wait time 1, 1; {options} ipv4 {{ import all; export none; extended next hop; }}; \
             ipv6 {{ import all; export none; }}; }}\n"
        )
    };
    format!(
        "protocol device {{ scan time 5; }}\n\
         protocol direct {{ ipv4; ipv6; }}\n\
         protocol kernel k4 {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths yes; }}\n\
         protocol kernel k6 {{ ipv6 {{ import none; export where source = RTS_BGP; }}; merge paths yes; }}\n\
         protocol bfd bfd1 {{ {bfd} }}\n{}{}",
        session("weir", HOST4),
        session("weir6", HOST6)
    )
}

/// FRR's zebra, bgpd and bfdd, watching the host on both families.
pub(crate) fn frr(fabric: &Fabric, timers: Timers) -> Frr {
    frr_of(fabric, Some(timers))
}

/// The same without timers: nobody watches the host.
pub(crate) fn frr_of(fabric: &Fabric, timers: Option<Timers>) -> Frr {
    let neighbors: String = [HOST4, HOST6]
        .iter()
        .map(|host| {
            let bfd = format!(" neighbor {host} bfd\n neighbor {host} bfd profile fast\n");
            format!(
                " neighbor {host} remote-as 65001\n neighbor {host} timers connect 1\n neighbor {host} passive\n{}",
                if timers.is_some() { bfd.as_str() } else { "" }
            )
        })
        .collect();
    let activate: String =
        [HOST4, HOST6].iter().map(|host| format!("  neighbor {host} activate\n")).collect();
    let bgpd = format!(
        "router bgp 65000\n bgp router-id 10.0.0.1\n no bgp ebgp-requires-policy\n \
         no bgp default ipv4-unicast\n timers bgp 30 90\n{neighbors} \
         address-family ipv4 unicast\n{activate} exit-address-family\n \
         address-family ipv6 unicast\n{activate} exit-address-family\n"
    );
    let mut frr = Frr::new(Some(&fabric.router.netns));
    let zebra = frr.path("zserv.api");
    frr.launch("zebra", "", &["-z", &zebra]);
    if let Some(timers) = timers {
        frr_bfdd(&mut frr, timers);
    }
    frr.launch("bgpd", &bgpd, &["-z", &zebra]);
    frr
}

/// FRR's bfdd, at first or again.
pub(crate) fn frr_bfdd(frr: &mut Frr, Timers { interval_ms, multiplier }: Timers) {
    let config = format!(
        "bfd\n profile fast\n  detect-multiplier {multiplier}\n  receive-interval {interval_ms}\n  \
         transmit-interval {interval_ms}\n"
    );
    let (zebra, control) = (frr.path("zserv.api"), frr.path("bfdd.sock"));
    frr.launch("bfdd", &config, &["-z", &zebra, "--bfdctl", &control]);
}

/// Objects of the host: a peer on each family, with these further fields.
pub(crate) fn config(peer: &str) -> String {
    let peer_object = |name: &str, address: &str| {
        format!(
            "[peer.{name}]\nnode = \"n1\"\naddress = \"{address}\"\nasn = 65000\nlocal_asn = 65001\n\
             hold_time = \"90s\"\nconnect_retry = \"200ms\"\n{peer}\n"
        )
    };
    format!(
        r#"
[zone.z1]
[node.n1]
zone = "z1"
address = "{HOST4}"
address6 = "{HOST6}"
[group.g]
nodes = ["n1"]
[vip.web]
addresses = ["{VIP4}", "{VIP6}"]
group = "g"
services = ["tcp/80"]
announce = {{ mode = "always" }}
{}{}"#,
        peer_object("tor", ROUTER4),
        peer_object("tor6", ROUTER6)
    )
}

/// As [`config`], with BFD of these timers.
pub(crate) fn config_with(Timers { interval_ms, multiplier }: Timers) -> String {
    config(&format!("bfd = {{ interval = \"{interval_ms}ms\", multiplier = {multiplier} }}"))
}

/// One that eats a CPU until dropped.
pub(crate) fn burner() -> Process {
    Process(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
}
