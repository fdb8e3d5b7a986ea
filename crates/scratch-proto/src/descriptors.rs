//! How many descriptors a channel message says ride along with it: its `fd = true`, counted as channel.proto describes.

use crate::v1::channel_request::Op;
use crate::v1::channel_response::Result as Reply;
use crate::v1::{ChannelRequest, ChannelResponse, CreateRequest, HolderSpec, holder_spec, r#where};

/// Descriptors of a request.
#[must_use]
pub fn of_request(request: &ChannelRequest) -> usize {
    match &request.op {
        Some(Op::Grant(grant)) => grant.holders.iter().filter(|holder| rides(holder)).count(),
        Some(Op::Attach(attach)) => usize::from(attach.holder.as_ref().is_some_and(rides)),
        Some(Op::Create(create)) => usize::from(foreign(create)),
        Some(Op::Persist(persist)) => usize::from(persist.fd),
        _ => 0,
    }
}

/// Descriptors of a response.
#[must_use]
pub fn of_response(response: &ChannelResponse) -> usize {
    match &response.result {
        Some(Reply::Grant(grant)) => usize::from(grant.fd),
        Some(Reply::Create(create)) => {
            create.areas.iter().filter(|area| area.fd).count()
                + usize::from(create.lease.as_ref().is_some_and(|lease| lease.fd))
        }
        Some(Reply::Claim(claim)) => claim.areas.iter().filter(|area| area.fd).count(),
        Some(Reply::Delegate(delegate)) => usize::from(delegate.fd),
        _ => 0,
    }
}

fn rides(holder: &HolderSpec) -> bool {
    match &holder.kind {
        Some(holder_spec::Kind::Process(process)) => process.fd,
        Some(holder_spec::Kind::Descriptor(descriptor)) => descriptor.fd,
        Some(holder_spec::Kind::Cgroup(cgroup)) => cgroup.fd,
        _ => false,
    }
}

fn foreign(create: &CreateRequest) -> bool {
    let kind = create.r#where.as_ref().and_then(|place| place.kind.as_ref());
    matches!(kind, Some(r#where::Kind::Foreign(foreign)) if foreign.fd)
}
