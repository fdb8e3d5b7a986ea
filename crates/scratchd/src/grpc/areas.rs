//! The Areas service; in this version areas are made and released on the handle channel.

use scratch_proto::v1;
use scratch_proto::v1::areas_server::Areas;
use tonic::{Request, Response, Status};

use super::unimplemented;

pub(super) struct Service;

#[tonic::async_trait]
impl Areas for Service {
    async fn create(&self, _: Request<v1::CreateRequest>) -> Result<Response<v1::CreateResponse>, Status> {
        unimplemented("Areas.Create over gRPC (use the handle channel)")
    }

    async fn release(&self, _: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        unimplemented("Areas.Release over gRPC (use the handle channel)")
    }

    async fn persist(&self, _: Request<v1::PersistRequest>) -> Result<Response<v1::PersistResponse>, Status> {
        unimplemented("Areas.Persist")
    }

    async fn get(&self, _: Request<v1::GetAreaRequest>) -> Result<Response<v1::Area>, Status> {
        unimplemented("Areas.Get")
    }

    async fn list(&self, _: Request<v1::ListAreasRequest>) -> Result<Response<v1::ListAreasResponse>, Status> {
        unimplemented("Areas.List")
    }
}
