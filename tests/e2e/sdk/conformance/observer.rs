//! What is seen from outside: gRPC beside the SDK, for the calls by which the table looks at what the others did.

use scratch_proto::v1::admin_client::AdminClient;
use scratch_proto::v1::holder::Kind;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{
    Debt, DrainRequest, GetLeaseRequest, Holder, Lease, ListDebtRequest, ListLeasesRequest, ReapRequest, RevokeRequest,
    StatusRequest, UndeleteRequest, UndrainRequest, Wait,
};
use scratch_tests::{Broker, DEADLINE, connect_grpc, eventually};
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::answers::code_name;
use super::connection::Told;
use super::flavour::RUNTIME;
use super::requests::lease;
use super::values::{Stop, hex, no_word};

pub(super) struct Observer(Channel);

impl Observer {
    /// Connects. The connections of the case before may still be counted.
    pub(super) fn new(broker: &Broker) -> Self {
        let mut connected = None;
        eventually(DEADLINE, "the broker takes a connection on grpc.sock", || {
            connected = RUNTIME.block_on(connect_grpc(&broker.grpc_socket())).ok();
            connected.is_some()
        });
        Self(connected.expect("it was there a moment ago"))
    }

    pub(super) fn call(&self, name: &str, request: &Value) -> Result<Told, Stop> {
        let (mut leases, mut admin) = (LeasesClient::new(self.0.clone()), AdminClient::new(self.0.clone()));
        let id = lease(request).to_owned();
        let answer = RUNTIME.block_on(async {
            Ok(match name {
                "Leases.Get" => {
                    leases.get(GetLeaseRequest { lease: id }).await.map(|reply| lease_json(&reply.into_inner()))
                }
                "Leases.List" => {
                    let listed = leases.list(ListLeasesRequest::default()).await;
                    listed.map(|reply| json!({"leases": list(&reply.into_inner().leases)}))
                }
                "Leases.Undelete" => leases.undelete(UndeleteRequest { lease: id }).await.map(|_| json!({})),
                "Admin.Status" => admin.status(StatusRequest::default()).await.map(|reply| {
                    let status = reply.into_inner();
                    json!({"connections": status.connections.to_string(), "draining": status.draining})
                }),
                "Admin.ListDebt" => admin
                    .list_debt(ListDebtRequest::default())
                    .await
                    .map(|reply| json!({"debts": reply.into_inner().debts.iter().map(debt_json).collect::<Vec<_>>()})),
                "Admin.Drain" => {
                    let mut drain = tonic::Request::new(DrainRequest::default());
                    drain.get_mut().deadline = Some(Default::default());
                    admin.drain(drain).await.map(|reply| {
                        let drained = reply.into_inner();
                        json!({"drained": drained.drained, "leases": drained.leases.to_string()})
                    })
                }
                "Admin.Reap" => admin.reap(ReapRequest::default()).await.map(|reply| {
                    let reaped = reply.into_inner();
                    json!({"tried": reaped.tried.to_string(), "left": vec![json!({}); reaped.left.len()]})
                }),
                "Admin.Undrain" => admin.undrain(UndrainRequest {}).await.map(|_| json!({})),
                "Health.Check" => {
                    let service = request["service"].as_str().unwrap_or_default().to_owned();
                    let checked = HealthClient::new(self.0.clone()).check(HealthCheckRequest { service }).await;
                    checked.map(|reply| json!({"status": reply.into_inner().status().as_str_name()}))
                }
                _ => return no_word(format!("{name} is no call to look at what the SDK did")),
            })
        })?;
        Ok(answer.map(|reply| (reply, Vec::new())).map_err(|status| refused(&status)))
    }

