//! Requests that come when they come, whether the ones before are answered or not: the time of an answer counts from when its
//! request was due, so that a proxy that stalls is not asked less for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{net::TcpStream, sync::Semaphore, task::yield_now};

use super::{KeepAlive, h1::get_of, together};
use crate::origin::{BODY_LEN, ORDINARY};

/// Requests that are due, in order; one permit for each.
struct Due {
    times: Mutex<VecDeque<Instant>>,
    count: Semaphore,
}

impl Due {
    async fn next(&self) -> Option<Instant> {
        self.count.acquire().await.ok()?.forget();
        self.times.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn add(&self, time: Instant) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).push_back(time);
        self.count.add_permits(1);
    }
}

/// So many requests at `rate` a second on average, at times drawn as of many clients who know nothing of each other;
/// returns how long each answer took, in µs, and what asked.
pub(crate) async fn latencies(
    load: KeepAlive<TcpStream>,
    rate: f64,
    requests: usize,
) -> Result<(Vec<f64>, KeepAlive<TcpStream>)> {
    let due = Arc::new(Due { times: Mutex::default(), count: Semaphore::new(0) });
    let asking = load.into_connections().into_iter().map(|mut connection| {
        let due = Arc::clone(&due);
        async move {
            let request = get_of(ORDINARY);
            let mut took = Vec::new();
            while let Some(since) = due.next().await {
                connection.ask(&request, BODY_LEN).await?;
                took.push(since.elapsed().as_secs_f64() * 1e6);
            }
            Ok((took, connection))
        }
    });
    let asking = tokio::spawn(together(asking.collect::<Vec<_>>()));
    let mut gaps = Gaps { state: SEED, mean: 1.0 / rate };
    let mut next = Instant::now();
    for _ in 0..requests {
        next += gaps.draw();
        // A timer would wake a millisecond late; this core has nothing better to do than to look.
        while Instant::now() < next {
            yield_now().await;
        }
        due.add(next);
    }
    // Those who wait for what is due hear that nothing more will be, once they have taken all.
    while due.count.available_permits() > 0 && !asking.is_finished() {
        yield_now().await;
    }
    due.count.close();
    let all = asking.await.context("the load broke off")??;
    let (took, connections): (Vec<Vec<f64>>, Vec<_>) = all.into_iter().unzip();
    Ok((took.concat(), KeepAlive::of(connections)))
}

/// Every run draws the same gaps.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Exponentially distributed pauses.
struct Gaps {
    state: u64,
    /// In seconds.
    mean: f64,
}

impl Gaps {
    fn draw(&mut self) -> Duration {
        // xorshift64 (Marsaglia 2003).
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let uniform = (self.state >> 11) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64(-(1.0 - uniform).ln() * self.mean)
    }
}
