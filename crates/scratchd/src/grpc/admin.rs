//! The Admin service: status, debts, reaping now, comparing.

use std::sync::Arc;

use prost::Message;
use scratch_lease::Caller;
use scratch_proto::v1;
use scratch_proto::v1::admin_server::Admin;
use tonic::{Request, Response, Status};

use super::{PAGE_BYTES_MAX, PAGE_MAX, blocking, list, page_size, refused, shared, user_names};
use crate::broker::Broker;
use crate::debt::{Debt, Subject};
use crate::occupants::{mounts, occupants};
use crate::pools::InUse;
use crate::reason::RequestError;
use crate::tamper::problem;
use crate::translate::{duration, path_bytes, path_of_bytes, wire_debt, wire_firmness};

const OF_NO_PAGE: &str = "page_token is of no page; begin without one";

pub(super) struct Service(pub(super) Arc<Broker>);

impl Service {
    /// A page of the debts that the caller sees, and the token of the next.
    fn debts(&self, caller: Caller, after: Option<Subject>, size: usize) -> (Vec<Debt>, String) {
        let tenant = (!caller.admin).then_some(caller.tenant.0);
        let mut debts = self.0.reaper.debts(tenant, after, size + 1);
        let (fits, more) = cut(debts.iter().map(|debt| wire_debt(debt).encoded_len()), size);
        debts.truncate(fits);
        let next = debts.last().filter(|_| more).map(|last| last.subject.key()).unwrap_or_default();
        (debts, next)
    }

    /// What is left for the caller to see of all debt: the first page.
    async fn left(&self, caller: Caller) -> Vec<v1::Debt> {
        let (debts, _) = self.debts(caller, None, PAGE_MAX);
        with_names(debts.iter().map(wire_debt).collect()).await
    }

    /// An admin's word is needed where what goes is not the tenant's that ended.
    fn check_foreign(&self, caller: Caller) -> Result<(), Status> {
        match (caller.admin, self.0.uid) {
            (true, 0) => Ok(()),
            (true, _) => Err(refused(RequestError::NotPermitted(
                "reaping what another owner left",
                "brokers that run as root: this one has no rights to it",
            ))),
            _ => Err(refused(RequestError::NotPermitted(
                "Admin.Reap of foreign directories",
                "root and the admin group",
            ))),
        }
    }

    /// What concerns every tenant is for admins and for the broker's own user.
    fn check(&self, caller: Caller, what: &'static str) -> Result<(), Status> {
        let may = caller.admin || caller.tenant.0 == self.0.uid;
        if may {
            Ok(())
        } else {
            Err(refused(RequestError::NotPermitted(what, "root, the admin group and the broker's own user")))
        }
    }

    fn pool(&self, pool: &InUse) -> v1::PoolStatus {
        pool.disk.look_at_quotas();
        let mut status = v1::PoolStatus {
            name: pool.config.name.clone(),
            root: path_bytes(pool.disk.path()),
            backend: pool.disk.backend().name().to_owned(),
            firmness: wire_firmness(pool.disk.firmness()).into(),
            inodes_firmness: wire_firmness(pool.disk.inodes_firmness()).into(),
            ..v1::PoolStatus::default()
        };
        (status.bytes_promised, status.inodes_promised) = self.0.lock().table.promised(pool.id);
        let memory = pool.disk.memory_left();
        if let Some((total, free)) = memory {
            (status.bytes_total, status.bytes_free) = (total, free);
        }
        match pool.disk.space() {
            _ if memory.is_some() => {}
            Ok(space) => {
                status.bytes_total = space.f_blocks.saturating_mul(space.f_frsize);
                status.bytes_free = space.f_bavail.saturating_mul(space.f_frsize);
                status.inodes_total = space.f_files;
                status.inodes_free = space.f_favail;
            }
            Err(error) => tracing::warn!(%error, "status goes without the pool's space"),
        }
        status.problem = self.0.check_pool(pool).first().map(problem).unwrap_or_default();
        status.full = pool.above_high_water().map(|(resource, _)| resource.name().to_owned()).unwrap_or_default();
        status
    }
}

/// So many of a list, of about the bytes of a page, but its first always; true if there are more.
fn cut(sizes: impl ExactSizeIterator<Item = usize>, most: usize) -> (usize, bool) {
    let (count, mut bytes) = (sizes.len(), 0);
    let fits = sizes.take(most).take_while(|size| {
        bytes += size;
        bytes <= PAGE_BYTES_MAX
    });
    let fits = fits.count().max(1).min(count);
    (fits, fits < count)
}

/// With who is in the way; takes its time.
fn with_occupants(debts: &[Debt]) -> Vec<v1::Debt> {
    let mut wire: Vec<_> = debts.iter().map(wire_debt).collect();
    let is_held = |debt: &&mut v1::Debt| matches!(debt.blocker.as_str(), "mount" | "busy");
    let held: Vec<_> = wire.iter_mut().filter(is_held).collect();
    if held.is_empty() {
        return wire;
    }
    let paths: Vec<_> = held.iter().map(|debt| path_of_bytes(&debt.path)).collect();
    let known = occupants(&paths).into_iter().zip(mounts(&paths));
    for (debt, (pids, detail)) in held.into_iter().zip(known) {
        (debt.pids, debt.detail) = (pids, detail);
    }
    wire
}

