//! Calls of the Admin service.

use scratch_proto::v1;
use scratch_proto::v1::admin_client::AdminClient;

use crate::broker::with_broker;
use crate::failure::Failure;

/// What could not be removed yet.
pub(crate) fn list_debt() -> Result<Vec<v1::Debt>, Failure> {
    with_broker(async |channel| {
        Ok(AdminClient::new(channel).list_debt(v1::ListDebtRequest {}).await?.into_inner().debts)
    })
}

/// The broker's state.
pub(crate) fn status() -> Result<v1::StatusResponse, Failure> {
    with_broker(async |channel| Ok(AdminClient::new(channel).status(v1::StatusRequest {}).await?.into_inner()))
}

/// Tries all debt now.
pub(crate) fn reap(request: v1::ReapRequest) -> Result<v1::ReapResponse, Failure> {
    with_broker(async |channel| Ok(AdminClient::new(channel).reap(request).await?.into_inner()))
}
