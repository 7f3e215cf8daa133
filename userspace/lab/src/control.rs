//! The laboratory's control socket: another shell asks, the process that owns the laboratory answers.
//!
//! One JSON value per line: a [`Request`], then any number of [`Reply::Progress`], then one other [`Reply`].

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{Mutex, mpsc, watch},
};

use crate::{
    lab::Lab,
    missions::{self, Report},
    status::LabStatus,
};

/// The socket in the laboratory's directory.
pub(crate) const SOCKET: &str = "control.sock";
/// The longest request or reply, in bytes.
const LINE_LEN_MAX: u64 = 4 << 20;

/// What may be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// How is it?
    Status,
    /// Break a target.
    Kill(String),
    /// Mend a target, or everything.
    Restore(Option<String>),
    /// Run missions, by name.
    Run(Vec<String>),
    /// End the laboratory.
    Down,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// To be shown while waiting.
    Progress(String),
    /// It was done.
    Done,
    /// How it is.
    Status(Box<LabStatus>),
    /// What the missions found.
    Reports(Vec<Report>),
    /// It was not done.
    Error(String),
}

/// Answers until the process ends. `down` is set when somebody asks for the end.
pub(crate) async fn serve(lab: Arc<Lab>, down: watch::Sender<bool>) -> Result<()> {
    let path = lab.dir().join(SOCKET);
    let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    // Breaking, mending and missions come one after another; looking is always allowed.
    let turn = Arc::new(Mutex::new(()));
    loop {
        let (stream, _) = listener.accept().await?;
        let (lab, down, turn) = (lab.clone(), down.clone(), turn.clone());
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let reply = match read_line::<Request>(&mut BufReader::new(read)).await {
                Ok(request) => answer(&lab, request, &mut write, &turn).await,
                Err(error) => Err(error),
            };
            let ends = matches!(reply, Ok(None));
            let reply = match reply {
                Ok(reply) => reply.unwrap_or(Reply::Done),
                Err(error) => Reply::Error(format!("{error:#}")),
            };
            // Who asked may have gone.
            let _ = say(&mut write, &reply).await;
            if ends {
                let _ = down.send(true);
            }
        });
    }
}

/// `None` is the answer to "end".
async fn answer(
    lab: &Arc<Lab>,
    request: Request,
    write: &mut OwnedWriteHalf,
    turn: &Mutex<()>,
) -> Result<Option<Reply>> {
    match request {
        Request::Status => return Ok(Some(Reply::Status(Box::new(LabStatus::of(lab).await?)))),
        Request::Down => return Ok(None),
        _ => {}
    }
    let Ok(_turn) = turn.try_lock() else { bail!("the laboratory is busy with a mission") };
    Ok(Some(match request {
        Request::Kill(target) => {
            lab.kill(&lab.topology.select(&target)?).await?;
            Reply::Done
        }
        Request::Restore(Some(target)) => {
            lab.restore(&lab.topology.select(&target)?).await?;
            Reply::Done
        }
        Request::Restore(None) => {
            lab.restore_all().await?;
            Reply::Done
        }
        Request::Run(names) => {
            let (progress, mut said) = mpsc::unbounded_channel();
            let running = missions::run(lab, &names, progress);
            tokio::pin!(running);
            let reports = loop {
                tokio::select! {
                    Some(text) = said.recv() => drop(say(write, &Reply::Progress(text)).await),
                    reports = &mut running => break reports?,
                }
            };
            while let Ok(text) = said.try_recv() {
                let _ = say(write, &Reply::Progress(text)).await;
            }
            Reply::Reports(reports)
        }
        Request::Status | Request::Down => return Ok(None),
    }))
}

/// Asks the laboratory in `dir`; progress goes to `progress`.
pub(crate) async fn ask(dir: &Path, request: &Request, mut progress: impl FnMut(&str)) -> Result<Reply> {
    let path = dir.join(SOCKET);
    let stream =
        UnixStream::connect(&path).await.with_context(|| format!("connect to {}", path.display()))?;
    let (read, mut write) = stream.into_split();
    say(&mut write, request).await?;
    let mut read = BufReader::new(read);
    loop {
        match read_line::<Reply>(&mut read).await? {
            Reply::Progress(text) => progress(&text),
            Reply::Error(error) => bail!("{error}"),
            reply => return Ok(reply),
        }
    }
}

async fn say<T: Serialize>(write: &mut OwnedWriteHalf, value: &T) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    write.write_all(&line).await.context("the other side of the control socket is gone")
}

async fn read_line<T: for<'a> Deserialize<'a>>(read: &mut BufReader<impl AsyncRead + Unpin>) -> Result<T> {
    let mut line = Vec::new();
    read.take(LINE_LEN_MAX).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        bail!("the other side of the control socket is gone");
    }
    Ok(serde_json::from_slice(&line)?)
}
