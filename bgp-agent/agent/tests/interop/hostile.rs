//! weir-bgp and a peer of our own that does what no good router does: sends a full table, sends too much, does not read.

use crate::bench::{AGENT, Agent, Site, peer, until};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use weir_bgp::{
    Capabilities, EXTENDED_MESSAGE_MAX, Families, Frame, MessageType, Open, Reader, Route, UpdateContext,
    encode_announce, encode_keepalive,
};

/// A connection to the agent with an established session on it.
struct Fake {
    stream: TcpStream,
    reader: Reader,
}

impl Fake {
    fn connect(site: &Site) -> Self {
        let at: SocketAddr = format!("{AGENT}:{}", site.agent_port).parse().unwrap();
        let stream = until("the agent listens", || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            // A small window, so that what is not read soon holds up the sender.
            socket.set_recv_buffer_size(4096).unwrap();
            match socket.connect(&at.into()) {
                Ok(()) => Ok(TcpStream::from(socket)),
                Err(error) => Err(error.to_string()),
            }
        });
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut reader = Reader::default();
        reader.allow_extended();
        let mut fake = Self { stream, reader };
        let open = Open {
            asn: 65000,
            hold_time_s: 90,
            bgp_id: Ipv4Addr::new(10, 0, 0, 1),
            capabilities: Capabilities {
                families: Some(Families::BOTH),
                four_octet_as: true,
                extended_message: true,
                ..Capabilities::default()
            },
        };
        fake.stream.write_all(&open.encode()).unwrap();
        assert_eq!(fake.read().message_type, MessageType::Open);
        fake.stream.write_all(&encode_keepalive()).unwrap();
        assert_eq!(fake.read().message_type, MessageType::Keepalive);
        fake
    }

    fn read(&mut self) -> Frame {
        let mut buffer = vec![0; EXTENDED_MESSAGE_MAX];
        loop {
            if let Some(frame) = self.reader.next_frame().unwrap() {
                return frame;
            }
            let len = self.stream.read(&mut buffer).unwrap();
            assert!(len > 0, "the agent closed the connection");
            self.reader.push(&buffer[..len]);
        }
    }
}

/// UPDATEs of `count` IPv4 prefixes from 16.0.0.0/24 on, as long as an ordinary message allows.
fn table(count: u32) -> Vec<u8> {
    let context = UpdateContext { local_asn: 65000, four_octet_as: true, ..UpdateContext::default() };
    let route = Route::new("10.0.0.1".parse::<IpAddr>().unwrap()).with_med(Some(1));
    let mut bytes = Vec::new();
    let prefixes: Vec<ipnet::IpNet> = (0..count)
        .map(|n| ipnet::IpNet::new(IpAddr::V4(Ipv4Addr::from(0x1000_0000 + (n << 8))), 24).unwrap())
        .collect();
    for chunk in prefixes.chunks(900) {
        bytes.extend_from_slice(&encode_announce(context, &route, chunk).unwrap());
    }
    bytes
}

#[test]
fn a_full_table_of_the_peer_costs_neither_the_session_nor_memory() {
    const PREFIXES: u32 = 1_000_000;
    let site = Site { peer: "passive = true\nkeep_received = true", ..Site::new() };
    let agent = Agent::start(&site.config());
    let mut fake = Fake::connect(&site);
    agent.until_established();
    let before = agent.resident_kib();
    let table = table(PREFIXES);
    let begun = Instant::now();
    fake.stream.write_all(&table).unwrap();
    let status =
        agent.until("all of it is counted", |status| peer(status).prefixes_received == u64::from(PREFIXES));
    let took = begun.elapsed();
    let grown = agent.resident_kib().saturating_sub(before);
    eprintln!("{PREFIXES} prefixes in {} bytes: {took:?}, {grown} KiB more", table.len());
    assert_eq!((peer(&status).state.as_str(), peer(&status).established_count), ("Established", 1));
    assert_eq!(peer(&status).received.len(), 64);
    assert_eq!(peer(&status).received[63], "31.66.63.0/24");
    assert!(grown < 8 << 10, "{grown} KiB more");
    assert_eq!(peer(&status).announced.len(), 2, "and ours are where they were");
}

#[test]
fn a_peer_beyond_its_bound_is_told_so_and_may_come_back_after_the_pause() {
    let more = "passive = true\nmax_prefixes_received = 1000\nmax_prefixes_pause = \"2s\"";
    let site = Site { peer: more, ..Site::new() };
    let agent = Agent::start(&site.config());
    let mut fake = Fake::connect(&site);
    agent.until_established();
    fake.stream.write_all(&table(1000)).unwrap();
    agent.until("the bound is kept", |status| peer(status).prefixes_received == 1000);
    fake.stream.write_all(&table(1001)).unwrap();
    let notification = loop {
        let frame = fake.read();
        if frame.message_type == MessageType::Notification {
            break frame.body;
        }
    };
    assert_eq!(notification[..], [6, 1, 0, 1, 1, 0, 0, 3, 0xe8], "Cease/1, IPv4 unicast, 1000");
    let begun = Instant::now();
    let status = agent.until("the session is down", |status| peer(status).state != "Established");
    assert!(peer(&status).last_error.contains("more than 1000 prefixes"), "{}", peer(&status).last_error);
    assert!(peer(&status).last_sent.contains("maximum number of prefixes"), "{}", peer(&status).last_sent);
    agent.until("the pause is over", |status| peer(status).state == "Active");
    assert!(begun.elapsed() > Duration::from_millis(1500), "{:?}", begun.elapsed());
    let _again = Fake::connect(&site);
    agent.until_established();
}

