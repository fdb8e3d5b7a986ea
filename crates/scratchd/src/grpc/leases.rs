//! The Leases service.

use std::sync::Arc;

use prost::Message;
use scratch_lease::LeaseId;
use scratch_proto::v1;
use scratch_proto::v1::leases_server::Leases;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{PAGE_BYTES_MAX, blocking, freed, list, on_side, page_size, refused, shared, streams, watch};
use crate::broker::Broker;
use crate::holders::Asking;
use crate::reason::RequestError;
use crate::translate::lease_id;

pub(super) struct Service(pub(super) Arc<Broker>);

impl Service {
    /// The ids first, then a page of them: the table's lock is held for a page, and not longer for more leases.
    fn page(&self, caller: scratch_lease::Caller, after: Option<LeaseId>, size: usize) -> v1::ListLeasesResponse {
        let mut ids: Vec<LeaseId> = {
            let state = self.0.lock();
            let mine = |lease: &&scratch_lease::Lease| caller.admin || lease.tenant() == caller.tenant;
            state.table.leases().filter(mine).map(scratch_lease::Lease::id).collect()
        };
        ids.retain(|id| after.is_none_or(|after| *id > after));
        let rest = ids.len() > size;
        if rest {
            ids.select_nth_unstable(size);
            ids.truncate(size);
        }
        ids.sort_unstable();
        let (mut leases, mut bytes, mut last) = (Vec::new(), 0, None);
        let state = self.0.lock();
        for id in &ids {
            let Ok(lease) = state.table.get(*id, caller) else { continue };
            let lease = self.0.wire_lease(lease, state.table.left(lease));
            bytes += lease.encoded_len();
            if bytes > PAGE_BYTES_MAX && !leases.is_empty() {
                return v1::ListLeasesResponse { leases, next_page_token: last.unwrap_or_default() };
            }
            last = Some(lease.id.clone());
            leases.push(lease);
        }
        let last = ids.last().filter(|_| rest).map(ToString::to_string);
        v1::ListLeasesResponse { leases, next_page_token: last.unwrap_or_default() }
    }
}

/// Tenants' names are looked up last, where that may block.
async fn named(mut leases: Vec<v1::Lease>) -> Vec<v1::Lease> {
    let of = |lease: &v1::Lease| [&lease.tenant, &lease.granted_by].map(|one| one.as_ref().map(|tenant| tenant.uid));
    let names = super::user_names(leases.iter().flat_map(of).flatten().collect()).await;
    let tenants = leases.iter_mut().flat_map(|lease| [&mut lease.tenant, &mut lease.granted_by]);
    for tenant in tenants.filter_map(Option::as_mut) {
        tenant.name = names.get(&tenant.uid).cloned().unwrap_or_default();
    }
    leases
}

async fn named_one(lease: v1::Lease) -> Response<v1::Lease> {
    Response::new(named(vec![lease]).await.pop().unwrap_or_default())
}

#[tonic::async_trait]
impl Leases for Service {
    type KeepAliveStream = ReceiverStream<Result<v1::KeepAliveResponse, Status>>;
    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

    async fn grant(&self, request: Request<v1::GrantRequest>) -> Result<Response<v1::GrantResponse>, Status> {
        let shared = shared(&request)?;
        let request = request.into_inner();
        if request.want_handle || request.want_mount {
            return Err(refused(RequestError::NeedsChannel("a handle of the lease's directory")));
        }
        let asking = Asking::of(&shared.client(), &request.holders).map_err(refused)?;
        let granted = if request.tenant.is_some() {
            let broker = Arc::clone(&self.0);
            blocking(&shared, move || broker.grant(asking, request, Vec::new())).await?
        } else {
            self.0.grant(asking, request, Vec::new())
        };
        Ok(Response::new(granted.map_err(refused)?))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let shared = shared(&request)?;
        let replies = streams::serve(&self.0, shared, request.into_inner());
        Ok(Response::new(ReceiverStream::new(replies)))
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        let shared = shared(&request)?;
        let request = request.into_inner();
        let lease = lease_id(&request.lease).map_err(refused)?;
        shared.client().let_go(lease);
        if request.wait() != v1::Wait::Freed {
            let ended = self.0.revoke(shared.caller(), lease, None).map_err(refused)?;
            let (when_aside, wait) = freed(&self.0);
            self.0.reaper.when_foreign(&ended, false, when_aside);
            let mut debt = self.0.reaper.in_their_place(&ended);
            debt.extend(wait.await?);
            return Ok(Response::new(v1::RevokeResponse { freed: false, debt }));
        }
        let (when_freed, wait) = freed(&self.0);
        self.0.revoke(shared.caller(), lease, Some(when_freed)).map_err(refused)?;
        let debt = wait.await?;
        Ok(Response::new(v1::RevokeResponse { freed: debt.is_empty(), debt }))
    }

