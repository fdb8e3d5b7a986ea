//! A stock of files without names: one round trip for many of them.

use std::fs::File;
use std::process;
use std::sync::Arc;

use scratch_proto::BATCH_MAX;

use crate::ClientError;
use crate::broker::Broker;
use crate::site::Site;
use crate::tenure::Tenure;
use crate::wait::Wait;

/// The logic of both flavours' stocks.
#[derive(Debug)]
pub(crate) struct Stocked<W: Wait> {
    broker: Arc<Broker<W>>,
    tenure: Arc<Tenure>,
    count: u32,
    files: Vec<File>,
    /// Whose they are: a forked child shares their positions and contents with its parent.
    process: u32,
}

impl<W: Wait> Stocked<W> {
    pub(crate) fn new(broker: Arc<Broker<W>>, tenure: Arc<Tenure>, count: u32) -> Self {
        Self { broker, tenure, count: count.clamp(1, BATCH_MAX), files: Vec::new(), process: process::id() }
    }

    pub(crate) async fn take(&mut self) -> Result<File, ClientError> {
        if self.process != process::id() {
            (self.files, self.process) = (Vec::new(), process::id());
        }
        if self.files.is_empty() {
            let site = Site::of(&self.broker, &self.tenure);
            self.files = match site.stock(self.count).await {
                // There is no room for so many; there may be for the one that is needed.
                Err(ClientError::Refused { code: 8, .. }) if self.count > 1 => site.stock(1).await?,
                made => made?,
            };
        }
        self.files.pop().ok_or(ClientError::Protocol("no area"))
    }

    pub(crate) fn len(&self) -> usize {
        if self.process == process::id() { self.files.len() } else { 0 }
    }
}
