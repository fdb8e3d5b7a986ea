//! Calls of the Admin service.

use scratch_proto::v1;
use scratch_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;

use crate::broker::with_broker;
use crate::failure::Failure;

/// What could not be removed yet.
pub(crate) fn list_debt() -> Result<Vec<v1::Debt>, Failure> {
    with_broker(async |channel| all_debt(&mut AdminClient::new(channel)).await)
}

/// Every page.
pub(crate) async fn all_debt(admin: &mut AdminClient<Channel>) -> Result<Vec<v1::Debt>, Failure> {
    let (mut debts, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = admin.list_debt(v1::ListDebtRequest { page_size: 0, page_token }).await?.into_inner();
        debts.extend(page.debts);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(debts);
        }
    }
}

/// Compares records, memory and disk.
pub(crate) fn verify() -> Result<v1::VerifyResponse, Failure> {
    with_broker(async |channel| Ok(AdminClient::new(channel).verify(v1::VerifyRequest {}).await?.into_inner()))
}

/// The broker's state.
pub(crate) fn status(tenants: bool) -> Result<v1::StatusResponse, Failure> {
    with_broker(async |channel| Ok(AdminClient::new(channel).status(v1::StatusRequest { tenants }).await?.into_inner()))
}

/// Tries all debt now.
pub(crate) fn reap(request: v1::ReapRequest) -> Result<v1::ReapResponse, Failure> {
    with_broker(async |channel| Ok(AdminClient::new(channel).reap(request).await?.into_inner()))
}
