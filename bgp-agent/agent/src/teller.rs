//! Tells the other nodes of our groups what we announce, and hears what they do: UDP between the nodes' own addresses.
//!
//! A datagram is JSON, `{"node": "n1", "vips": {"web": "announced"}}`, as many as it takes. It is believed when it comes from an address
//! of the node it names, which suits a fabric whose edges let nobody claim one. With `group.announcers_key` it is signed (`seal`), and
//! of that group's VIPs nothing else is believed. Lost ones do no harm: all is said again every
//! second, ten times a second while we would withdraw, and at once when it changes or somebody else would withdraw.
//! What follows from it is decided in [`crate::announce`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};
use weir_model::{Group, Name, Node, Snapshot};
use weir_runtime::metrics::Counter;

use crate::announce::Stance;
use crate::secrets::Secrets;

mod seal;

/// From one round to the next,
const INTERVAL: Duration = Duration::from_secs(1);
/// while we would withdraw something,
const INTERVAL_LEAVING: Duration = Duration::from_millis(100);
/// and between answers to others who would.
const ANSWER_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of VIPs in one datagram: it fits into any frame.
const VIPS_LEN_MAX: usize = 1_000;
/// Bytes of a datagram we take.
const DATAGRAM_LEN_MAX: usize = 2_048;
/// Datagrams that wait to be looked at; more are dropped and counted, and come again.
const QUEUE_MAX: usize = 256;

/// What a node says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) node: Name,
    pub(crate) vips: BTreeMap<Name, Stance>,
    /// When it was said, in µs since 1970, where it is signed: what is said again by somebody else is older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
}

/// Speaks and listens.
pub(crate) struct Teller {
    node: Name,
    /// Each with a second descriptor to send by: the runtime's own is taken for unwritable until it has been looked at.
    sockets: BTreeMap<SocketAddr, (std::net::UdpSocket, JoinHandle<()>)>,
    heard: mpsc::Receiver<(Vec<u8>, IpAddr)>,
    hears: mpsc::Sender<(Vec<u8>, IpAddr)>,
    secrets: Secrets,
    /// The newest signed word of each node; bounded by the nodes there are.
    newest: BTreeMap<Name, u64>,
    /// Of ours: every datagram has a moment of its own.
    said_at: u64,
    refused: Counter,
    /// What was said last, and when.
    told: BTreeMap<Name, Stance>,
    told_at: Option<Instant>,
    /// Somebody would withdraw, and wants to know who stays.
    is_asked: bool,
    complained: BTreeSet<SocketAddr>,
}

impl Teller {
    /// Nobody is told anything yet. `refused` counts datagrams that are not believed, or too many.
    pub(crate) fn new(node: Name, refused: Counter) -> Self {
        let (hears, heard) = mpsc::channel(QUEUE_MAX);
        Self {
            node,
            sockets: BTreeMap::new(),
            heard,
            hears,
            secrets: Secrets::default(),
            newest: BTreeMap::new(),
            said_at: 0,
            refused,
            told: BTreeMap::new(),
            told_at: None,
            is_asked: false,
            complained: BTreeSet::new(),
        }
    }

    /// What somebody says of VIPs; only what is believed. Cancel safe.
    pub(crate) async fn next(&mut self, snapshot: &Snapshot) -> Said {
        loop {
            let Some((datagram, from)) = self.heard.recv().await else {
                // We hold a sender ourselves.
                return std::future::pending().await;
            };
            if let Some(said) = self.take(snapshot, &datagram, from) {
                return said;
            }
        }
    }

    /// The same, of what has come already; at most [`QUEUE_MAX`] times, for nothing comes while nobody waits.
    pub(crate) fn waiting(&mut self, snapshot: &Snapshot) -> Option<Said> {
        while let Ok((datagram, from)) = self.heard.try_recv() {
            if let Some(said) = self.take(snapshot, &datagram, from) {
                return Some(said);
            }
        }
        None
    }

