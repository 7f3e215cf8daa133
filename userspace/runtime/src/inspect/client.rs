//! The side that asks.

use std::{io, path::Path};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};
use weir_core::datapath::{Fit, to_hex};

use super::{Answer, Ask, Filter, LINE_LEN_MAX, LINE_TIMEOUT};

/// What the program loaded by the `weir-l4` behind `socket` does with a frame.
pub async fn run(socket: &Path, frame: &[u8]) -> io::Result<Fit> {
    match ask(socket, &Ask::Run(to_hex(frame))).await? {
        (Answer::Ran(fit), _) => Ok(*fit),
        (Answer::Refused(why), _) => Err(io::Error::other(why)),
        (Answer::Capturing, _) => Err(unexpected()),
    }
}

/// Begins a capture; what is read from the stream is a pcapng file.
pub async fn capture(socket: &Path, filter: Filter) -> io::Result<BufReader<UnixStream>> {
    match ask(socket, &Ask::Capture(filter)).await? {
        (Answer::Capturing, stream) => Ok(stream),
        (Answer::Refused(why), _) => Err(io::Error::other(why)),
        (Answer::Ran(_), _) => Err(unexpected()),
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "weir-l4 answered another question")
}

async fn ask(socket: &Path, ask: &Ask) -> io::Result<(Answer, BufReader<UnixStream>)> {
    let mut line = serde_json::to_vec(ask).map_err(io::Error::other)?;
    line.push(b'\n');
    let answered = async {
        let mut stream = BufReader::new(UnixStream::connect(socket).await?);
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        (&mut stream).take(LINE_LEN_MAX as u64).read_until(b'\n', &mut answer).await?;
        let answer = serde_json::from_slice(&answer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("not an answer: {error}")))?;
        Ok((answer, stream))
    };
    timeout(LINE_TIMEOUT, answered).await?
}
