//! Leases: granting one, what holds it, renewing and ending it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::mem;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{
    AttachRequest, DetachRequest, GrantRequest, GrantResponse, HolderSpec, KeepAliveRequest, PingRequest,
    RevokeRequest, Wait as WireWait,
};

use crate::broker::Broker;
use crate::holder::{Holder, duration};
use crate::owed::{Undo, revoke};
use crate::packet::Answer;
use crate::reconnect::attach_connection;
use crate::site::Site;
use crate::tenure::Tenure;
use crate::wait::Wait;
use crate::{ClientError, Limits};

/// Nothing is made any more under a lease of which one of these is said.
const IS_OVER: [&str; 3] = ["LEASE_UNKNOWN", "LEASE_ENDING", "LEASE_LOST"];

/// What a lease is to be like. The default: held by this process, in the first pool, for as long as it takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantOptions {
    /// Empty: the first configured pool.
    pub pool: String,
    /// Empty: this process.
    pub holders: Vec<Holder>,
    /// For people and for `scratch ls`.
    pub labels: BTreeMap<String, String>,
    /// Bytes and inodes. Without `soft` refused where the pool can't enforce them.
    pub limits: Limits,
    /// Limits may be soft: shared out and metered only.
    pub soft: bool,
    /// The new lease ends with this one at the latest.
    pub parent: Option<String>,
    /// The lease ends after this time even if something holds it.
    pub lifetime_max: Option<Duration>,
    /// Let processes hold the lease that have `SCRATCHD_LEASE=<id>` in their environment when nothing else does any more.
    pub search_environment: bool,
    /// The lease lives on so long after its last holder has gone by itself, so that another one can come.
    pub grace: Option<Duration>,
    /// Of two grants with the same nonce the second one gives the lease of the first, as long as that lives. Absent: drawn.
    pub nonce: Option<[u8; 16]>,
    /// On behalf of this user, whose lease it will be: for root and the admin group. Without holders a hold holds it.
    pub tenant: Option<u32>,
    /// It may be ended when its pool is too full, where that is configured.
    pub preemptible: bool,
    /// Where the lease's directory has no path, have its mount: see [`Mount`].
    pub want_mount: bool,
}

/// The mount of a lease that lies in memory and has no path: to be attached with move_mount(2) in a mount namespace of one's
/// own.
#[derive(Debug)]
pub struct Mount {
    /// The mount, attached nowhere.
    pub mount: OwnedFd,
    /// The empty directory that it is made for.
    pub place: PathBuf,
}

/// A lease and the duty to revoke it.
#[derive(Debug)]
pub(crate) struct Held<W: Wait> {
    broker: Arc<Broker<W>>,
    pub(crate) tenure: Arc<Tenure>,
    pub(crate) mount: Option<Mount>,
    /// The process whose duty it is; none when the guard was given up, or never was one.
    guarded_by: Option<u32>,
}

impl<W: Wait> Broker<W> {
    pub(crate) async fn ping(&self) -> Result<(), ClientError> {
        match self.call(Op::Ping(PingRequest {}), &[]).await?.reply {
            Reply::Ping(_) => Ok(()),
            _ => Err(ClientError::Protocol("no answer to Ping")),
        }
    }

    pub(crate) async fn grant(self: &Arc<Self>, options: &GrantOptions) -> Result<Held<W>, ClientError> {
        let descriptors: Vec<_> = options.holders.iter().filter_map(Holder::descriptor).collect();
        // A nonce of the caller's may be that of a lease which is in use: giving up leaves it alone.
        let undo = if options.nonce.is_some() { Undo::nothing } else { Undo::of };
        let (result, course) = self.call_resending(Op::Grant(options.request()?), &descriptors, undo).await;
        let answer = result?;
        let Reply::Grant(mut granted) = answer.reply else {
            return Err(ClientError::Protocol("no answer to Grant"));
        };
        let place = PathBuf::from(OsString::from_vec(mem::take(&mut granted.mount_at)));
        let mount = answer.descriptors.into_iter().next().map(|mount| Mount { mount, place });
        let tenure = Arc::new(Tenure::new(granted));
        let held = Held { broker: Arc::clone(self), tenure, mount, guarded_by: Some(std::process::id()) };
        if options.holders.contains(&Holder::Connection) && self.hold(&held.tenure.id, &course) {
            self.call(attach_connection(&held.tenure.id), &[]).await?;
        }
        Ok(held)
    }