    /// What a datagram says, if it is news and is believed.
    fn take(&mut self, snapshot: &Snapshot, datagram: &[u8], from: IpAddr) -> Option<Said> {
        // Not news: said again, or overtaken on the way.
        let said = self.believe(snapshot, datagram, from).unwrap_or_else(|why| {
            debug!(%from, why, "not believed");
            self.refused.add(1);
            None
        })?;
        self.is_asked |= said.vips.values().any(|stance| *stance == Stance::Leaving);
        Some(said)
    }

    /// What of a datagram is believed; `None` when it is not news.
    fn believe(
        &mut self,
        snapshot: &Snapshot,
        datagram: &[u8],
        from: IpAddr,
    ) -> Result<Option<Said>, &'static str> {
        let sealed = seal::open(datagram);
        let mut said: Said = serde_json::from_slice(sealed.text).map_err(|_| "not JSON")?;
        let node = snapshot.nodes.get(&said.node).filter(|_| said.node != self.node);
        if !node.is_some_and(|node| addresses(node).any(|address| address == from)) {
            return Err("from no address of that node");
        }
        let fits: BTreeSet<&Name> = groups(snapshot, &self.node)
            .filter(|(_, group)| group.nodes.contains(&said.node))
            .filter(|(_, group)| self.secrets.key_of(group).is_ok_and(|key| sealed.fits(key.as_ref())))
            .map(|(name, _)| name)
            .collect();
        if fits.is_empty() {
            return Err("no group of both of us, or not signed with its key");
        }
        if sealed.is_signed() {
            let at = said.at.filter(|at| at.abs_diff(now_us()) < seal::AGE_MAX.as_micros() as u64);
            let at = at.ok_or("signed too long ago, or by another clock")?;
            if self.newest.get(&said.node).is_some_and(|newest| at <= *newest) {
                return Ok(None);
            }
            self.newest.insert(said.node.clone(), at);
        }
        said.vips.retain(|vip, _| snapshot.vips.get(vip).is_some_and(|vip| fits.contains(&vip.group)));
        Ok(Some(said))
    }

    /// Tells everybody, if it is due; returns when it is next.
    pub(crate) fn tell(
        &mut self,
        snapshot: &Snapshot,
        stances: BTreeMap<Name, Stance>,
        now: Instant,
    ) -> Instant {
        self.listen(snapshot);
        self.secrets.read_keys(snapshot.groups.values());
        self.newest.retain(|node, _| snapshot.nodes.contains_key(node));
        let is_leaving = stances.values().any(|stance| *stance == Stance::Leaving);
        let pause = match (self.is_asked, is_leaving) {
            (true, _) => ANSWER_PAUSE,
            (false, true) => INTERVAL_LEAVING,
            (false, false) => INTERVAL,
        };
        match self.told_at.map(|at| at + pause) {
            Some(due) if due > now && stances == self.told => due,
            _ => {
                self.say(snapshot, &stances);
                (self.told, self.told_at, self.is_asked) = (stances, Some(now), false);
                now + if is_leaving { INTERVAL_LEAVING } else { INTERVAL }
            }
        }
    }

    /// The last word: we announce nothing any more.
    pub(crate) fn farewell(&mut self, snapshot: &Snapshot) {
        let gone = self.told.keys().map(|vip| (vip.clone(), Stance::Withdrawn)).collect();
        self.say(snapshot, &gone);
    }

    fn say(&mut self, snapshot: &Snapshot, stances: &BTreeMap<Name, Stance>) {
        for (name, group) in groups(snapshot, &self.node) {
            let of_group = stances
                .iter()
                .filter(|(vip, _)| snapshot.vips.get(*vip).is_some_and(|vip| vip.group == *name));
            let Ok(key) = self.secrets.key_of(group) else {
                // Unsigned nobody would believe it.
                continue;
            };
            let mut datagrams = Vec::new();
            for mut said in parts(&self.node, of_group) {
                if key.is_some() {
                    self.said_at = now_us().max(self.said_at + 1);
                    said.at = Some(self.said_at);
                }
                // Names and words: nothing in it can fail to become JSON.
                let text = serde_json::to_vec(&said).ok();
                datagrams.extend(text.map(|text| seal::seal(text, key.as_ref())));
            }
            let others = group.nodes.iter().filter(|other| **other != self.node);
            for to in others.filter_map(|other| snapshot.nodes.get(other)).flat_map(addresses) {
                let to = SocketAddr::new(to, group.announcers_port);
                let from = self
                    .sockets
                    .iter()
                    .find(|(own, _)| own.is_ipv4() == to.is_ipv4() && own.port() == to.port());
                let Some((_, (socket, _))) = from else { continue };
                for datagram in &datagrams {
                    // Said again before long.
                    if let Err(error) = socket.send_to(datagram, to) {
                        debug!(%to, %error, "tell what is announced here");
                    }
                }
            }
        }
    }

    /// Listens on our own addresses and no others.
    fn listen(&mut self, snapshot: &Snapshot) {
        let own = || snapshot.nodes.get(&self.node).into_iter().flat_map(addresses);
        let wanted: BTreeSet<SocketAddr> = groups(snapshot, &self.node)
            .flat_map(|(_, group)| own().map(|address| SocketAddr::new(address, group.announcers_port)))
            .collect();
        self.sockets.retain(|address, (_, task)| {
            let stays = wanted.contains(address) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for address in wanted {
            if self.sockets.contains_key(&address) {
                continue;
            }
            let bound = std::net::UdpSocket::bind(address).and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok((UdpSocket::from_std(socket.try_clone()?)?, socket))
            });
            match bound {
                Ok((hears, socket)) => {
                    info!(%address, "hearing what the other nodes announce");
                    self.complained.remove(&address);
                    let task = tokio::spawn(hear(hears, self.hears.clone(), self.refused.clone()));
                    self.sockets.insert(address, (socket, task));
                }
                Err(error) if self.complained.insert(address) => {
                    warn!(%address, %error, "cannot hear the other nodes: what is announced stays announced");
                }
                Err(_) => {}
            }
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        for (_, task) in self.sockets.values() {
            task.abort();
        }
    }
}

