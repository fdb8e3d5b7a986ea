//! Draining: nothing new is granted, and when the last lease has ended and is freed, the broker exits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scratch_proto::v1;
use tokio::sync::Notify;

use crate::broker::Broker;
use crate::reason::RequestError;

/// Whether the broker drains, and whether it is empty.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    draining: AtomicBool,
    /// Rings when everything has ended.
    drained: Notify,
}

impl Drain {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Returns when a drain has come to its end.
    pub(crate) async fn drained(&self) {
        self.drained.notified().await;
    }
}

impl Broker {
    /// Grants nothing any more, and waits for all leases to end and for their trees to be freed, until `deadline`. The
    /// broker exits after that.
    ///
    /// # Errors
    /// STOPPING, when it is told to exit meanwhile.
    pub(crate) async fn drain(&self, deadline: Option<Duration>) -> Result<v1::DrainResponse, RequestError> {
        tracing::info!("draining: nothing is granted any more");
        self.drain.draining.store(true, Ordering::Release);
        self.activity();
        let mut stopping = self.stopping.subscribe();
        let drained = tokio::select! {
            ended = self.all_ended() => ended,
            () = wait(deadline) => false,
            _ = stopping.wait_for(|stopping| *stopping) => return Err(RequestError::Stopping),
        };
        if drained {
            tracing::info!("drained");
            self.drain.drained.notify_one();
        }
        let leases = self.lock().table.totals().leases;
        Ok(v1::DrainResponse { drained, leases: leases as u64 })
    }

    /// Grants again.
    pub(crate) fn undrain(&self) {
        tracing::info!("draining was called off");
        self.drain.draining.store(false, Ordering::Release);
        self.activity();
    }

    /// True when all leases have ended; false when draining was called off.
    async fn all_ended(&self) -> bool {
        loop {
            // Before looking, so that nothing that changes meanwhile is missed.
            let changed = self.changed.notified();
            if !self.drain.is_draining() {
                return false;
            }
            if self.lock().table.totals().leases == 0 && self.reaper.is_done() {
                return true;
            }
            changed.await;
        }
    }
}

async fn wait(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
