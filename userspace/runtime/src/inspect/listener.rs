//! `weir-l4`'s side: questions as they come.

use std::{io, path::Path};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::mpsc,
    time::timeout,
};

use super::{Answer, Ask, LINE_LEN_MAX, LINE_TIMEOUT};
use crate::inbox::{self, Bounds, Inbox};

const BOUNDS: Bounds = Bounds { connections: 8, queue: 8 };

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
pub struct Listener(Inbox<Asked>);

impl Listener {
    /// Listens at `path`, in place of a process that died; one that lives is an error.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        let listener = inbox::listen(path).await?;
        Ok(Self(Inbox::open(path, "inspection", listener, BOUNDS, serve)))
    }

    /// The next question. Cancel safe.
    pub async fn next(&mut self) -> Asked {
        self.0.next().await
    }
}

async fn serve(stream: UnixStream, questions: mpsc::Sender<Asked>) -> io::Result<()> {
    if let Some(asked) = timeout(LINE_TIMEOUT, read(stream)).await? {
        let _daemon_is_gone = questions.send(asked).await;
    }
    Ok(())
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
