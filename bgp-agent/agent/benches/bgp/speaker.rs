//! The smallest BGP speaker: one blocking session, prepared UPDATEs out, the moments of UPDATEs in. As the host it is the
//! floor, for nobody can tell a router less; as the router it says when something has come over the wire.
//!
//! It offers a hold time of 0, so that nobody owes anybody a KEEPALIVE.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use weir_bgp::{
    Capabilities, Families, Family, MessageType, Open, Reader, ReceiveContext, Route, UpdateContext,
    decode_update, encode_announce, encode_keepalive, encode_withdraw,
};
use weir_lab::netns::NetNs;

use crate::bench::until;
use crate::bfd_fabric::{HOST4, ROUTER4};

/// A message that has not come by then does not come.
const LIMIT: Duration = Duration::from_secs(60);

/// Prefixes of one message: 5 bytes each, beside a header and a few attributes in 4,096.
const PREFIXES_MAX: usize = 780;

const CONTEXT: UpdateContext = UpdateContext {
    local_asn: 65001,
    ibgp: false,
    four_octet_as: true,
    extended_message: false,
    extended_next_hop: false,
    only_to_customer: false,
};

/// One established session.
pub(crate) struct Speaker {
    stream: TcpStream,
    reader: Reader,
}

/// The router's end, before the host has called.
pub(crate) struct Door(TcpListener);

impl Door {
    pub(crate) fn open(router: &NetNs) -> Self {
        Self(router.run(|| Ok(TcpListener::bind((ROUTER4, 179))?)).unwrap())
    }

    /// The session of the next caller that comes through.
    pub(crate) fn session(&self) -> Speaker {
        until("a session as the router", || {
            let (stream, _) = self.0.accept().map_err(|error| error.to_string())?;
            Speaker::begin(stream, 65000, Ipv4Addr::new(10, 0, 0, 1)).map_err(|error| format!("{error:#}"))
        })
    }
}

impl Speaker {
    /// A session from the host to the router, which may need a while to forget the one before.
    pub(crate) fn call(host: &NetNs) -> Self {
        until("a session as the host", || {
            let stream = host.run(|| Ok(TcpStream::connect((ROUTER4, 179))?));
            let session = stream.and_then(|stream| Self::begin(stream, 65001, HOST4.parse()?));
            session.map_err(|error| format!("{error:#}"))
        })
    }

    fn begin(stream: TcpStream, asn: u32, bgp_id: Ipv4Addr) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let capabilities =
            Capabilities { families: Some(Families::IPV4), four_octet_as: true, ..Capabilities::default() };
        let mut speaker = Self { stream, reader: Reader::default() };
        speaker.send(&[Open { asn, hold_time_s: 0, bgp_id, capabilities }.encode(), encode_keepalive()])?;
        loop {
            let (_, messages) = speaker.receive()?;
            ensure!(
                messages.iter().all(|(kind, _)| *kind != MessageType::Notification),
                "refused: {messages:?}"
            );
            // What comes right behind it, in the same read, is an End-of-RIB.
            if messages.iter().any(|(kind, _)| *kind == MessageType::Keepalive) {
                return Ok(speaker);
            }
        }
    }

    /// Write messages, as one.
    pub(crate) fn send(&mut self, messages: &[Bytes]) -> Result<()> {
        self.stream.write_all(&messages.concat()).context("write")
    }

    /// What one read brings, and when it did.
    fn receive(&mut self) -> Result<(Instant, Vec<(MessageType, Bytes)>)> {
        let mut buffer = [0; 64 << 10];
        let len = self.stream.read(&mut buffer).context("read")?;
        let at = Instant::now();
        ensure!(len > 0, "closed by the other side");
        self.reader.push(&buffer[..len]);
        let mut messages = Vec::new();
        while let Some(frame) = self.reader.next_frame().map_err(|error| anyhow::anyhow!("{error}"))? {
            messages.push((frame.message_type, frame.body));
        }
        Ok((at, messages))
    }
}

/// The router's end, which a thread reads: one that waits for nothing else, as a router's does.
pub(crate) struct Listening(Receiver<Heard>);

/// What one read brought.
struct Heard {
    at: Instant,
    announced: usize,
    withdrawn: usize,
}

impl Listening {
    /// Until the session ends, or this is dropped.
    pub(crate) fn to(mut speaker: Speaker) -> Self {
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            while let Ok((at, messages)) = speaker.receive() {
                let mut heard = Heard { at, announced: 0, withdrawn: 0 };
                for (_, body) in messages.iter().filter(|(kind, _)| *kind == MessageType::Update) {
                    let report = decode_update(body, ReceiveContext::default(), |_, _| ()).unwrap();
                    heard.announced += report.announced;
                    heard.withdrawn += report.withdrawn;
                }
                if said.send(heard).is_err() {
                    break;
                }
            }
        });
        Self(heard)
    }

    /// The moment at which so many prefixes more had been announced (or withdrawn), and not one of the contrary.
    pub(crate) fn until(&self, announced: bool, count: usize) -> Instant {
        let mut seen = (0, 0);
        loop {
            let heard = self.0.recv_timeout(LIMIT).expect("the session is up and something comes");
            seen = (seen.0 + heard.announced, seen.1 + heard.withdrawn);
            if seen == (if announced { (count, 0) } else { (0, count) }) {
                return heard.at;
            }
            assert!(if announced { seen.1 == 0 } else { seen.0 == 0 }, "{seen:?}");
        }
    }
}

/// Messages that announce host routes to these addresses by way of the host.
pub(crate) fn announcement(addresses: &[Ipv4Addr]) -> Vec<Bytes> {
    let route = Route::new(HOST4.parse().unwrap());
    chunks(addresses).map(|prefixes| encode_announce(CONTEXT, &route, &prefixes).unwrap()).collect()
}

/// Messages that withdraw them.
pub(crate) fn withdrawal(addresses: &[Ipv4Addr]) -> Vec<Bytes> {
    chunks(addresses).map(|prefixes| encode_withdraw(CONTEXT, Family::Ipv4, &prefixes).unwrap()).collect()
}

fn chunks(addresses: &[Ipv4Addr]) -> impl Iterator<Item = Vec<ipnet::IpNet>> {
    let prefix = |address: &Ipv4Addr| ipnet::IpNet::from(std::net::IpAddr::V4(*address));
    addresses.chunks(PREFIXES_MAX).map(move |chunk| chunk.iter().map(prefix).collect())
}