    pub(crate) async fn revoke(&self, lease: &str) -> Result<(), ClientError> {
        let (result, course) = self.call_resending(revoke(lease), &[], Undo::of).await;
        match result.map(|answer| answer.reply) {
            Ok(Reply::Revoke(_)) => Ok(()),
            Ok(_) => Err(ClientError::Protocol("no answer to Revoke")),
            // The first one arrived; its answer was lost.
            Err(error) if course.resent && error.is_refusal("LEASE_UNKNOWN") => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// One that is there already. A path that is another's is left aside: each is called by its lease's id.
    pub(crate) fn lease(self: &Arc<Self>, id: &str, path: Option<&Path>) -> Held<W> {
        let path = path.filter(|path| path.is_absolute() && path.file_name() == Some(OsStr::new(id)));
        let path = path.map(|path| path.as_os_str().as_bytes().to_vec()).unwrap_or_default();
        let tenure = Tenure::new(GrantResponse { id: id.to_owned(), path, ..GrantResponse::default() });
        Held { broker: Arc::clone(self), tenure: Arc::new(tenure), mount: None, guarded_by: None }
    }

    /// Ends it, and gives what became debt instead of being freed.
    pub(crate) async fn revoke_until_freed(&self, lease: &str) -> Result<Vec<String>, ClientError> {
        let request = RevokeRequest { lease: lease.to_owned(), wait: WireWait::Freed.into() };
        match self.call(Op::Revoke(request), &[]).await?.reply {
            Reply::Revoke(revoked) => Ok(revoked.debt),
            _ => Err(ClientError::Protocol("no answer to Revoke")),
        }
    }

    pub(crate) async fn attach(&self, lease: &str, holder: &Holder) -> Result<u32, ClientError> {
        let descriptors: Vec<_> = holder.descriptor().into_iter().collect();
        let (result, course) = self.call_resending(attach(lease, holder.spec()?), &descriptors, Undo::of).await;
        let id = holder_id(result?.reply)?;
        if *holder == Holder::Connection && self.hold(lease, &course) {
            return holder_id(self.call(attach_connection(lease), &[]).await?.reply);
        }
        Ok(id)
    }

    /// A holder that is a descriptor.
    pub(crate) async fn attach_passing(
        &self,
        lease: &str,
        holder: HolderSpec,
        descriptor: BorrowedFd<'_>,
    ) -> Result<u32, ClientError> {
        holder_id(self.call(attach(lease, holder), &[descriptor]).await?.reply)
    }

    pub(crate) async fn detach(&self, lease: &str, holder: u32) -> Result<(), ClientError> {
        let op = Op::Detach(DetachRequest { lease: lease.to_owned(), holder });
        let (result, course) = self.call_resending(op, &[], Undo::of).await;
        match result.map(|answer| answer.reply) {
            Ok(Reply::Detach(_)) => Ok(()),
            Ok(_) => Err(ClientError::Protocol("no answer to Detach")),
            // The first one arrived; its answer was lost. With the last holder the lease has ended.
            Err(error)
                if course.resent && (error.is_refusal("HOLDER_UNKNOWN") || error.is_refusal("LEASE_UNKNOWN")) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn keep_alive(&self, lease: &str) -> Result<Duration, ClientError> {
        let request = KeepAliveRequest { lease: lease.to_owned() };
        match self.call(Op::KeepAlive(request), &[]).await?.reply {
            Reply::KeepAlive(renewed) => Duration::try_from(renewed.granted_ttl.unwrap_or_default())
                .map_err(|_| ClientError::Protocol("a negative ttl")),
            _ => Err(ClientError::Protocol("no answer to KeepAlive")),
        }
    }

    /// The lease that areas get whose maker names none: granted at first use, held by this process, and left to end with it.
    pub(crate) async fn own_lease(self: &Arc<Self>) -> Result<Arc<Tenure>, ClientError> {
        if let Some(own) = &self.state().own {
            return Ok(Arc::clone(own));
        }
        let granted = self.grant(&GrantOptions::default()).await?;
        let own = Arc::clone(self.state().own.get_or_insert_with(|| Arc::clone(&granted.tenure)));
        // Where another was faster the guard ends this one.
        if Arc::ptr_eq(&own, &granted.tenure) {
            granted.into_tenure();
        }
        Ok(own)
    }

    /// The own lease, if there is one already; else the lease without a name, which on no connection but a delegated channel
    /// the broker knows.
    pub(crate) fn own_or_none(&self) -> Arc<Tenure> {
        self.state().own.clone().unwrap_or_else(|| Arc::new(Tenure::new(GrantResponse::default())))
    }

    pub(crate) fn own_id(&self) -> Option<String> {
        self.state().own.as_ref().map(|own| own.id.clone()).filter(|id| !id.is_empty())
    }

    /// A call about this lease. If it was this client's own and has ended, it is so no more.
    pub(crate) async fn call_under(
        &self,
        lease: &str,
        op: Op,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Answer, ClientError> {
        let answer = self.call(op, descriptors).await;
        let is_over = |error: &ClientError| IS_OVER.iter().any(|reason| error.is_refusal(reason));
        if answer.as_ref().is_err_and(is_over) {
            self.forget_own(lease);
        }
        answer
    }

    /// It has ended though this process lives: somebody revoked it. The next area gets another; a delegated channel has none.
    fn forget_own(&self, lease: &str) {
        if !self.is_delegated {
            self.state().own.take_if(|own| own.id == lease);
        }
    }
}

impl GrantOptions {
    fn request(&self) -> Result<GrantRequest, ClientError> {
        // Sent again with the same nonce it is the same lease.
        let mut nonce = self.nonce.unwrap_or_default();
        if self.nonce.is_none() {
            getrandom::fill(&mut nonce).map_err(|_| ClientError::Protocol("no random numbers from the kernel"))?;
        }
        Ok(GrantRequest {
            pool: self.pool.clone(),
            nonce: nonce.to_vec(),
            holders: self.holders.iter().map(Holder::spec).collect::<Result<_, _>>()?,
            limits: self.limits.wire(),
            soft: self.soft,
            lifetime_max: self.lifetime_max.map(duration).transpose()?,
            labels: self.labels.clone().into_iter().collect(),
            parent: self.parent.clone().unwrap_or_default(),
            search_environment: self.search_environment,
            grace: self.grace.map(duration).transpose()?,
            tenant: self.tenant,
            preemptible: self.preemptible,
            want_mount: self.want_mount,
            ..GrantRequest::default()
        })
    }
}

impl<W: Wait> Held<W> {
    pub(crate) fn broker(&self) -> &Broker<W> {
        &self.broker
    }

    pub(crate) fn parts(&self) -> (Arc<Broker<W>>, Arc<Tenure>) {
        (Arc::clone(&self.broker), Arc::clone(&self.tenure))
    }

    pub(crate) fn site(&self) -> Site<'_, W> {
        Site::of(&self.broker, &self.tenure)
    }

    pub(crate) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tenure { id, path, .. } = &*self.tenure;
        f.debug_struct("Lease").field("id", id).field("path", path).finish_non_exhaustive()
    }

    /// Dropped before its end the guard says it again.
    pub(crate) async fn revoke(mut self) -> Result<(), ClientError> {
        self.broker.forget(&self.tenure.id);
        let result = self.broker.revoke(&self.tenure.id).await;
        self.guarded_by = None;
        result
    }

    /// The same, until it is freed.
    pub(crate) async fn revoke_until_freed(mut self) -> Result<Vec<String>, ClientError> {
        self.broker.forget(&self.tenure.id);
        let result = self.broker.revoke_until_freed(&self.tenure.id).await;
        self.guarded_by = None;
        result
    }

    pub(crate) fn into_tenure(mut self) -> Arc<Tenure> {
        self.guarded_by = None;
        Arc::clone(&self.tenure)
    }
}

impl<W: Wait> Drop for Held<W> {
    fn drop(&mut self) {
        if mem::take(&mut self.guarded_by) == Some(std::process::id()) {
            self.broker.forget(&self.tenure.id);
            W::let_go(&self.broker, revoke(&self.tenure.id));
        }
    }
}

fn attach(lease: &str, holder: HolderSpec) -> Op {
    Op::Attach(AttachRequest { lease: lease.to_owned(), holder: Some(holder) })
}

fn holder_id(reply: Reply) -> Result<u32, ClientError> {
    match reply {
        Reply::Attach(attached) => Ok(attached.holder.map_or(0, |holder| holder.id)),
        _ => Err(ClientError::Protocol("no answer to Attach")),
    }
}
