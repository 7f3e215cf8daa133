//! Another build of the kernel programs takes over under load, and the one before it again: a million numbered packets.

use std::{
    fs,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use aya::programs::{
    links::{FdLink, PinnedLink},
    loaded_programs,
};
use weir_lab::netns::NetNs;
use weir_model::status::L4Status;
use weir_tests::{
    prog_run::object_path,
    rebuilt::rebuilt,
    rig::{Rig, Role, VIP4, config, own4},
};

/// Packets that must be sent, and go on while there are changes to make.
const PACKETS: u32 = 1_000_000;
/// More than are sent in any case.
const PACKETS_MAX: u32 = 4 * PACKETS;
/// Changes of the program: to the other build and back, on the balancer and on a host that opens tunnels.
const CHANGES: usize = 12;
/// Ports they are sent from, so that both hosts get some.
const FLOWS: usize = 64;
/// Packets sent at once; a ring of an interface takes 256.
const BURST: u32 = 32;
/// From one burst to the next: 40,000 packets a second.
const PAUSE: Duration = Duration::from_micros(800);
/// How long the last packets may take.
const ARRIVED_WITHIN: Duration = Duration::from_secs(5);

/// Sends numbered packets until told to stop.
struct Sender {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    thread: thread::JoinHandle<()>,
}

impl Sender {
    fn start(router: &NetNs) -> Self {
        let open = || {
            let socket = || {
                let socket = UdpSocket::bind((own4(1, 1), 0))?;
                socket.connect((VIP4, 53))?;
                Ok(socket)
            };
            Ok((0..FLOWS).map(|_| socket()).collect::<std::io::Result<Vec<_>>>()?)
        };
        let sockets = router.run(open).expect("sockets");
        let (stop, sent) = <(Arc<AtomicBool>, Arc<AtomicU32>)>::default();
        let (stopped, counter) = (stop.clone(), sent.clone());
        let thread = thread::spawn(move || {
            let (mut number, mut next) = (0u32, Instant::now());
            while !stopped.load(Relaxed) && number < PACKETS_MAX {
                for _ in 0..BURST {
                    // What the kernel does not take was not sent, and is sent again.
                    let socket = &sockets[number as usize % FLOWS];
                    if socket.send(&number.to_be_bytes()).is_ok() {
                        number += 1;
                    }
                }
                counter.store(number, Relaxed);
                // A sender that got no time does not make up for it.
                next = (next + PAUSE).max(Instant::now());
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self { stop, sent, thread }
    }

    fn stop(self) -> u32 {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("sender");
        self.sent.load(Relaxed)
    }
}

/// Counts how often each number arrived on a host.
fn count(socket: UdpSocket, stop: Arc<AtomicBool>, arrived: Arc<AtomicU32>) -> thread::JoinHandle<Vec<u8>> {
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
    thread::spawn(move || {
        let mut seen = vec![0u8; PACKETS_MAX as usize];
        let mut buffer = [0; 16];
        while !stop.load(Relaxed) {
            if let Ok(len) = socket.recv(&mut buffer) {
                let number = u32::from_be_bytes(buffer[..len].try_into().expect("a number"));
                seen[number as usize] += 1;
                arrived.fetch_add(1, Relaxed);
            }
        }
        seen
    })
}

/// The program in force on a host: its number, and the hash of its instructions.
fn in_force(rig: &Rig, host: usize) -> (u32, u64) {
    let link: FdLink = PinnedLink::from_pin(rig.pin_dir(host).join("xdp-eth0")).expect("link").into();
    let id = link.info().expect("link").program_id();
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    (id, found.expect("its program").tag())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_million_packets_outlive_upgrades_of_the_programs_and_their_rollbacks() {
    let mut rig = Rig::with(&[Role::Node; 2], &config()).await.expect("rig");
    let object = rig.config_dir().with_file_name("rebuilt");
    let other = rebuilt(&fs::read(object_path()).expect("object")).expect("another build");
    fs::write(&object, other).expect("write");

    let (stop, arrived) = <(Arc<AtomicBool>, Arc<AtomicU32>)>::default();
    let receive =
        |host| count(rig.socket(host, VIP4.into(), 53).expect("socket"), stop.clone(), arrived.clone());
    let receivers = [receive(0), receive(1)];
    let dropped = rig.drops().expect("drops");
    let sender = Sender::start(&rig.router.netns);

    let first = [in_force(&rig, 0), in_force(&rig, 1)];
    for change in 0..CHANGES {
        // Two of three by SIGTERM, as service managers do; both hosts; each there and back.
        let (host, is_upgrade) = (change % 2, change % 4 < 2);
        let (before, pid) =
            (in_force(&rig, host), rig.until(host, "it runs", |_| true).await.expect("status").pid);
        if change % 3 == 2 { rig.kill(host) } else { rig.stop(host) }.expect("end");
        let share = PACKETS / (2 * CHANGES as u32);
        let goal = sender.sent.load(Relaxed) + share;
        while sender.sent.load(Relaxed) < goal {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rig.objects[host] = if is_upgrade { object.clone() } else { object_path() };
        rig.start(host).expect("start");
        let back = |status: &L4Status| status.pid != pid && status.adopted && status.vips.contains_key("dns");
        rig.until(host, "it is back", back).await.expect("status");
        let after = in_force(&rig, host);
        assert_ne!(after.0, before.0, "another program");
        assert_ne!(after.1, before.1, "of other instructions");
        assert_eq!(after.1 == first[host].1, !is_upgrade, "back to the first");
    }
    while sender.sent.load(Relaxed) < PACKETS {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let sent = sender.stop();
    let last = Instant::now();
    while arrived.load(Relaxed) < sent && last.elapsed() < ARRIVED_WITHIN {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Relaxed);
    let seen = receivers.map(|receiver| receiver.join().expect("receiver"));
    let received = seen.each_ref().map(|seen| seen.iter().map(|&times| u32::from(times)).sum::<u32>());
    let times = |number: usize| seen[0][number] + seen[1][number];
    let lost = (0..sent as usize).filter(|&number| times(number) == 0).count() as u64;
    let twice = (0..sent as usize).filter(|&number| times(number) > 1).count();
    let dropped = rig.drops().expect("drops").since(&dropped);
    println!(
        "{sent} sent, {received:?} received, {lost} lost, {twice} twice, dropped on the way: {dropped:?}"
    );
    assert!(sent >= PACKETS && received.iter().all(|&count| count > PACKETS / 10));
    assert_eq!(twice, 0);
    // A machine that gives a receiver no time drops at counted places, and few.
    assert!(lost <= dropped.total() && lost < u64::from(sent) / 1_000, "{lost} lost, dropped: {dropped:?}");
}
