//! Renews leases, and lets a stream that names one hold it.

use std::time::Duration;

use scratch_lease::{Caller, ConnectionId, HolderKind, LeaseId, NewHolder, Refusal};

use crate::broker::Broker;
use crate::clock;
use crate::grant::CLOSED;
use crate::reason::RequestError;

impl Broker {
    /// Renews the ttl holders of a lease.
    ///
    /// # Errors
    /// LEASE_UNKNOWN, LEASE_ENDING, NO_TTL.
    pub(crate) fn keep_alive(&self, caller: Caller, lease: LeaseId) -> Result<Duration, RequestError> {
        Ok(self.lock().table.renew(lease, caller, clock::now())?)
    }

    /// The same for a KeepAlive stream, which is the holder that a lease waits for, if it waits for one. Nothing where the
    /// stream holds the lease and nothing is to be renewed.
    ///
    /// # Errors
    /// As [`Broker::keep_alive`].
    pub(crate) fn keep_alive_by(
        &self,
        stream: ConnectionId,
        caller: Caller,
        lease: LeaseId,
    ) -> Result<Option<Duration>, RequestError> {
        let now = clock::now();
        let mut state = self.lock();
        let found = state.table.live(lease, caller)?;
        let mut holds = found.holders().iter().any(|holder| holder.kind == HolderKind::Connection(stream));
        let waits = found.holders().iter().any(|holder| holder.kind.waits_for_connection());
        // An admin's stream may renew it, and is not what it waits for.
        if !holds && waits && found.tenant() == caller.tenant {
            if !state.open.contains(&stream) {
                return Err(RequestError::Holder(CLOSED));
            }
            // Its record says already that a connection holds it.
            state.table.attach(lease, caller, NewHolder::Connection(stream), now)?;
            holds = true;
        }
        match state.table.renew(lease, caller, now) {
            Ok(granted) => Ok(Some(granted)),
            Err(Refusal::NoTtl) if holds => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }
}
