//! A stock of files without names.

use std::fs::File;
use std::sync::Arc;

use super::socket::Tokio;
use super::{Client, Lease};
use crate::ClientError;
use crate::stock::Stocked;

/// Files without names, made many at a time and handed out one by one: for clients that make none themselves, as on a delegated
/// channel or with [`CreateMode::Broker`](crate::CreateMode), one round trip is for all of them. Where this process may make them in
/// the lease's directory none are kept.
///
/// What is in stock counts against the lease's limits, and takes a descriptor each. A forked child does not hand out what its parent
/// has in stock.
#[derive(Debug)]
pub struct Stock {
    stocked: Stocked<Tokio>,
}

impl Lease {
    /// A stock of so many files, 1 to 200. It is empty until the first one is taken.
    #[must_use]
    pub fn stock(&self, count: u32) -> Stock {
        let (broker, tenure) = self.held.parts();
        Stock { stocked: Stocked::new(broker, tenure, count) }
    }
}

impl Client {
    /// As [`Lease::stock`], under the lease that ends with this process; on a delegated channel, under the channel's.
    ///
    /// # Errors
    /// Those of granting a lease.
    pub async fn stock(&self, count: u32) -> Result<Stock, ClientError> {
        let own = self.broker.own_lease().await?;
        Ok(Stock { stocked: Stocked::new(Arc::clone(&self.broker), own, count) })
    }
}

impl Stock {
    /// Hands out a file, open for reading and writing. Where there is none any more the stock is filled up first, or, where a limit
    /// refuses that, just one is made.
    ///
    /// # Errors
    /// As [`Lease::anonymous`].
    pub async fn take(&mut self) -> Result<File, ClientError> {
        self.stocked.take().await
    }

    /// How many can be taken before the broker is asked again.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stocked.len()
    }

    /// Whether the broker is asked for the next one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
