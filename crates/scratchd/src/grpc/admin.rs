//! The Admin service: status, debts, reaping now.

use std::sync::Arc;

use scratch_lease::Caller;
use scratch_proto::v1;
use scratch_proto::v1::admin_server::Admin;
use tonic::{Request, Response, Status};

use super::{list, refused, shared, unimplemented, user_names};
use crate::broker::Broker;
use crate::reason::RequestError;
use crate::translate::{duration, path_bytes, wire_debt};

pub(super) struct Service(pub(super) Arc<Broker>);

impl Service {
    fn debts(&self, caller: Caller) -> Vec<v1::Debt> {
        let mine = |debt: &&crate::debt::Debt| caller.admin || debt.tenant == caller.tenant.0;
        self.0.reaper.debts().iter().filter(mine).map(wire_debt).collect()
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

    fn pool(&self) -> v1::PoolStatus {
        let pool = &self.0.config.pool[0];
        let mut status = v1::PoolStatus {
            name: pool.name.clone(),
            root: path_bytes(self.0.pool.path()),
            backend: "dir".to_owned(),
            firmness: v1::Firmness::Soft.into(),
            ..v1::PoolStatus::default()
        };
        match self.0.pool.space() {
            Ok(space) => {
                status.bytes_total = space.f_blocks.saturating_mul(space.f_frsize);
                status.bytes_free = space.f_bavail.saturating_mul(space.f_frsize);
                status.inodes_total = space.f_files;
                status.inodes_free = space.f_favail;
            }
            Err(error) => tracing::warn!(%error, "status goes without the pool's space"),
        }
        status
    }
}

async fn with_names(mut debts: Vec<v1::Debt>) -> Vec<v1::Debt> {
    let uid = |debt: &v1::Debt| debt.tenant.as_ref().map(|tenant| tenant.uid);
    let names = user_names(debts.iter().filter_map(uid).collect()).await;
    for tenant in debts.iter_mut().filter_map(|debt| debt.tenant.as_mut()) {
        tenant.name = names.get(&tenant.uid).cloned().unwrap_or_default();
    }
    debts
}

#[tonic::async_trait]
impl Admin for Service {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let caller = shared(&request)?.caller;
        let (generation, usage) = {
            let state = self.0.lock();
            let usage = if caller.admin { state.table.totals() } else { state.table.usage(caller.tenant) };
            (state.table.generation(), usage)
        };
        let tenant = (!caller.admin).then_some(caller.tenant.0);
        Ok(Response::new(v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation,
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            start_time: Some(self.0.started.into()),
            session: self.0.session,
            runtime_directory: path_bytes(&self.0.runtime),
            pools: vec![self.pool()],
            leases: usage.leases as u64,
            areas: usage.areas as u64,
            connections: self.0.loads.connections(tenant) as u64,
            trash: self.0.reaper.trash(tenant) as u64,
            debt: self.debts(caller).len() as u64,
            draining: self.0.is_draining(),
            kept: usage.kept as u64,
        }))
    }

    async fn list_debt(&self, request: Request<v1::ListDebtRequest>) -> Result<Response<v1::ListDebtResponse>, Status> {
        let shared = shared(&request)?;
        let debts = async { Ok(v1::ListDebtResponse { debts: with_names(self.debts(shared.caller)).await }) };
        list(&shared, debts).await
    }

    async fn reap(&self, request: Request<v1::ReapRequest>) -> Result<Response<v1::ReapResponse>, Status> {
        let shared = shared(&request)?;
        let caller = shared.caller;
        let request = request.into_inner();
        if request.foreign {
            return unimplemented("reaping what another owner left");
        }
        if request.dry_run {
            return unimplemented("a dry run");
        }
        self.check(caller, "Admin.Reap")?;
        let (tried_all, wait) = tokio::sync::oneshot::channel();
        let tried = self.0.reaper.retry_all(Box::new(move |_| {
            // The caller may have gone; the tries were made all the same.
            let _ = tried_all.send(());
        }));
        // An error means that the broker ends.
        let _ = wait.await;
        let left = async { Ok(v1::ReapResponse { tried: tried as u64, left: with_names(self.debts(caller)).await }) };
        list(&shared, left).await
    }

    async fn verify(&self, _: Request<v1::VerifyRequest>) -> Result<Response<v1::VerifyResponse>, Status> {
        unimplemented("Admin.Verify")
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        self.check(shared(&request)?.caller, "Admin.Drain")?;
        let deadline = request.into_inner().deadline.map(duration).transpose().map_err(refused)?;
        Ok(Response::new(self.0.drain(deadline).await.map_err(refused)?))
    }

    async fn undrain(&self, request: Request<v1::UndrainRequest>) -> Result<Response<v1::UndrainResponse>, Status> {
        self.check(shared(&request)?.caller, "Admin.Undrain")?;
        self.0.undrain().map_err(refused)?;
        Ok(Response::new(v1::UndrainResponse {}))
    }
}
