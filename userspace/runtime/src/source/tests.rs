use std::time::Duration;

use tokio::time::{Instant, timeout};
use weir_model::Generation;

use super::{reading::REREAD, *};
use crate::status::Site;

const GOOD: &str = "[zone.az1]\n";
const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_bad_change_is_refused_and_the_next_good_one_accepted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.toml"), GOOD).unwrap();
    let registry = Registry::default();
    let mut source = Source::open(dir.path(), &registry).unwrap();
    let first = source.candidate().await;
    source.accept(&first);
    let mut status = source.status();

    std::fs::write(dir.path().join("b.toml"), "[zone.az1]\n[nonsense.x]\n").unwrap();
    let refused = async {
        tokio::select! {
            _ = source.candidate() => panic!("a bad change became a candidate"),
            seen = status.wait_for(|status| status.refused.len() == 2) => seen.unwrap().generation,
        }
    };
    assert_eq!(timeout(LIMIT, refused).await.unwrap(), first.generation);
    assert!(registry.render().contains("weir_config_refused_total 1\n"));

    let started = Instant::now();
    std::fs::write(dir.path().join("b.toml"), "[zone.az2]\n").unwrap();
    let second = timeout(LIMIT, source.candidate()).await.unwrap();
    assert!(second.zones.contains_key("az2"));
    assert!(started.elapsed() < REREAD, "the change was not notified");
    source.accept(&second);
    assert!(source.status().borrow().refused.is_empty());
}

#[tokio::test]
async fn going_back_to_what_is_in_force_clears_the_problems() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.toml"), GOOD).unwrap();
    let mut source = Source::open(dir.path(), &Registry::default()).unwrap();
    let first = source.candidate().await;
    source.accept(&first);
    let mut status = source.status();
    for (text, problems) in [("[", 1), (GOOD, 0)] {
        std::fs::write(dir.path().join("a.toml"), text).unwrap();
        let seen = async {
            tokio::select! {
                _ = source.candidate() => panic!("no candidate expected"),
                seen = status.wait_for(|status| status.refused.len() == problems) => drop(seen.unwrap()),
            }
        };
        timeout(LIMIT, seen).await.unwrap();
    }
}

#[test]
fn a_bad_configuration_at_the_first_start_is_an_error_with_every_problem() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("a.toml"), "[zoen.x]\n").unwrap();
    std::fs::write(dir.path().join("sub/b.toml"), "[x.y]\n").unwrap();
    std::fs::write(dir.path().join(".hidden.toml"), "[x.y]\n").unwrap();
    std::fs::write(dir.path().join("ignored.txt"), "[x.y]\n").unwrap();
    let problems = Source::open(dir.path(), &Registry::default()).err().unwrap();
    let files: Vec<_> = problems.0.iter().map(|problem| problem.file.as_str()).collect();
    assert_eq!(files, ["a.toml", "sub/b.toml"]);
    assert!(Source::open(&dir.path().join("absent"), &Registry::default()).is_err());
}

#[tokio::test]
async fn a_step_that_takes_most_vips_off_the_network_is_refused_until_it_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    let base = "[zone.z1]\n[node.n1]\nzone = \"z1\"\naddress = \"10.0.1.2\"\n[peer.p1]\nnode = \"n1\"\n\
         address = \"10.0.1.1\"\nasn = 65000\nlocal_asn = 65001\n[group.g]\nnodes = [\"n1\"]\n";
    let vips: String = (0..4)
        .map(|vip| {
            format!("[vip.v{vip}]\naddresses = [\"192.0.2.{vip}\"]\ngroup = \"g\"\nservices = [\"udp/53\"]\n")
        })
        .collect();
    let write = |text: &str| std::fs::write(dir.path().join("a.toml"), text).unwrap();
    write(&format!("{base}{vips}"));
    let mut source = Source::open(dir.path(), &Registry::default()).unwrap();
    let first = source.candidate().await;
    source.accept(&first);
    write(base);
    let mut status = source.status();
    let refused = timeout(LIMIT, async {
        tokio::select! {
            _ = source.candidate() => panic!("the step was taken"),
            refused = status.wait_for(|status| !status.refused.is_empty()) => refused.unwrap().refused.clone(),
        }
    });
    let refused = refused.await.unwrap();
    assert!(refused[0].what.contains("4 of 4 VIPs off the network"), "{refused:?}");
    assert!(status.borrow().held_back.is_some());
    write(&format!("{base}withdraw_freely_until = \"2100-01-01T00:00:00Z\"\n"));
    let second = timeout(LIMIT, source.candidate()).await.unwrap();
    assert!(second.vips.is_empty());
}

