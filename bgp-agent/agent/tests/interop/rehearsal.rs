//! What a dry run says is what is sent: the messages of rehearsals beside those of the agent's own record.

use crate::bench::{Agent, available, output, until};
use crate::bird_fabric::{BIRD, BOTH, bird};
use crate::fabric::{Fabric, tor};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use weir_lab::sys;
use weir_model::SourceFile;
use weir_model::rehearsal::{Candidate, REHEARSAL_PAGE, Rehearsal, SaidKind};

/// UPDATEs and NOTIFICATIONs by router, in hex, in the order in which they were sent.
type Sent = BTreeMap<IpAddr, Vec<String>>;

/// RFC 6396 §4.4.3, BGP4MP_MESSAGE_AS4_LOCAL.
fn sent(file: &Path) -> Sent {
    let bytes = std::fs::read(file).unwrap_or_default();
    let mut sent = Sent::new();
    let mut rest = &bytes[..];
    while let Some((header, tail)) = rest.split_at_checked(12) {
        let len = u32::from_be_bytes(header[8..12].try_into().unwrap()) as usize;
        let Some((body, tail)) = tail.split_at_checked(len) else { break };
        rest = tail;
        assert_eq!(header[6..8], [0, 7], "sent by us, with AS numbers of four octets");
        // Microseconds, two AS numbers, interface, AFI.
        let (peer, message) = match body[14..16] {
            [0, 1] => (IpAddr::from(<[u8; 4]>::try_from(&body[16..20]).unwrap()), &body[24..]),
            _ => (IpAddr::from(<[u8; 16]>::try_from(&body[16..32]).unwrap()), &body[48..]),
        };
        if [2, 3].contains(&message[18]) {
            sent.entry(peer).or_default().push(message.iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }
    sent
}

fn rehearse(agent: &Agent, config: &str) -> Result<Rehearsal, String> {
    let file = SourceFile { path: "weir.toml".into(), text: config.to_owned() };
    let question = serde_json::to_vec(&Candidate { files: vec![file] }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let socket = agent.run_dir().join("bgp.sock");
    let ask = weir_runtime::status::ask(&socket, REHEARSAL_PAGE, question);
    let answer = runtime.block_on(ask).map_err(|error| error.to_string())?;
    Ok(serde_json::from_slice(&answer).unwrap())
}

fn vip(name: &str, address: &str, announce: &str) -> String {
    format!(
        "[vip.{name}]\naddresses = [\"{address}\"]\ngroup = \"g\"\nservices = [\"udp/53\"]\nannounce = {{ {announce} }}\n"
    )
}

#[test]
fn what_a_dry_run_shows_is_what_is_sent() {
    let test = "what_a_dry_run_shows_is_what_is_sent";
    let Some(fabric) = Fabric::build(1, test, &[BIRD]) else { return };
    let bird = bird(
        &fabric,
        "protocol bgp h1 from host { neighbor 10.0.1.2 as 65001; passive; }\n\
         protocol bgp h6 from host { neighbor fd00:1::2 as 65001; passive; }",
    );
    let tor6 = |more: &str| {
        format!(
            "[peer.tor6]\nnode = \"n1\"\naddress = \"fd00:1::1\"\nasn = 65000\nlocal_asn = 65001\nhold_time = \"3s\"\n\
             connect_retry = \"300ms\"\n{more}\n"
        )
    };
    let always = "mode = \"always\", graceful_shutdown = \"1s\"";
    let many: String =
        (0..600).map(|n| vip(&format!("m{n}"), &format!("198.18.{}.{}", n / 250, n % 250), always)).collect();
    let two = vip("mail", "192.0.2.2", always) + &vip("dns", "2001:db8::2", "mode = \"always\"");
    let base = tor("n1", "10.0.1.1", "") + &tor6("");
    let steps = [
        (
            "attributes, and VIPs more",
            tor("n1", "10.0.1.1", "med = 7\ncommunities = [\"no-export\"]") + &tor6("") + &two + &many,
        ),
        (
            "a session that begins anew",
            tor("n1", "10.0.1.1", "").replace("hold_time = \"3s\"", "hold_time = \"4s\"")
                + &tor6("")
                + &two
                + &many,
        ),
        (
            "a VIP through graceful shutdown",
            tor("n1", "10.0.1.1", "").replace("hold_time = \"3s\"", "hold_time = \"4s\"")
                + &tor6("")
                + &two.replace(always, "mode = \"never\", graceful_shutdown = \"1s\"")
                + &many,
        ),
        (
            "a session that ends, and many VIPs",
            tor6("prepend = 2") + &two + &many.replace("198.18.0.", "198.18.99."),
        ),
    ];
    let mrt = tempfile::tempdir().unwrap();
    let record: PathBuf = mrt.path().join("sent.mrt");
    let fd = fabric.hosts[0].netns.fd();
    let agent = Agent::start_with(&crate::fabric::config(&base), "n1", |command| {
        command.arg("--mrt").arg(&record);
        sys::confine(command, fd);
    });
    bird.until("routes over both", "show route all", &["[h1 ", "[h6 "], &[]);
    let is_up = |status: &weir_model::status::BgpStatus, peers: usize| {
        status.peers.values().filter(|peer| peer.state == "Established").count() == peers
    };
    agent.until("both sessions", |status| is_up(status, 2));
    bird.until("both routes", "show route", &BOTH, &[]);
    assert!(rehearse(&agent, &crate::fabric::config(&base)).unwrap().is_silent(), "nothing changes");
    // End-of-RIB of both families of both sessions is out.
    until("all was said", || {
        let sent = sent(&record);
        if sent.len() == 2 && sent.values().all(|sent| sent.len() == 4) {
            Ok(())
        } else {
            Err(format!("{sent:?}"))
        }
    });
    let mut expected = sent(&record);
    for (what, peers) in &steps {
        let config = crate::fabric::config(peers);
        let rehearsal = rehearse(&agent, &config).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(rehearsal.refused, None, "{what}");
        for peer in rehearsal.peers.values() {
            let address: std::net::SocketAddr = peer.address.parse().unwrap();
            let says = peer.says.iter().map(|said| said.bytes.clone());
            expected.entry(address.ip()).or_default().extend(says);
        }
        let said = rehearsal.peers.values().flat_map(|peer| &peer.says).count();
        assert!(said > 0, "{what}: nothing to compare");
        agent.configure(&config);
        // Both at once: the record of one step must not hold what belongs to the next.
        until(what, || {
            let sent = sent(&record);
            if sent == expected {
                Ok(())
            } else {
                Err(format!("{sent:#?}\nexpected {expected:#?}\n{}", agent.log()))
            }
        });
        let sessions = if peers.contains("[peer.tor]") { 2 } else { 1 };
        agent.until("the sessions stand", |status| status.peers.len() == sessions && is_up(status, sessions));
    }
    // Kinds of all sorts were among them.
    let kinds =
        expected.values().flatten().map(|hex| &hex[36..38]).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["02", "03"]);
    assert!(expected.values().flatten().any(|hex| hex.contains("d0080004ffff0000")), "GRACEFUL_SHUTDOWN");
}

#[test]
fn a_dry_run_says_what_would_be_refused_and_the_command_shows_it() {
    let test = "a_dry_run_says_what_would_be_refused_and_the_command_shows_it";
    let weir = Path::new(env!("CARGO_BIN_EXE_weir-bgp")).with_file_name("weir");
    if !available(&weir.display().to_string(), test) {
        return;
    }
    let site = crate::bench::Site::new();
    let vips: String =
        (0..6).map(|n| vip(&format!("v{n}"), &format!("198.18.0.{n}"), "mode = \"always\"")).collect();
    let agent = Agent::start(&(site.config() + &vips));
    agent.until("it runs", |status| status.vips.len() == 7);
    let without = rehearse(&agent, &site.config()).unwrap();
    let refused = without.refused.expect("refused");
    assert!(
        refused.what.contains("6 of 7 VIPs") && refused.hint.contains("weir config accept --force"),
        "{refused}"
    );
    let peer = without.peers.values().next().unwrap();
    assert_eq!(peer.session, "is down; when it comes up");
    assert_eq!(peer.says.iter().filter(|said| said.kind == SaidKind::Announce).count(), 2);
    assert!(rehearse(&agent, "[vip.x]").unwrap_err().contains("would be refused"));

    let candidate = tempfile::tempdir().unwrap();
    std::fs::write(candidate.path().join("weir.toml"), site.config()).unwrap();
    let ask = |run_dir: &Path, more: &[&str]| {
        let mut command = Command::new(&weir);
        command.args(["bgp", "diff"]).arg(candidate.path()).arg("--run-dir").arg(run_dir).args(more);
        command.env_remove("WEIR_NODE").stdin(Stdio::null()).output().unwrap()
    };
    let text = |output: &std::process::Output| String::from_utf8(output.stdout.clone()).unwrap();
    let shown = ask(&agent.run_dir(), &["-v"]);
    assert_eq!(shown.status.code(), Some(2), "{}", text(&shown));
    for part in ["REFUSED", "weir config accept", "192.0.2.1/32", "65001", "end of RIB", "ffffffff"] {
        assert!(text(&shown).contains(part), "no {part} in\n{}", text(&shown));
    }
    let json: BTreeMap<String, Rehearsal> =
        serde_json::from_slice(&ask(&agent.run_dir(), &["-o", "json"]).stdout).unwrap();
    assert_eq!(json["n1"].peers["tor"].says, peer.says);
    // It is meant: the running daemon takes exactly this, and the log says who said so.
    agent.configure(&site.config());
    let accept = |more: &[&str]| {
        let mut command = Command::new(&weir);
        let dir = agent.dir.path().join("config");
        command.args(["config", "accept"]).arg(dir).arg("--run-dir").arg(agent.run_dir()).args(more);
        command.env("SUDO_USER", "alice").stdin(Stdio::null()).output().unwrap()
    };
    assert_eq!(accept(&[]).status.code(), Some(2), "held back");
    let taken = accept(&["--force"]);
    assert!(taken.status.success(), "{}{}", text(&taken), String::from_utf8_lossy(&taken.stderr));
    assert_eq!(agent.status().unwrap().vips.len(), 1);
    assert!(agent.log().contains("by=alice"), "{}", agent.log());
    // Where none runs, it is as from a start; and for that the node has to be named.
    let nowhere = tempfile::tempdir().unwrap();
    assert_eq!(ask(nowhere.path(), &[]).status.code(), Some(1));
    let alone = ask(nowhere.path(), &["--node", "n1"]);
    assert_eq!(alone.status.code(), Some(0), "{}", String::from_utf8_lossy(&alone.stderr));
    assert!(text(&alone).contains("weir-bgp does not run") && text(&alone).contains("192.0.2.1/32"));
    let mut program = Command::new(env!("CARGO_BIN_EXE_weir-bgp"));
    program.arg(candidate.path()).args(["--dry-run", "--node", "n1"]);
    assert!(output(&mut program).unwrap().contains("\"candidate\""));
}
