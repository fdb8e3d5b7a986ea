//! Health as it is: a service is serving when it can do its work: its pools are there and can be written. Asked for, not
//! reported.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scratch_proto::v1::admin_server::AdminServer;
use scratch_proto::v1::areas_server::AreasServer;
use scratch_proto::v1::leases_server::LeasesServer;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{admin, areas, leases};
use crate::broker::Broker;
use crate::pools::InUse;
use crate::reason::RequestError;

/// How old an answer about the pool may be.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// How long the pool may take to be written.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);
/// How often whoever watches is told of changes.
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct Service {
    broker: Arc<Broker>,
    pools: Arc<Mutex<Pools>>,
}

/// What is known of the pools.
#[derive(Default)]
struct Pools {
    last: Option<(Instant, bool)>,
    /// A look that has not come back: no other is sent after it.
    under_way: Option<JoinHandle<bool>>,
}

impl Service {
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self { broker, pools: Arc::default() }
    }

    /// Nothing for a service that is not here.
    async fn status(&self, service: &str) -> Option<ServingStatus> {
        let grants = match service {
            "" => true,
            name if name == LeasesServer::<leases::Service>::NAME => true,
            name if name == AreasServer::<areas::Service>::NAME => false,
            name if name == AdminServer::<admin::Service>::NAME => return Some(ServingStatus::Serving),
            name if name == HealthServer::<Self>::NAME => return Some(ServingStatus::Serving),
            _ => return None,
        };
        let drains = grants && self.broker.is_draining();
        let serves = !drains && self.pools.lock().await.serves(&self.broker).await;
        Some(if serves { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

impl Pools {
    async fn serves(&mut self, broker: &Arc<Broker>) -> bool {
        if let Some((_, writable)) = self.last.filter(|(time, _)| time.elapsed() < FRESH_FOR) {
            return writable;
        }
        let look = self.under_way.get_or_insert_with(|| {
            let broker = Arc::clone(broker);
            tokio::task::spawn_blocking(move || broker.pools.iter().all(|pool| is_usable(&broker, pool)))
        });
        let writable = match tokio::time::timeout(WRITTEN_WITHIN, look).await {
            Ok(looked) => {
                self.under_way = None;
                looked.unwrap_or(false)
            }
            Err(_) => false,
        };
        self.last = Some((Instant::now(), writable));
        writable
    }
}

fn is_usable(broker: &Broker, pool: &InUse) -> bool {
    match pool.disk.check_writable() {
        Ok(()) => broker.check_pool(pool).is_empty(),
        Err(error) => {
            tracing::warn!(%error, "a pool can't be written");
            false
        }
    }
}

#[tonic::async_trait]
impl Health for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let status = self.status(&request.get_ref().service).await;
        let status = status.ok_or_else(|| RequestError::ServiceUnknown.to_status(None))?;
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (replies, receiver) = mpsc::channel(1);
        let (health, service) = (self.clone(), request.into_inner().service);
        tokio::spawn(async move {
            let mut stopping = health.broker.stopping.subscribe();
            let mut told = None;
            loop {
                let status = health.status(&service).await.unwrap_or(ServingStatus::ServiceUnknown);
                if told.replace(status) != Some(status)
                    && replies.send(Ok(HealthCheckResponse { status: status.into() })).await.is_err()
                {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    () = replies.closed() => return,
                    _ = stopping.wait_for(|stopping| *stopping) => {
                        let last = HealthCheckResponse { status: ServingStatus::NotServing.into() };
                        // Who does not read is not waited for.
                        let _ = replies.try_send(Ok(last));
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
