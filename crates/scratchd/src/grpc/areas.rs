//! The Areas service.

use std::sync::Arc;

use prost::Message;
use scratch_proto::v1;
use scratch_proto::v1::areas_server::Areas;
use tonic::{Request, Response, Status};

use super::{PAGE_BYTES_MAX, blocking, freed, list, refused, shared};
use crate::broker::Broker;
use crate::reason::RequestError;
use crate::release::Released;
use crate::translate::lease_id;

pub(super) struct Service(pub(super) Arc<Broker>);

#[tonic::async_trait]
impl Areas for Service {
    async fn create(&self, request: Request<v1::CreateRequest>) -> Result<Response<v1::CreateResponse>, Status> {
        let shared = shared(&request)?;
        let request = request.into_inner();
        let made = self.0.create_for_ticket(&mut shared.client(), &request);
        let made = made.map_err(|at| at.error.to_status((request.count > 1).then_some(at.index)))?;
        Ok(Response::new(made))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let shared = shared(&request)?;
        let request = request.into_inner();
        let released = self.0.release(&mut shared.client(), &request).map_err(refused)?;
        let reply = |existed, freed, debt| Ok(Response::new(v1::ReleaseResponse { existed, freed, debt }));
        match released {
            Released::Nothing => reply(false, true, Vec::new()),
            Released::Gone => reply(true, true, Vec::new()),
            Released::Foreign(lease, number) => {
                let (then, wait) = freed(&self.0);
                let waits = request.wait() == v1::Wait::Freed;
                let (when_aside, when_freed) = if waits { (None, Some(then)) } else { (Some(then), None) };
                self.0.end_foreign(lease, number, when_aside, when_freed);
                let debt = wait.await?;
                reply(true, waits && debt.is_empty(), debt)
            }
            Released::Trashed(pool, tree) if request.wait() == v1::Wait::Freed => {
                let (when_freed, wait) = freed(&self.0);
                self.0.reaper.push(pool, tree, Some(when_freed));
                let debt = wait.await?;
                reply(true, debt.is_empty(), debt)
            }
            Released::Trashed(pool, tree) => {
                self.0.reaper.push(pool, tree, None);
                reply(true, false, Vec::new())
            }
        }
    }

    async fn persist(&self, _: Request<v1::PersistRequest>) -> Result<Response<v1::PersistResponse>, Status> {
        Err(refused(RequestError::NeedsChannel("Persist")))
    }

    async fn get(&self, request: Request<v1::GetAreaRequest>) -> Result<Response<v1::Area>, Status> {
        let shared = shared(&request)?;
        let (broker, caller, request) = (Arc::clone(&self.0), shared.caller(), request.into_inner());
        let lease = lease_id(&request.lease).map_err(refused)?;
        let area = blocking(&shared, move || broker.get_area(caller, lease, request.area)).await?;
        Ok(Response::new(area.map_err(refused)?))
    }

    async fn list(&self, request: Request<v1::ListAreasRequest>) -> Result<Response<v1::ListAreasResponse>, Status> {
        let shared = shared(&request)?;
        let (broker, caller, request) = (Arc::clone(&self.0), shared.caller(), request.into_inner());
        let lease = lease_id(&request.lease).map_err(refused)?;
        let size = super::page_size(request.page_size);
        let after = from_token(&request.page_token).map_err(refused)?;
        let areas = move || broker.list_areas(caller, lease, after.as_deref(), size);
        let page = async {
            let (mut areas, mut last) = blocking(&shared, areas).await?.map_err(refused)?;
            if cut_page(&mut areas, PAGE_BYTES_MAX) {
                last = areas.last().map(|area| area.id.clone());
            }
            let next_page_token = last.map(|id| to_token(&id)).unwrap_or_default();
            Ok(v1::ListAreasResponse { areas, next_page_token })
        };
        list(&shared, page).await
    }
}

/// Cuts a list to about so many bytes, but for its first; true if something was cut off.
fn cut_page(areas: &mut Vec<v1::Area>, bytes_max: usize) -> bool {
    let mut bytes = 0;
    let fits = areas.iter().take_while(|area| {
        bytes += area.encoded_len();
        bytes <= bytes_max
    });
    let page = fits.count().max(1);
    let cut = areas.len() > page;
    areas.truncate(page);
    cut
}

/// Ids are bytes, tokens are text.
fn to_token(id: &[u8]) -> String {
    use std::fmt::Write as _;
    id.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String can't fail
        text
    })
}

pub(super) fn from_token(token: &str) -> Result<Option<Vec<u8>>, RequestError> {
    let of_no_page = RequestError::Request("page_token is of no page; begin without one");
    if token.is_empty() {
        return Ok(None);
    }
    let digits: Option<Vec<u32>> = token.chars().map(|digit| digit.to_digit(16)).collect();
    let pairs = digits.filter(|digits| digits.len() % 2 == 0).ok_or(of_no_page)?;
    let bytes = pairs.chunks_exact(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap_or(0));
    Ok(Some(bytes.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tokens_lead_back_to_their_ids() {
        assert_eq!(from_token(&to_token(b"a/\xff\n")).unwrap(), Some(b"a/\xff\n".to_vec()));
        assert_eq!(from_token("").unwrap(), None);
        assert!(from_token("abc").is_err() && from_token("zz").is_err());
    }
}