#[test]
fn a_peer_that_does_not_read_is_given_up_after_the_send_hold_time() {
    // More than the buffers of both kernels hold: 4,000 routes, and each change sends them all again.
    let addresses: Vec<String> = (0..4000u32).map(|n| Ipv4Addr::from(0xc612_0000 + n).to_string()).collect();
    let addresses: Vec<&'static str> = addresses.into_iter().map(|text| &*text.leak()).collect();
    let more = "passive = true\nhold_time = \"3s\"\nsend_hold_time = \"4s\"\nmed = 0";
    let mut site = Site { peer: more, addresses, ..Site::new() };
    let agent = Agent::start(&site.config());
    let fake = Fake::connect(&site);
    agent.until_established();
    // It goes on talking, so that only what it does not read can end the session.
    let mut stream = fake.stream.try_clone().unwrap();
    let talker = std::thread::spawn(move || {
        while stream.write_all(&encode_keepalive()).is_ok() {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut med = 0;
    let status = loop {
        med += 1;
        let text = format!("passive = true\nhold_time = \"3s\"\nsend_hold_time = \"4s\"\nmed = {med}");
        site.peer = text.leak();
        agent.configure(&site.config());
        std::thread::sleep(Duration::from_millis(50));
        let status = agent.status().unwrap();
        if peer(&status).last_error.contains("send hold timer") {
            break status;
        }
        assert!(Instant::now() < deadline, "never given up: {status:?}");
    };
    assert!(
        peer(&status).last_error.contains("we sent send hold timer expired (8/0)"),
        "{}",
        peer(&status).last_error
    );
    fake.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    fake.stream.shutdown(std::net::Shutdown::Both).unwrap();
    talker.join().unwrap();
    assert!(agent.resident_kib() < 100 << 10);
}

#[test]
fn routes_beyond_the_bound_are_refused_and_said_so() {
    let site = Site {
        peer: "passive = true\nmax_routes = 2",
        addresses: vec!["192.0.2.1", "192.0.2.2", "192.0.2.3"],
        ..Site::new()
    };
    let agent = Agent::start(&site.config());
    let _fake = Fake::connect(&site);
    let status = agent.until("two of three", |status| peer(status).announced.len() == 2);
    let refused = peer(&status).refused;
    assert_eq!(
        refused.get("192.0.2.3/32").map(String::as_str),
        Some("more routes than max_routes"),
        "{refused:?}"
    );
    assert!(agent.log().contains("route refused"), "{}", agent.log());
    assert!(agent.metrics().contains("weir_bgp_peer_prefixes_refused{peer=\"tor\"} 1\n"));
}

#[test]
fn what_is_sent_is_written_to_the_mrt_file() {
    let site = Site { peer: "passive = true", ..Site::new() };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bgp.mrt");
    let agent = Agent::start_with(&site.config(), "n1", |command| {
        command.arg("--mrt").arg(&path);
    });
    let mut fake = Fake::connect(&site);
    agent.until("both are sent", |status| peer(status).announced.len() == 2);
    // OPEN, KEEPALIVE, two routes, two End-of-RIB.
    let mut updates = Vec::new();
    while updates.len() < 4 {
        let frame = fake.read();
        if frame.message_type == MessageType::Update {
            updates.push(frame.body);
        }
    }
    until("they are in the file", || {
        let bytes = std::fs::read(&path).map_err(|error| error.to_string())?;
        let mut rest = &bytes[..];
        let mut recorded = Vec::new();
        while let Some((header, after)) = rest.split_first_chunk::<12>() {
            let len = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
            let (record, after) = after.split_at_checked(len).ok_or("half a record")?;
            assert_eq!(header[4..8], [0, 17, 0, 7], "BGP4MP_ET, MESSAGE_AS4_LOCAL");
            // µs, two AS of 4, interface, family, two addresses of 4, then the message.
            assert_eq!(record[4..12], [0, 0, 0xfd, 0xe8, 0, 0, 0xfd, 0xe9]);
            let message = &record[24..];
            if message[18] == 2 {
                recorded.push(message[19..].to_vec());
            }
            rest = after;
        }
        if recorded == updates { Ok(()) } else { Err(format!("{recorded:?}")) }
    });
}
