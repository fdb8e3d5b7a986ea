//! The Leases service.

use std::sync::Arc;

use scratch_lease::LeaseId;
use scratch_proto::v1;
use scratch_proto::v1::leases_server::Leases;
use tokio_stream::Empty;
use tonic::{Request, Response, Status, Streaming};

use super::{peer, unimplemented, user_names};
use crate::broker::Broker;
use crate::reason::RequestError;

/// Leases of one page.
const PAGE_MAX: usize = 1000;

pub(super) struct Service(pub(super) Arc<Broker>);

impl Service {
    /// The ids first, then a page of them, so that the table's lock is held for lines whatever the number of leases.
    fn page(&self, caller: scratch_lease::Caller, after: Option<LeaseId>, size: usize) -> v1::ListLeasesResponse {
        let mut ids: Vec<LeaseId> = {
            let state = self.0.lock();
            let mine = |lease: &&scratch_lease::Lease| caller.admin || lease.tenant() == caller.tenant;
            state.table.leases().filter(mine).map(scratch_lease::Lease::id).collect()
        };
        ids.retain(|id| after.is_none_or(|after| *id > after));
        ids.sort_unstable();
        let more = ids.len() > size;
        ids.truncate(size);
        let next_page_token = ids.last().filter(|_| more).map(ToString::to_string).unwrap_or_default();
        let state = self.0.lock();
        let leases = ids.iter().filter_map(|id| state.table.get(*id, caller).ok());
        v1::ListLeasesResponse { leases: leases.map(|lease| self.0.wire_lease(lease)).collect(), next_page_token }
    }
}

#[tonic::async_trait]
impl Leases for Service {
    type KeepAliveStream = Empty<Result<v1::KeepAliveResponse, Status>>;
    type WatchStream = Empty<Result<v1::WatchResponse, Status>>;

    async fn list(&self, request: Request<v1::ListLeasesRequest>) -> Result<Response<v1::ListLeasesResponse>, Status> {
        let caller = peer(&request)?.caller;
        let request = request.into_inner();
        let size = match usize::try_from(request.page_size).unwrap_or(PAGE_MAX) {
            0 => PAGE_MAX,
            size => size.min(PAGE_MAX),
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| RequestError::Request("page_token is of no page").to_status())?),
        };
        let mut page = self.page(caller, after, size);
        let uid = |lease: &v1::Lease| lease.tenant.as_ref().map(|tenant| tenant.uid);
        let names = user_names(page.leases.iter().filter_map(uid).collect()).await;
        for tenant in page.leases.iter_mut().filter_map(|lease| lease.tenant.as_mut()) {
            tenant.name = names.get(&tenant.uid).cloned().unwrap_or_default();
        }
        Ok(Response::new(page))
    }

    async fn grant(&self, _: Request<v1::GrantRequest>) -> Result<Response<v1::GrantResponse>, Status> {
        unimplemented("Leases.Grant over gRPC (use the handle channel)")
    }

    async fn keep_alive(
        &self,
        _: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        unimplemented("Leases.KeepAlive over gRPC (use the handle channel)")
    }

    async fn revoke(&self, _: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        unimplemented("Leases.Revoke over gRPC (use the handle channel)")
    }

    async fn get(&self, _: Request<v1::GetLeaseRequest>) -> Result<Response<v1::Lease>, Status> {
        unimplemented("Leases.Get")
    }

    async fn update(&self, _: Request<v1::UpdateLeaseRequest>) -> Result<Response<v1::Lease>, Status> {
        unimplemented("Leases.Update")
    }

    async fn attach(&self, _: Request<v1::AttachRequest>) -> Result<Response<v1::AttachResponse>, Status> {
        unimplemented("Leases.Attach over gRPC (use the handle channel)")
    }

    async fn detach(&self, _: Request<v1::DetachRequest>) -> Result<Response<v1::DetachResponse>, Status> {
        unimplemented("Leases.Detach")
    }

    async fn keep(&self, _: Request<v1::KeepRequest>) -> Result<Response<v1::Lease>, Status> {
        unimplemented("Leases.Keep")
    }

    async fn undelete(&self, _: Request<v1::UndeleteRequest>) -> Result<Response<v1::Lease>, Status> {
        unimplemented("Leases.Undelete")
    }

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        unimplemented("Leases.Watch")
    }
}
