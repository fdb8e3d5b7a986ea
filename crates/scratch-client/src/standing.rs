//! What stands in a lease, by its path, whoever made it.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::RenameFlags;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{PersistRequest, Replace as WireReplace};

use crate::area::CreateMode;
use crate::owed::release;
use crate::site::Site;
use crate::spot::Spot;
use crate::wait::Wait;
use crate::{ClientError, Replace};

impl<W: Wait> Site<'_, W> {
    /// Says whether there was anything.
    pub(crate) async fn release(self, path: &Path) -> Result<bool, ClientError> {
        let op = release(&self.tenure.id, Spot::at(path)?.id());
        match self.broker.call_under(&self.tenure.id, op, &[]).await?.reply {
            Reply::Release(released) => Ok(released.existed),
            _ => Err(ClientError::Protocol("no answer to Release")),
        }
    }

    /// Says whether it was copied.
    pub(crate) async fn persist(
        self,
        path: &Path,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        replace: Replace,
    ) -> Result<bool, ClientError> {
        self.persist_spot(&Spot::at(path)?, directory, scratch_fs::check_name(name.as_bytes())?, replace).await
    }

    pub(crate) async fn persist_spot(
        self,
        spot: &Spot,
        directory: BorrowedFd<'_>,
        name: CString,
        replace: Replace,
    ) -> Result<bool, ClientError> {
        if self.rename(spot, directory, &name, replace) {
            return Ok(false);
        }
        let request = PersistRequest {
            lease: self.tenure.id.clone(),
            area: spot.id(),
            fd: true,
            name: name.into_bytes(),
            replace: WireReplace::from(replace).into(),
        };
        match self.broker.call_under(&self.tenure.id, Op::Persist(request), &[directory]).await?.reply {
            Reply::Persist(persisted) => Ok(persisted.copied),
            _ => Err(ClientError::Protocol("no answer to Persist")),
        }
    }

    /// Whether this process could move it itself. If not, for whatever reason, the broker's answer is the one that counts.
    fn rename(self, spot: &Spot, directory: BorrowedFd<'_>, name: &CStr, replace: Replace) -> bool {
        if self.broker.create == CreateMode::Broker {
            return false;
        }
        let Some(Ok(from)) = self.tenure.beneath(spot.inside.as_deref()) else { return false };
        rustix::fs::renameat_with(from.as_fd(), &spot.name, directory, name, replace.flags()).is_ok()
    }
}

impl Replace {
    pub(crate) fn flags(self) -> RenameFlags {
        match self {
            Self::Never => RenameFlags::NOREPLACE,
            Self::Always => RenameFlags::empty(),
            Self::Exchange => RenameFlags::EXCHANGE,
        }
    }
}

impl From<Replace> for WireReplace {
    fn from(replace: Replace) -> Self {
        match replace {
            Replace::Never => Self::Never,
            Replace::Always => Self::Always,
            Replace::Exchange => Self::Exchange,
        }
    }
}