#[tokio::test]
async fn what_is_held_back_is_let_through_once_and_nothing_else_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let base = "[zone.z1]\n[node.n1]\nzone = \"z1\"\naddress = \"10.0.1.2\"\n[peer.p1]\nnode = \"n1\"\n\
         address = \"10.0.1.1\"\nasn = 65000\nlocal_asn = 65001\n[group.g]\nnodes = [\"n1\"]\n";
    let write = |vips: u8, more: &str| {
        let vips = (0..vips).map(|vip| {
            format!("[vip.v{vip}]\naddresses = [\"192.0.2.{vip}\"]\ngroup = \"g\"\nservices = [\"udp/53\"]\n")
        });
        std::fs::write(dir.path().join("a.toml"), format!("{base}{}{more}", vips.collect::<String>()))
            .unwrap();
    };
    write(8, "");
    let mut source = Source::open(dir.path(), &Registry::default()).unwrap();
    let first = source.candidate().await;
    source.accept(&first);
    let mut status = source.status();
    let (_publisher, feed) = crate::status::publisher(&0);
    let mut site = Site::new(feed, Registry::default(), || crate::status::Health::Ok);
    source.permits().take_on(&mut site);
    let socket = dir.path().join("a.sock");
    let _server = crate::status::serve_unix(&socket, site.clone()).await.unwrap();
    let ask = async |generation| {
        let permit = Permit { generation, by: "somebody".into() };
        let permit = serde_json::to_vec(&permit).unwrap();
        crate::status::ask(&socket, PERMIT_PAGE, permit).await.map_err(|error| error.to_string())
    };
    // Answers come from within `candidate`, which must come to nothing but where it is expected.
    let until_held = async |source: &mut Source, status: &mut watch::Receiver<ConfigStatus>, other| {
        let held = status.wait_for(|status| status.held_back.is_some_and(|held| held != other));
        tokio::select! {
            _ = source.candidate() => panic!("the step was taken"),
            held = timeout(LIMIT, held) => held.unwrap().unwrap().held_back.unwrap(),
        }
    };
    write(2, "");
    let held = until_held(&mut source, &mut status, Generation(0)).await;
    let refused = tokio::select! {
        _ = source.candidate() => panic!("the step was taken"),
        refused = ask(first.generation) => refused,
    };
    assert!(refused.unwrap_err().contains("is not held back"));
    // Another change: the word was for the one before.
    write(1, "");
    let newer = until_held(&mut source, &mut status, held).await;
    let refused = tokio::select! {
        _ = source.candidate() => panic!("the step was taken"),
        refused = ask(held) => refused,
    };
    assert!(refused.is_err());
    let (taken, answer) = tokio::join!(source.candidate(), ask(newer));
    assert_eq!((taken.generation, taken.vips.len(), answer.is_ok()), (newer, 1, true));
    source.accept(&taken);
    assert_eq!(status.borrow().held_back, None);
    // Once: the next step is judged as ever.
    write(8, "");
    let back = timeout(LIMIT, source.candidate()).await.unwrap();
    source.accept(&back);
    write(1, "");
    assert_eq!(until_held(&mut source, &mut status, Generation(0)).await, newer);
    // Over TCP nobody gives permits.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(crate::status::serve_tcp(listener, site));
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = "POST /accept HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    server.abort();
}