/// Ends when the socket does.
async fn hear(socket: UdpSocket, heard: mpsc::Sender<(Vec<u8>, IpAddr)>, refused: Counter) {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, from)) => {
                if heard.try_send((buffer[..len].to_vec(), from.ip())).is_err() {
                    refused.add(1);
                }
            }
            // A node that is gone makes its host say so (ECONNREFUSED); nothing is wrong with the socket.
            Err(error) => {
                debug!(%error, "hear the other nodes");
                tokio::time::sleep(ANSWER_PAUSE).await;
            }
        }
    }
}

/// Groups of the node with others in them that want to know.
fn groups<'a>(snapshot: &'a Snapshot, node: &Name) -> impl Iterator<Item = (&'a Name, &'a Group)> {
    snapshot.groups.iter().filter(move |(_, group)| {
        group.announcers_port != 0 && group.nodes.len() > 1 && group.nodes.contains(node)
    })
}

fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> + use<> {
    node.address.map(IpAddr::V4).into_iter().chain(node.address6.map(IpAddr::V6))
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// As many datagrams as it takes.
fn parts<'a>(node: &Name, stances: impl Iterator<Item = (&'a Name, &'a Stance)>) -> Vec<Said> {
    let empty = || Said { node: node.clone(), vips: BTreeMap::new(), at: None };
    let mut all = Vec::new();
    let mut said = empty();
    let mut len = 0;
    for (vip, stance) in stances {
        // Quotes, colon, comma and the longest word.
        len += vip.as_str().len() + 16;
        if len > VIPS_LEN_MAX {
            all.push(std::mem::replace(&mut said, empty()));
            len = 0;
        }
        said.vips.insert(vip.clone(), *stance);
    }
    all.push(said);
    all.retain(|said| !said.vips.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use weir_model::SourceFile;
    use weir_runtime::metrics::Registry;

    const LIMIT: Duration = Duration::from_secs(10);

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// Two nodes on loopback addresses of their own, with more VIPs than fit into a datagram.
    fn snapshot(port: u16) -> Snapshot {
        let mut text = format!(
            "[zone.z1]\n[node.n1]\nzone = \"z1\"\naddress = \"127.77.0.1\"\n[node.n2]\nzone = \"z1\"\naddress = \"127.77.0.2\"\n\
             [group.g]\nnodes = [\"n1\", \"n2\"]\nannouncers_port = {port}\n"
        );
        for vip in 0..100 {
            text += &format!(
                "[vip.a-rather-long-name-{vip}]\naddresses = [\"192.0.2.{vip}\"]\ngroup = \"g\"\nservices = [\"udp/53\"]\n"
            );
        }
        Snapshot::read(&[SourceFile { path: "a.toml".into(), text }])
            .unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    fn free_port() -> u16 {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::new(127, 77, 0, 1), 0)).unwrap();
        socket.local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn nodes_hear_each_others_stances_and_believe_nobody_else() {
        let snapshot = snapshot(free_port());
        let registry = Registry::default();
        let teller = |node: &str| {
            Teller::new(name(node), registry.counter("refused_total", "Refused.", &[("node", node)]))
        };
        let (mut one, mut two) = (teller("n1"), teller("n2"));
        let stances: BTreeMap<Name, Stance> =
            snapshot.vips.keys().map(|vip| (vip.clone(), Stance::Announced)).collect();
        let now = Instant::now();
        two.tell(&snapshot, BTreeMap::new(), now);
        let due = one.tell(&snapshot, stances.clone(), now);
        assert_eq!(due, now + INTERVAL);
        let mut heard = BTreeMap::new();
        while heard.len() < stances.len() {
            let said = tokio::time::timeout(LIMIT, two.next(&snapshot)).await.unwrap();
            assert_eq!(said.node, name("n1"));
            heard.extend(said.vips);
        }
        assert_eq!(heard, stances);
        assert_eq!(one.tell(&snapshot, stances.clone(), now), due, "nothing changed: not before it is due");

        // Somebody else in the name of the other, and noise.
        let port = snapshot.groups[&name("g")].announcers_port;
        let stranger = std::net::UdpSocket::bind("127.77.0.3:0").unwrap();
        let lie = serde_json::to_vec(&Said { node: name("n1"), vips: stances.clone(), at: None }).unwrap();
        stranger.send_to(&lie, ("127.77.0.2", port)).unwrap();
        stranger.send_to(b"noise", ("127.77.0.2", port)).unwrap();
        // A wish to leave is answered well before the next round.
        let leaving = stances.keys().map(|vip| (vip.clone(), Stance::Leaving)).collect();
        assert_eq!(one.tell(&snapshot, leaving, now), now + INTERVAL_LEAVING);
        two.told_at = Some(now);
        loop {
            let said = tokio::time::timeout(LIMIT, two.next(&snapshot)).await.unwrap();
            if said.vips.values().all(|stance| *stance == Stance::Leaving) {
                break;
            }
            assert_ne!(said.vips.len(), stances.len(), "the lie was believed");
        }
        assert_eq!(two.tell(&snapshot, BTreeMap::new(), now), now + ANSWER_PAUSE);
        let refused = || registry.render().contains("refused_total{node=\"n2\"} 2");
        let deadline = Instant::now() + LIMIT;
        while !refused() {
            assert!(Instant::now() < deadline, "{}", registry.render());
            let _nothing_more = tokio::time::timeout(Duration::from_millis(10), two.next(&snapshot)).await;
        }
        // The end of a node is heard at once.
        one.farewell(&snapshot);
        let is_farewell = |said: &Said| said.vips.values().all(|stance| *stance == Stance::Withdrawn);
        while !is_farewell(&tokio::time::timeout(LIMIT, two.next(&snapshot)).await.unwrap()) {}
    }

    #[tokio::test]
    async fn with_a_key_only_what_is_signed_with_it_is_believed_and_once() {
        let port = free_port();
        let keyed = |key: &str| {
            let mut snapshot = snapshot(port);
            let group = snapshot.groups.values_mut().next().unwrap();
            group.announcers_key = Some(weir_model::Secret::new(key));
            snapshot
        };
        let registry = Registry::default();
        let teller = |node: &str, nth: &str| {
            Teller::new(
                name(node),
                registry.counter("refused_total", "Refused.", &[("node", node), ("nth", nth)]),
            )
        };
        let (good, other, none) = (keyed("one key of 16 b."), keyed("another of 16 b."), snapshot(port));
        let stances: BTreeMap<Name, Stance> = [(name("a-rather-long-name-1"), Stance::Announced)].into();
        let now = Instant::now();
        let mut two = teller("n2", "1");
        two.tell(&good, BTreeMap::new(), now);
        let said = Said { node: name("n1"), vips: stances.clone(), at: Some(now_us()) };
        let text = serde_json::to_vec(&said).unwrap();
        let of = |snapshot: &Snapshot| snapshot.groups.values().next().unwrap().announcers_key.clone();
        let stranger = std::net::UdpSocket::bind("127.77.0.1:0").unwrap();
        for snapshot in [&other, &none] {
            let datagram = seal::seal(text.clone(), of(snapshot).as_ref());
            stranger.send_to(&datagram, ("127.77.0.2", port)).unwrap();
        }
        let mut one = teller("n1", "2");
        one.tell(&good, stances.clone(), now);
        // The two that do not fit come first, and are not heard.
        let said = tokio::time::timeout(LIMIT, two.next(&good)).await.unwrap();
        assert_eq!((said.node, said.vips, said.at.is_some()), (name("n1"), stances.clone(), true));
        assert!(
            registry.render().contains("refused_total{node=\"n2\",nth=\"1\"} 2"),
            "{}",
            registry.render()
        );
        // What was recorded is not news, neither now nor long after a restart.
        let from: IpAddr = "127.77.0.1".parse().unwrap();
        let key = of(&good);
        let signed = |at: u64| {
            let said = Said { node: name("n1"), vips: stances.clone(), at: Some(at) };
            seal::seal(serde_json::to_vec(&said).unwrap(), key.as_ref())
        };
        let at = said.at.unwrap();
        assert!(two.believe(&good, &signed(at), from).unwrap().is_none(), "again");
        assert!(two.believe(&good, &signed(at - 1), from).unwrap().is_none(), "older");
        assert!(two.believe(&good, &signed(at + 1), from).unwrap().is_some());
        let mut restarted = teller("n2", "5");
        let old = at - seal::AGE_MAX.as_micros() as u64 - 1;
        assert!(restarted.believe(&good, &signed(old), from).is_err());
        // Who knows no key believes nothing that is signed, and one that cannot be read is not no key.
        assert!(restarted.believe(&none, &signed(at + 2), from).is_err());
        let mut missing = none.clone();
        missing.groups.values_mut().next().unwrap().announcers_key_file = Some("/nonexistent/key".into());
        let plain = serde_json::to_vec(&Said { node: name("n1"), vips: stances.clone(), at: None }).unwrap();
        assert!(restarted.believe(&missing, &plain, from).is_err());
        assert!(restarted.believe(&none, &plain, from).unwrap().is_some());
        let mut damaged = signed(at + 3);
        *damaged.last_mut().unwrap() ^= 1;
        assert!(restarted.believe(&good, &damaged, from).is_err());
        for len in 0..damaged.len() {
            assert!(restarted.believe(&good, &damaged[..len], from).is_err(), "cut at {len}");
        }
    }
}
