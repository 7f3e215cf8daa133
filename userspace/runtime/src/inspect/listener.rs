//! `weir-l4`'s side: questions as they come.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

use super::{Answer, Ask, LINE_LEN_MAX, LINE_TIMEOUT};
use crate::status::claim;

/// Clients whose questions are read at once.
const CONNECTIONS_MAX: usize = 8;
/// Questions that wait for the daemon; their clients wait too.
const QUEUE_MAX: usize = 8;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A question that wants an answer.
#[derive(Debug)]
pub struct Asked {
    /// The question.
    pub ask: Ask,
    stream: UnixStream,
}

impl Asked {
    /// Answers, and gives the stream to whoever has more to say.
    pub async fn answer(self, answer: &Answer) -> io::Result<UnixStream> {
        let mut stream = self.stream;
        send(&mut stream, answer).await?;
        Ok(stream)
    }
}

async fn send(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(io::Error::other)?;
    line.push(b'\n');
    timeout(LINE_TIMEOUT, stream.write_all(&line)).await?
}

/// The listening side; dropping it stops accepting and removes the file.
pub struct Listener {
    path: PathBuf,
    asked: mpsc::Receiver<Asked>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        let _gone_is_fine = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    /// Listens at `path`, in place of a process that died; one that lives is an error.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        claim(path).await?;
        let listener = UnixListener::bind(path)?;
        let (sender, asked) = mpsc::channel(QUEUE_MAX);
        let task = tokio::spawn(async move {
            let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            let mut connections = JoinSet::new();
            while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let sender = sender.clone();
                        connections.spawn(async move {
                            if let Ok(Some(asked)) = timeout(LINE_TIMEOUT, read(stream)).await {
                                let _daemon_is_gone = sender.send(asked).await;
                            }
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!("accept on the inspection socket: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { path: path.to_owned(), asked, task })
    }

    /// The next question. Cancel safe.
    pub async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            // The accepting task holds a sender for as long as we live.
            None => std::future::pending().await,
        }
    }
}

/// The question of a client; what is none is answered here.
async fn read(stream: UnixStream) -> Option<Asked> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    (&mut stream).take(LINE_LEN_MAX as u64).read_until(b'\n', &mut line).await.ok()?;
    let mut stream = stream.into_inner();
    match serde_json::from_slice(&line) {
        Ok(ask) => Some(Asked { ask, stream }),
        Err(error) => {
            let _gone = send(&mut stream, &Answer::Refused(format!("not a question: {error}"))).await;
            None
        }
    }
}
