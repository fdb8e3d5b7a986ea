//! Draining: nothing new is granted, and when the last lease has ended and is freed, the broker exits.

use std::time::Duration;

use scratch_proto::v1;

use crate::broker::Broker;
use crate::reason::RequestError;

/// How far it is; under the table's lock, so that no grant slips past the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Drain {
    #[default]
    Granting,
    Draining,
    /// Everything has ended: the broker exits, and there is no way back.
    Drained,
}

impl Broker {
    /// Whether nothing is granted any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.lock().drain != Drain::Granting
    }

    /// Grants nothing any more, and waits for all leases to end and for their trees to be freed, until `deadline`. The
    /// broker exits after that.
    ///
    /// # Errors
    /// STOPPING, when it is told to exit meanwhile.
    pub(crate) async fn drain(&self, deadline: Option<Duration>) -> Result<v1::DrainResponse, RequestError> {
        tracing::info!("draining: nothing is granted any more");
        {
            let mut state = self.lock();
            if state.drain == Drain::Granting {
                state.drain = Drain::Draining;
            }
        }
        self.activity();
        let mut stopping = self.stopping.subscribe();
        let drained = tokio::select! {
            biased;
            ended = self.all_ended() => ended,
            _ = stopping.wait_for(|stopping| *stopping) => return Err(RequestError::Stopping),
            () = wait(deadline) => false,
        };
        let leases = self.lock().table.totals().leases;
        Ok(v1::DrainResponse { drained, leases: leases as u64 })
    }

    /// Grants again.
    ///
    /// # Errors
    /// STOPPING, when everything has ended and the broker exits.
    pub(crate) fn undrain(&self) -> Result<(), RequestError> {
        {
            let mut state = self.lock();
            if state.drain == Drain::Drained {
                return Err(RequestError::Stopping);
            }
            state.drain = Drain::Granting;
        }
        tracing::info!("draining was called off");
        self.activity();
        Ok(())
    }

    /// Returns when a drain has come to its end.
    pub(crate) async fn drained(&self) {
        loop {
            // Before looking, so that nothing that changes meanwhile is missed.
            let changed = self.changed.notified();
            if self.lock().drain == Drain::Drained {
                return;
            }
            changed.await;
        }
    }

    /// True when all leases have ended; false when draining was called off.
    async fn all_ended(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            let freed = self.reaper.is_done();
            {
                let mut state = self.lock();
                match state.drain {
                    Drain::Granting => return false,
                    Drain::Drained => return true,
                    Drain::Draining if freed && state.table.totals().leases == 0 => {
                        state.drain = Drain::Drained;
                        break;
                    }
                    Drain::Draining => {}
                }
            }
            changed.await;
        }
        tracing::info!("drained");
        self.activity();
        true
    }
}

async fn wait(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
