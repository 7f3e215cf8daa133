//! What is asked of the proxies. Everything runs on the one thread of the benchmark, beside the origin: fewer switches
//! between threads leave more of the core for load.

mod bulk;
mod connections;
mod h1;
mod h2;
mod idle;
mod keep_alive;
mod paced;

pub(crate) use self::{
    bulk::Bulk,
    connections::{Handshakes, Resumption, TcpConnections},
    h2::Http2,
    idle::hold_idle,
    keep_alive::KeepAlive,
    paced::latencies,
};

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

/// How many units a round did.
pub(crate) enum Done {
    Units(f64),
    /// The proxy cannot do what is measured, and why this is known.
    Cannot(String),
}

/// A load on one proxy.
pub(crate) trait Load: Sized {
    /// One round. Every answer is checked; one that is not as it should be is an error.
    async fn round(&mut self) -> Result<Done>;
}

/// What is left to do in a round, for those who do it together.
#[derive(Clone)]
struct Budget(Arc<AtomicUsize>);

impl Budget {
    fn new(units: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(units)))
    }

    /// Takes one on, if one is left.
    fn take(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// Runs them all at once, and returns what they return; the first error ends all.
async fn together<T: Send + 'static>(
    all: impl IntoIterator<Item = impl Future<Output = Result<T>> + Send + 'static>,
) -> Result<Vec<T>> {
    let mut tasks: JoinSet<Result<T>> = all.into_iter().collect();
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(result) = tasks.join_next().await {
        results.push(result.context("a part of the load broke off")??);
    }
    Ok(results)
}