    async fn get(&self, request: Request<v1::GetLeaseRequest>) -> Result<Response<v1::Lease>, Status> {
        let shared = shared(&request)?;
        let lease = lease_id(&request.get_ref().lease).map_err(refused)?;
        let mut found = self.0.explained(lease, shared.caller()).map_err(|refusal| refused(refusal.into()))?;
        if self.0.is_counted(lease) {
            let broker = Arc::clone(&self.0);
            found.used = super::blocking(&shared, move || broker.used(lease)).await?;
        }
        Ok(named_one(found).await)
    }

    async fn list(&self, request: Request<v1::ListLeasesRequest>) -> Result<Response<v1::ListLeasesResponse>, Status> {
        let shared = shared(&request)?;
        let request = request.into_inner();
        let after = match request.page_token.as_str() {
            "" => None,
            token => {
                let of_no_page = |_| refused(RequestError::Request("page_token is of no page; begin without one"));
                Some(token.parse().map_err(of_no_page)?)
            }
        };
        let page = async {
            let mut page = self.page(shared.caller(), after, page_size(request.page_size));
            page.leases = named(page.leases).await;
            Ok(page)
        };
        list(&shared, page).await
    }

    async fn update(&self, request: Request<v1::UpdateLeaseRequest>) -> Result<Response<v1::Lease>, Status> {
        let shared = shared(&request)?;
        let (broker, caller, request) = (Arc::clone(&self.0), shared.caller(), request.into_inner());
        let lease = request.lease.clone();
        let updated = on_side(&self.0, &shared, &lease, move || broker.update(caller, request)).await?;
        Ok(named_one(updated).await)
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Result<Response<v1::AttachResponse>, Status> {
        let shared = shared(&request)?;
        let (broker, request) = (Arc::clone(&self.0), request.into_inner());
        let asking = Asking::of(&shared.client(), request.holder.as_slice()).map_err(refused)?;
        let lease = request.lease.clone();
        let attached = on_side(&self.0, &shared, &lease, move || broker.attach(asking, &request, Vec::new())).await?;
        Ok(Response::new(attached))
    }

    async fn detach(&self, request: Request<v1::DetachRequest>) -> Result<Response<v1::DetachResponse>, Status> {
        let shared = shared(&request)?;
        let (broker, caller, request) = (Arc::clone(&self.0), shared.caller(), request.into_inner());
        let lease = request.lease.clone();
        on_side(&self.0, &shared, &lease, move || broker.detach(caller, &request)).await?;
        Ok(Response::new(v1::DetachResponse {}))
    }

    async fn keep(&self, request: Request<v1::KeepRequest>) -> Result<Response<v1::Lease>, Status> {
        let shared = shared(&request)?;
        let (broker, caller, request) = (Arc::clone(&self.0), shared.caller(), request.into_inner());
        let lease = request.lease.clone();
        let kept = on_side(&self.0, &shared, &lease, move || broker.keep(caller, &request)).await?;
        Ok(named_one(kept).await)
    }

    async fn undelete(&self, request: Request<v1::UndeleteRequest>) -> Result<Response<v1::Lease>, Status> {
        let shared = shared(&request)?;
        let (broker, caller, lease) = (Arc::clone(&self.0), shared.caller(), request.into_inner().lease);
        let key = lease.clone();
        let undeleted = on_side(&self.0, &shared, &key, move || broker.undelete(caller, &lease)).await?;
        Ok(named_one(undeleted).await)
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let shared = shared(&request)?;
        let events = watch::serve(&self.0, shared, request.get_ref()).map_err(refused)?;
        Ok(Response::new(ReceiverStream::new(events)))
    }
}
