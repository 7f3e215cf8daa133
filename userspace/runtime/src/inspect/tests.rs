use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_core::datapath::{Fit, Told};

use super::*;

fn fit() -> Fit {
    let told =
        Told { reason: "encap".into(), action: "transmit".into(), frame: "00".into(), steps: Vec::new() };
    Fit { program: told.clone(), model: told, agrees: true }
}

#[tokio::test]
async fn a_frame_is_run_and_a_capture_streams_until_its_end() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join(SOCKET);
    let mut listener = Listener::bind(&path).await.expect("bind");
    let served = tokio::spawn(async move {
        let asked = listener.next().await;
        assert_eq!(asked.ask, Ask::Run("0102".into()));
        asked.answer(&Answer::Ran(Box::new(fit()))).await.expect("answer");
        let asked = listener.next().await;
        assert!(matches!(&asked.ask, Ask::Capture(filter) if filter.count == Some(3)));
        let mut stream = asked.answer(&Answer::Capturing).await.expect("answer");
        stream.write_all(b"blocks").await.expect("stream");
        drop(stream);
        listener.next().await.answer(&Answer::Refused("busy".into())).await.expect("answer");
    });
    assert_eq!(run(&path, &[1, 2]).await.expect("ran"), fit());
    let filter = Filter { count: Some(3), ..Filter::default() };
    let mut stream = capture(&path, filter.clone()).await.expect("captured");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("read");
    assert_eq!(all, b"blocks");
    assert!(capture(&path, filter).await.expect_err("refused").to_string().contains("busy"));
    served.await.expect("served");
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_question_is_refused_and_hurts_nobody() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join(SOCKET);
    let _listener = Listener::bind(&path).await.expect("bind");
    for line in ["\n", "{\"run\":1}\n", "GET / HTTP/1.1\n"] {
        let mut stream = tokio::net::UnixStream::connect(&path).await.expect("connect");
        stream.write_all(line.as_bytes()).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        assert!(answer.contains("not a question"), "{answer}");
    }
}
