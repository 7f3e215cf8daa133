use std::{net::TcpListener, os::fd::OwnedFd, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

fn entry() -> (TcpListener, Entry) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let registration = Registration {
        address: "192.0.2.1".parse().unwrap(),
        service: "tcp/80".to_owned().try_into().unwrap(),
    };
    let duplicate: OwnedFd = socket.try_clone().unwrap().into();
    (socket, Entry { registration, socket: Arc::new(duplicate) })
}

#[tokio::test]
async fn a_socket_is_registered_again_after_a_refusal_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET);
    let client = Client::start(&path);
    let (socket, entry) = entry();
    client.want(vec![entry.clone()]);
    let mut registered = client.registered();

    for _restart in 0..2 {
        let mut listener = Listener::bind(&path).await.unwrap();
        assert!(Listener::bind(&path).await.is_err(), "a living socket was taken over");
        let request = timeout(LIMIT, listener.next()).await.unwrap();
        request.answer(Reply::Error("not yet".into()));
        let refused = |registered: &Registered| registered.values().any(|r| r == &Err("not yet".into()));
        timeout(LIMIT, registered.wait_for(refused)).await.unwrap().unwrap();

        let request = timeout(LIMIT, listener.next()).await.unwrap();
        assert_eq!(request.registration, entry.registration);
        // It really is the same socket.
        let received = TcpListener::from(request.socket.try_clone().unwrap());
        assert_eq!(received.local_addr().unwrap(), socket.local_addr().unwrap());
        request.answer(Reply::Ok);
        let good = |registered: &Registered| registered.values().any(Result::is_ok);
        timeout(LIMIT, registered.wait_for(good)).await.unwrap().unwrap();
        drop(listener);
        let lost = |registered: &Registered| registered.values().all(Result::is_err);
        timeout(LIMIT, registered.wait_for(lost)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_is_registered_is_registered_once_more_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET);
    let mut listener = Listener::bind(&path).await.unwrap();
    let client = Client::start(&path);
    let (_socket, entry) = entry();
    client.want(vec![entry.clone()]);
    let mut registered = client.registered();
    let all_are = |registered: &Registered| !registered.is_empty() && registered.values().all(Result::is_ok);
    timeout(LIMIT, listener.next()).await.unwrap().answer(Reply::Ok);
    timeout(LIMIT, registered.wait_for(all_are)).await.unwrap().unwrap();
    listener.again();
    for _again in 0..3 {
        let request = timeout(LIMIT, listener.next()).await.unwrap();
        assert_eq!(request.registration, entry.registration);
        // Meanwhile, too.
        listener.again();
        request.answer(Reply::Ok);
    }
    assert!(!registered.has_changed().unwrap(), "it was never lost");
}
