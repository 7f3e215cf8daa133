//! How large the segments are that clients are allowed to send.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::SockRef;
use weir_abi::gue::OVERHEAD_LEN_BYTES_MAX;
use weir_runtime::steer::{Client, Entry, Registration, SOCKET};
use weir_tests::rig::{Rig, Role, VIP4, VIP6, config};

const PORT: u16 = 80;
/// What timestamps take of each segment (RFC 7323 §3.2, padded).
const TIMESTAMPS_LEN_BYTES: u32 = 12;

/// Both VIPs' listeners on a host, as a proxy has them: on the loopback address, and steered to.
fn proxy(rig: &Rig, host: usize) -> (Client, Vec<TcpListener>) {
    let vips = [
        (IpAddr::V4(VIP4), IpAddr::V4(Ipv4Addr::LOCALHOST)),
        (IpAddr::V6(VIP6), IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    let (listeners, entries) = rig.hosts[host]
        .netns
        .run(|| {
            let (mut listeners, mut entries) = (Vec::new(), Vec::new());
            for (vip, own) in vips {
                let listener = TcpListener::bind(SocketAddr::new(own, 0))?;
                listener.set_nonblocking(true)?;
                let service = format!("tcp/{PORT}").try_into().map_err(std::io::Error::other)?;
                let registration = Registration { address: vip, service };
                let socket = Arc::new(listener.try_clone()?.into());
                entries.push(Entry { registration, socket });
                listeners.push(listener);
            }
            Ok((listeners, entries))
        })
        .expect("listeners");
    let client = Client::start(&rig.run_dir(host).join(SOCKET));
    client.want(entries);
    (client, listeners)
}

async fn set_mtu(rig: &Rig, mtu: u32) {
    for host in &rig.hosts {
        host.set_mtu("eth0", mtu).await.expect("mtu");
    }
}

/// Connects until a client of each family sends segments of that many bytes.
fn until_segments_have(rig: &Rig, listeners: &[Vec<TcpListener>], v4: u32, v6: u32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    for (vip, wanted) in [(IpAddr::V4(VIP4), v4), (IpAddr::V6(VIP6), v6)] {
        // In a row, so that both hosts were among those who said so.
        let mut in_a_row = 0;
        while in_a_row < 12 {
            let seen = rig
                .connect(SocketAddr::new(vip, PORT))
                .and_then(|stream| Ok(SockRef::from(&stream).tcp_mss()? + TIMESTAMPS_LEN_BYTES));
            // Nobody reads them; they must not fill the queues.
            listeners.iter().flatten().for_each(|listener| while listener.accept().is_ok() {});
            match seen {
                Ok(bytes) if bytes == wanted => in_a_row += 1,
                seen => {
                    assert!(Instant::now() < deadline, "{vip}: {seen:?}, wanted {wanted}\n{}", rig.log(0));
                    in_a_row = 0;
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn clients_are_told_what_fits_into_tunnels_and_whatever_an_operator_says() {
    let config = config().replace("\"udp/53\"", "\"udp/53\", \"tcp/80\"");
    let rig = Rig::with(&[Role::Node, Role::Node], &config).await.expect("rig");
    let (clients, listeners): (Vec<_>, Vec<_>) = (0..2).map(|host| proxy(&rig, host)).unzip();
    let of_packet = |bytes: u32| (bytes - OVERHEAD_LEN_BYTES_MAX - 40, bytes - OVERHEAD_LEN_BYTES_MAX - 60);
    set_mtu(&rig, 1_500).await;
    let (v4, v6) = of_packet(1_500);
    until_segments_have(&rig, &listeners, v4, v6);
    // The same listeners, while they listen.
    set_mtu(&rig, 1_450).await;
    let (v4, v6) = of_packet(1_450);
    until_segments_have(&rig, &listeners, v4, v6);
    let say = |clamp: &str| rig.configure("rig.toml", &format!("{config}\nmss_clamp = {clamp}\n"));
    say("1000").expect("configure");
    until_segments_have(&rig, &listeners, 1_000, 1_000);
    say("\"off\"").expect("configure");
    until_segments_have(&rig, &listeners, 1_410, 1_390);
    for client in clients {
        let registered = client.registered();
        assert!(registered.borrow().values().all(Result::is_ok), "{:?}", registered.borrow());
    }
}
