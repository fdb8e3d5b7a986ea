//! A file in memory until it is too large for that, then one without a name.

use std::fs::File;
use std::io::{self, Cursor, Write};
use std::sync::Arc;

use ::tokio::task::{JoinHandle, spawn_blocking};

use super::socket::Tokio;
use super::{Client, Lease};
use crate::ClientError;
use crate::broker::Broker;
use crate::site::Site;
use crate::temp::SpooledData;
use crate::tenure::Tenure;

/// In memory until it would be larger than `max_size` bytes, then a file without a name. It is written from its beginning to its
/// end; to read it, or to change it, take what is inside.
///
/// It rolls *before* the write that would exceed `max_size`, as [`SpooledTempFile`](crate::temp::SpooledTempFile) does. What is
/// written to the file is written on one of tokio's blocking threads. A write that is given up may happen all the same, before those
/// that follow; if it fails, the next call says so.
#[derive(Debug)]
pub struct SpooledFile {
    max_size: usize,
    broker: Arc<Broker<Tokio>>,
    /// Absent: that of this process.
    tenure: Option<Arc<Tenure>>,
    data: Data,
}

#[derive(Debug)]
enum Data {
    /// Shared with a thread that writes them, if that was given up.
    InMemory(Arc<Vec<u8>>),
    OnDisk(Disk),
}

/// A file, and the thread that writes to it.
#[derive(Debug)]
struct Disk {
    file: Arc<File>,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Lease {
    /// Begins a file that is in memory until it is larger than so many bytes. Nothing is made before it rolls.
    #[must_use]
    pub fn spooled(&self, max_size: usize) -> SpooledFile {
        let (broker, tenure) = self.held.parts();
        SpooledFile { max_size, broker, tenure: Some(tenure), data: Data::InMemory(Arc::default()) }
    }
}

impl Client {
    /// As [`Lease::spooled`], under the lease that ends with this process; on a delegated channel, under the channel's.
    #[must_use]
    pub fn spooled(&self, max_size: usize) -> SpooledFile {
        let broker = Arc::clone(&self.broker);
        SpooledFile { max_size, broker, tenure: None, data: Data::InMemory(Arc::default()) }
    }
}

impl SpooledFile {
    /// Whether the bytes are in a file.
    #[must_use]
    pub fn is_rolled(&self) -> bool {
        matches!(self.data, Data::OnDisk(_))
    }

    /// Appends these bytes; rolls first where they would be too many.
    ///
    /// # Errors
    /// As [`Self::roll`], and those of write(2). After an error of [`Self::roll`] none of them were written.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        if let Data::InMemory(memory) = &mut self.data {
            if memory.len().saturating_add(bytes.len()) <= self.max_size {
                Arc::make_mut(memory).extend_from_slice(bytes);
                return Ok(());
            }
            self.roll().await?;
        }
        match &mut self.data {
            Data::OnDisk(disk) => disk.write_all(bytes).await,
            // It has rolled.
            Data::InMemory(_) => Err(ClientError::Protocol("a file that is in memory")),
        }
    }

    /// Moves the bytes into a file now.
    ///
    /// # Errors
    /// Those of granting a lease, of making the file and of write(2). The bytes are still in memory then.
    pub async fn roll(&mut self) -> Result<(), ClientError> {
        let Data::InMemory(memory) = &self.data else { return Ok(()) };
        let tenure = match &self.tenure {
            Some(tenure) => Arc::clone(tenure),
            None => self.broker.own_lease().await?,
        };
        let file = Arc::new(Site::of(&self.broker, &tenure).anonymous().await?);
        let (target, bytes) = (Arc::clone(&file), Arc::clone(memory));
        let written = spawn_blocking(move || (&*target).write_all(&bytes)).await;
        told(written.unwrap_or_else(|lost| Err(lost.into())))?;
        self.data = Data::OnDisk(Disk { file, writing: None });
        Ok(())
    }

    /// Where the bytes are. The position is behind them.
    ///
    /// # Errors
    /// Those of a write that was given up.
    pub async fn into_inner(self) -> Result<SpooledData, ClientError> {
        match self.data {
            Data::InMemory(memory) => {
                let mut cursor = Cursor::new(Arc::unwrap_or_clone(memory));
                cursor.set_position(cursor.get_ref().len() as u64);
                Ok(SpooledData::InMemory(cursor))
            }
            Data::OnDisk(disk) => Ok(SpooledData::OnDisk(disk.into_file().await?)),
        }
    }

    /// A file, rolled if need be. The position is behind the bytes.
    ///
    /// # Errors
    /// As [`Self::roll`], and those of a write that was given up.
    pub async fn into_file(mut self) -> Result<File, ClientError> {
        self.roll().await?;
        match self.data {
            Data::OnDisk(disk) => disk.into_file().await,
            // It has rolled.
            Data::InMemory(_) => Err(ClientError::Protocol("a file that is in memory")),
        }
    }
}

impl Disk {
    async fn write_all(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.settle().await?;
        let (file, bytes) = (Arc::clone(&self.file), bytes.to_vec());
        self.writing = Some(spawn_blocking(move || (&*file).write_all(&bytes)));
        self.settle().await
    }

    /// Waits for the thread that writes.
    async fn settle(&mut self) -> Result<(), ClientError> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let written = writing.await;
        self.writing = None;
        told(written.unwrap_or_else(|lost| Err(lost.into())))
    }

    async fn into_file(mut self) -> Result<File, ClientError> {
        self.settle().await?;
        // The thread that wrote has let go of it.
        match Arc::try_unwrap(self.file) {
            Ok(file) => Ok(file),
            Err(shared) => told(shared.try_clone()),
        }
    }
}

fn told<T>(result: io::Result<T>) -> Result<T, ClientError> {
    result.map_err(|error| ClientError::std_io("write to", "a spooled file", &error))
}
