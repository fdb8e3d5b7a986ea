//! Answers that nobody waits for any more have to be read all the same: what they made is to be unmade, and a broker whose
//! answers stay unread closes the connection in the end, and with it what the connection holds.

use std::future::poll_fn;
use std::sync::Arc;

use crate::link::Link;
use crate::table::Next;
use crate::wait::Wait;

/// The duty to read them and to say what is still owed, which ends when nothing is left of either. Given up, it is free for
/// another.
pub(crate) struct Tending<W: Wait> {
    link: Arc<Link<W>>,
    id: u64,
}

impl<W: Wait> Tending<W> {
    /// Takes it on, if there is anything to read and nobody is at it.
    pub(crate) fn of(link: &Arc<Link<W>>) -> Option<Self> {
        let id = link.table().begin_tending()?;
        Some(Self { link: Arc::clone(link), id })
    }

    /// Ends early only with the connection.
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "the blocking flavour waits for every answer"))]
    pub(crate) async fn run(self) {
        let link = &*self.link;
        while let Next::Read(buffer) = poll_fn(|context| link.table().poll(self.id, context)).await {
            let mut reading = link.reading(buffer);
            // Where the socket is full there are requests that the broker has not read; so there will be something to read.
            link.settle();
            if link.is_settled() {
                return;
            }
            reading.read().await;
        }
    }
}

impl<W: Wait> Drop for Tending<W> {
    fn drop(&mut self) {
        self.link.table().end_tending(self.id);
    }
}
