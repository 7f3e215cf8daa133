//! `weir explain packet --live` and `weir capture` against a running `weir-l4`, with real datagrams.

use std::{
    io::Read,
    net::IpAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use weir_core::pcap;
use weir_tests::{
    programs,
    rig::{Rig, VIP4, VIP6},
};

fn weir(arguments: &[&str], run_dir: &Path) -> Command {
    let mut command = Command::new(programs::path("weir"));
    command.args(arguments).arg("--run-dir").arg(run_dir);
    command
}

fn capture(rig: &Rig, arguments: &[&str]) -> Child {
    let mut command = weir(&[&["capture", "-w", "-"], arguments].concat(), &rig.run_dir(0));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("weir")
}

/// Sends datagrams until a capture has ended by itself.
fn ask_until_it_ends(rig: &Rig, vip: IpAddr, mut capture: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(20);
    while capture.try_wait().expect("wait").is_none() {
        assert!(Instant::now() < deadline, "the capture never ended");
        rig.ask(vip, b"question").expect("answer");
    }
    capture.wait_with_output().expect("output")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_packet_is_explained_by_the_model_and_the_loaded_program_alike() {
    let rig = Rig::build().await.expect("rig");
    let config = rig.config_dir();
    let before = rig.until(0, "counters", |_| true).await.expect("status");
    for number in 0..24 {
        let v4 = [format!("10.9.1.1:{}", 40_000 + number), "dns:53".into()];
        let v6 = [format!("[fd09:1::1]:{}", 40_000 + number), format!("[{VIP6}]:53")];
        for [from, to] in [v4, v6] {
            for kind in ["--udp", "--echo", "--syn"] {
                let arguments =
                    ["explain", "packet", config.to_str().expect("path"), "--from", &from, "--to", &to, kind];
                let arguments = [&arguments[..], &["--live", "-o", "json"]].concat();
                let output = weir(&arguments, &rig.run_dir(0)).output().expect("weir");
                let said = String::from_utf8_lossy(&output.stdout);
                let answer: Value = serde_json::from_str(&said).unwrap_or_else(|error| {
                    panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr))
                });
                assert_eq!(answer["live"]["agrees"], true, "{said}");
                assert_eq!(answer["node"], "h1");
                let expected: &[&str] = match kind {
                    "--echo" => &["icmp_echo"],
                    "--syn" => &["pass_no_service"],
                    _ => &["encap", "deliver_local"],
                };
                let reason = answer["live"]["program"]["reason"].as_str().expect("reason");
                assert!(expected.contains(&reason), "{kind}: {said}");
                // A settled row says the same as the configuration.
                assert_eq!(answer["model"]["reason"], reason, "{said}");
            }
        }
    }
    let after = rig.until(0, "counters", |_| true).await.expect("status");
    assert_eq!(after.reasons["icmp_echo"], before.reasons["icmp_echo"], "what is tried out is not counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn packets_are_captured_with_their_reasons_and_only_those_that_are_wanted() {
    let rig = Rig::build().await.expect("rig");
    let vip = IpAddr::V4(VIP4);
    let wanted = ["--count", "6", "--reason", "encap", "--vip", &vip.to_string(), "--client", "10.9.1.0/24"];
    let output = ask_until_it_ends(&rig, vip, capture(&rig, &wanted));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("6 packets captured, 0 lost"), "{said}");
    for number in 1..=6 {
        let frame = pcap::frame(&output.stdout, number).expect("frame");
        assert!(frame.ends_with(b"question") && frame[30..34] == VIP4.octets(), "{frame:02x?}");
    }
    let comments = |output: &Output, text: &str| {
        output.stdout.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
    };
    assert_eq!(comments(&output, "encap, as it came"), 6);

    // As it left: the tunnel in front. Both: one after the other.
    let output = ask_until_it_ends(
        &rig,
        IpAddr::V6(VIP6),
        capture(&rig, &["--count", "8", "--reason", "encap", "--direction", "both", "--snap-len", "60"]),
    );
    assert_eq!((comments(&output, "encap, as it came"), comments(&output, "encap, as it left")), (4, 4));
    let (came, left) =
        (pcap::frame(&output.stdout, 1).expect("came"), pcap::frame(&output.stdout, 2).expect("left"));
    assert_eq!((came.len(), left.len()), (60, 60));
    assert_eq!((came[20], left[23]), (17, 17), "IPv6 with UDP in it, and a tunnel over IPv4");

    // Nothing of what is not wanted; ends by time.
    let output = ask_until_it_ends(&rig, vip, capture(&rig, &["--for", "300ms", "--client", "192.0.2.0/24"]));
    assert_eq!(pcap::frame(&output.stdout, 1), Err(pcap::ReadError::TooFew(0)));
    let output = capture(&rig, &["--reason", "drop_everything"]).wait_with_output().expect("output");
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no reason"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_captures_at_a_time_and_a_killed_client_leaves_nothing_on() {
    let rig = Rig::build().await.expect("rig");
    let vip = IpAddr::V4(VIP4);
    let mut first = capture(&rig, &["--reason", "encap,deliver_local"]);
    let mut out = first.stdout.take().expect("stdout");
    while rig.ask(vip, b"question").is_ok() {
        let mut block = [0; 8];
        out.read_exact(&mut block).expect("a block");
        if block[..4] == [0x0a, 0x0d, 0x0d, 0x0a] {
            break; // it runs
        }
    }
    let second = capture(&rig, &["--count", "1"]).wait_with_output().expect("output");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another capture is running"), "{said}");
    first.kill().expect("kill");
    first.wait().expect("wait");
    // The next one gets its turn as soon as the first is missed.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let output = ask_until_it_ends(&rig, vip, capture(&rig, &["--count", "1"]));
        if output.status.success() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