async fn with_names(mut debts: Vec<v1::Debt>) -> Vec<v1::Debt> {
    name(debts.iter_mut().filter_map(|debt| debt.tenant.as_mut()).collect()).await;
    debts
}

async fn name(tenants: Vec<&mut v1::Tenant>) {
    let names = user_names(tenants.iter().map(|tenant| tenant.uid).collect()).await;
    for tenant in tenants {
        tenant.name = names.get(&tenant.uid).cloned().unwrap_or_default();
    }
}

#[tonic::async_trait]
impl Admin for Service {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let shared = shared(&request)?;
        let caller = shared.caller();
        let wanted = request.into_inner();
        let (generation, usage, lost) = {
            let state = self.0.lock();
            let usage = if caller.admin { state.table.totals() } else { state.table.usage(caller.tenant) };
            (state.table.generation(), usage, state.table.lost(caller))
        };
        let tenant = (!caller.admin).then_some(caller.tenant.0);
        let owed = self.0.reaper.owed(tenant);
        let mut status = v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation,
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            start_time: Some(self.0.started.into()),
            session: self.0.session,
            runtime_directory: path_bytes(&self.0.runtime),
            pools: self.0.pools.iter().map(|pool| self.pool(pool)).collect(),
            leases: usage.leases as u64,
            areas: usage.areas as u64,
            connections: self.0.loads.connections(tenant) as u64,
            trash: self.0.reaper.trash(tenant) as u64,
            debt: owed.debts as u64,
            draining: self.0.is_draining(),
            kept: usage.kept as u64,
            debt_bytes: owed.bytes,
            lost: lost as u64,
            ..v1::StatusResponse::default()
        };
        if !wanted.tenants {
            return Ok(Response::new(status));
        }
        let with_tenants = async {
            (status.tenants, status.tenants_left_out) = self.0.tenants(caller);
            name(status.tenants.iter_mut().filter_map(|tenant| tenant.tenant.as_mut()).collect()).await;
            Ok(status)
        };
        list(&shared, with_tenants).await
    }

    async fn list_debt(&self, request: Request<v1::ListDebtRequest>) -> Result<Response<v1::ListDebtResponse>, Status> {
        let shared = shared(&request)?;
        let request = request.into_inner();
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(Subject::of_key(token).ok_or_else(|| refused(RequestError::Request(OF_NO_PAGE)))?),
        };
        let page = async {
            let (debts, next_page_token) = self.debts(shared.caller(), after, page_size(request.page_size));
            let debts = with_names(blocking(&shared, move || with_occupants(&debts)).await?).await;
            Ok(v1::ListDebtResponse { debts, next_page_token })
        };
        list(&shared, page).await
    }

    async fn reap(&self, request: Request<v1::ReapRequest>) -> Result<Response<v1::ReapResponse>, Status> {
        let shared = shared(&request)?;
        let caller = shared.caller();
        let v1::ReapRequest { foreign, dry_run } = request.into_inner();
        self.check(caller, "Admin.Reap")?;
        if foreign {
            self.check_foreign(caller)?;
        }
        if dry_run {
            let mut would = self.0.reaper.would_try(foreign);
            // Of what nothing is known it is only looked whether somebody else has taken it away.
            would.retain(|debt| !matches!(debt.subject, Subject::Record(_)));
            let (fits, _) = cut(would.iter().map(|debt| wire_debt(debt).encoded_len()), PAGE_MAX);
            let first = would.iter().take(fits).map(wire_debt).collect();
            let tried = would.len() as u64;
            return list(&shared, async { Ok(v1::ReapResponse { tried, left: with_names(first).await }) }).await;
        }
        let (tried_all, wait) = tokio::sync::oneshot::channel();
        let tried = self.0.reaper.retry(
            foreign,
            Box::new(move |_| {
                // The caller may have gone; the tries were made all the same.
                let _ = tried_all.send(());
            }),
        );
        if foreign && tried > 0 {
            tracing::info!(uid = caller.tenant.0, tried, "an admin has said that directories of other owners go");
        }
        // An error means that the broker ends.
        let _ = wait.await;
        list(&shared, async { Ok(v1::ReapResponse { tried: tried as u64, left: self.left(caller).await }) }).await
    }

    async fn verify(&self, request: Request<v1::VerifyRequest>) -> Result<Response<v1::VerifyResponse>, Status> {
        let shared = shared(&request)?;
        let (broker, caller) = (Arc::clone(&self.0), shared.caller());
        let verified = async {
            let verified = blocking(&shared, move || broker.verify(caller)).await?;
            let mut verified = verified.map_err(|error| refused(error.into()))?;
            name(verified.findings.iter_mut().filter_map(|finding| finding.tenant.as_mut()).collect()).await;
            Ok(verified)
        };
        list(&shared, verified).await
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        self.check(shared(&request)?.caller(), "Admin.Drain")?;
        let deadline = request.into_inner().deadline.map(duration).transpose().map_err(refused)?;
        Ok(Response::new(self.0.drain(deadline).await.map_err(refused)?))
    }

    async fn undrain(&self, request: Request<v1::UndrainRequest>) -> Result<Response<v1::UndrainResponse>, Status> {
        self.check(shared(&request)?.caller(), "Admin.Undrain")?;
        self.0.undrain().map_err(refused)?;
        Ok(Response::new(v1::UndrainResponse {}))
    }
}
