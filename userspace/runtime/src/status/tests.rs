use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::metrics::Registry;

const LIMIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_follower_sees_changes_loss_and_return() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/a.sock");
    let mut seen = follow::<u32>(&path, RETRY);

    let (publisher, feed) = publisher(&1u32);
    let registry = Registry::default();
    registry.counter("x_total", "X.", &[]).add(7);
    let server = serve_unix(&path, Site::new(feed, registry.clone(), || Health::Draining)).await.unwrap();
    timeout(LIMIT, seen.wait_for(|seen| seen.value.as_deref() == Some(&1))).await.unwrap().unwrap();

    publisher.publish(&2);
    timeout(LIMIT, seen.wait_for(|seen| seen.value.as_deref() == Some(&2))).await.unwrap().unwrap();
    assert_eq!(fetch::<u32>(&path).await.unwrap(), 2);
    assert!(get(&path, "/metrics").await.unwrap().ends_with(b"x_total 7\n"));
    let draining = get(&path, "/healthz").await.unwrap_err();
    assert!(matches!(draining, FetchError::Status { status, .. } if status == 503));
    assert!(fetch::<String>(&path).await.is_err());

    let (_other, other_feed) = super::publisher(&0u32);
    let second = serve_unix(&path, Site::new(other_feed, registry.clone(), || Health::Ok)).await;
    assert!(second.is_err(), "a living socket was taken over");

    drop((server, publisher));
    timeout(LIMIT, seen.wait_for(|seen| !seen.live && seen.value.as_deref() == Some(&2)))
        .await
        .unwrap()
        .unwrap();
    assert!(!path.exists());
    let (_publisher, feed) = super::publisher(&3u32);
    // A dead process leaves its file behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let _server = serve_unix(&path, Site::new(feed, registry, || Health::Ok)).await.unwrap();
    timeout(LIMIT, seen.wait_for(|seen| seen.live && seen.value.as_deref() == Some(&3)))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_unchanged_status_wakes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let (publisher, feed) = publisher(&1u32);
    let _server = serve_unix(&path, Site::new(feed, Registry::default(), || Health::Ok)).await.unwrap();
    let mut seen = follow::<u32>(&path, RETRY);
    timeout(LIMIT, seen.wait_for(|seen| seen.live)).await.unwrap().unwrap();
    seen.mark_unchanged();
    publisher.publish(&1);
    publisher.publish(&1);
    publisher.publish(&5);
    timeout(LIMIT, seen.changed()).await.unwrap().unwrap();
    assert_eq!(seen.borrow().value.as_deref(), Some(&5));
}