    /// Ends all leases that there are, and waits until nothing is left of them.
    pub(super) fn end_all(broker: &Broker) {
        eventually(DEADLINE, "all leases of a case have ended", || {
            RUNTIME.block_on(async {
                // One that is turned away may hear of it only now.
                let Ok(channel) = connect_grpc(&broker.grpc_socket()).await else { return false };
                let mut leases = LeasesClient::new(channel);
                let Ok(listed) = leases.list(ListLeasesRequest::default()).await else { return false };
                let listed = listed.into_inner().leases;
                for lease in &listed {
                    let revoke = RevokeRequest { lease: lease.id.clone(), wait: Wait::Freed.into() };
                    // It may end by itself meanwhile.
                    let _ = leases.revoke(revoke).await;
                }
                listed.is_empty()
            })
        });
    }

    /// Waits until nothing is left of what was ended, or until it is known why that has to wait.
    pub(super) fn wait_freed(&self, is_freed: bool) {
        let mut admin = AdminClient::new(self.0.clone());
        eventually(DEADLINE, "it shows whether what was ended is freed", || {
            let status = RUNTIME.block_on(admin.status(StatusRequest::default()));
            status.is_ok_and(|status| match (is_freed, status.into_inner()) {
                (true, status) => status.trash == 0,
                (false, status) => status.debt > 0,
            })
        });
    }

    /// The one lease below this one.
    pub(super) fn lease_below(&self, parent: &str) -> Option<String> {
        let mut leases = LeasesClient::new(self.0.clone());
        let listed = RUNTIME.block_on(leases.list(ListLeasesRequest::default())).ok()?.into_inner();
        let mut below = listed.leases.into_iter().filter(|lease| lease.parent == parent);
        below.next().filter(|_| below.next().is_none()).map(|lease| lease.id)
    }
}

fn list(leases: &[Lease]) -> Vec<Value> {
    leases.iter().map(lease_json).collect()
}

fn lease_json(lease: &Lease) -> Value {
    let tenant = lease.tenant.as_ref().map(|tenant| json!({"uid": tenant.uid}));
    let reason = lease.reason.as_ref().map(|reason| json!({"code": reason.code, "text": reason.text}));
    let limits =
        lease.limits.as_ref().map(|of| json!({"bytes": of.bytes.to_string(), "inodes": of.inodes.to_string()}));
    let left = lease.limits_left.as_ref().map(
        |left| json!({"bytes": left.bytes.map(|of| of.to_string()), "inodes": left.inodes.map(|of| of.to_string())}),
    );
    json!({
        "id": lease.id, "tenant": tenant, "path": hex(&lease.path), "state": lease.state().as_str_name(),
        "holders": lease.holders.iter().map(holder_json).collect::<Vec<_>>(), "areas": lease.areas.to_string(),
        "grantedTtl": lease.granted_ttl.as_ref().map(|ttl| format!("{}s", ttl.seconds)),
        "expireTime": lease.expire_time.as_ref().map(ToString::to_string), "parent": lease.parent, "limits": limits,
        "createTime": lease.create_time.as_ref().map(ToString::to_string), "reason": reason, "limitsLeft": left,
    })
}

fn debt_json(debt: &Debt) -> Value {
    json!({
        "id": debt.id, "lease": debt.lease, "blocker": debt.blocker, "errno": debt.errno, "path": hex(&debt.path),
        "tries": debt.tries.to_string(),
    })
}

fn holder_json(holder: &Holder) -> Value {
    let (kind, about) = match &holder.kind {
        Some(Kind::Process(process)) => ("process", json!({"pid": process.pid})),
        Some(Kind::Connection(connection)) => ("connection", json!({"lost": connection.lost})),
        Some(Kind::Ttl(_)) => ("ttl", json!({})),
        Some(Kind::Descriptor(_)) => ("descriptor", json!({})),
        Some(Kind::Cgroup(_)) => ("cgroup", json!({})),
        Some(Kind::Hold(_)) => ("hold", json!({})),
        None => panic!("a holder is of some kind"),
    };
    json!({"id": holder.id, kind: about})
}

fn refused(status: &Status) -> Value {
    let info = status.get_details_error_info().expect("every error carries ErrorInfo");
    let code = u32::try_from(i32::from(status.code())).expect("codes are not negative");
    json!({"reason": info.reason, "code": code_name(code), "metadata": info.metadata, "message": status.message()})
}
