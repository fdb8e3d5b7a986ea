//! Persist: an area leaves its lease for good, into a directory that the client passes. Each on a thread of its own, since
//! a client's directory may never answer and a copy takes what it takes.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::RenameFlags;
use rustix::io::Errno;
use scratch_fs::{FsError, NamePattern, Persisted, Replace, check_name, open_directory_beneath, split_area_path};
use scratch_lease::{AreaKey, AreaKind, Caller, LeaseId, Refusal};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::client::Client;
use crate::load::Counted;
use crate::peer::Identity;
use crate::reason::RequestError;
use crate::release::area_number;

/// Areas of one tenant that are persisted at once.
const UNDER_WAY_MAX: usize = 8;

/// A Persist that was checked.
#[derive(Debug)]
pub(crate) struct Persist {
    caller: Caller,
    identity: Arc<Identity>,
    lease: LeaseId,
    tenant: u32,
    parent: Option<CString>,
    name: CString,
    area: Vec<u8>,
    new_name: CString,
    replace: Replace,
    _counted: Counted,
}

impl Broker {
    /// Checks a Persist before anything is done.
    ///
    /// # Errors
    /// LEASE_UNKNOWN, NAME_INVALID, KIND_INVALID, DESCRIPTOR_COUNT, LIMIT_PERSISTS.
    pub(crate) fn check_persist(&self, client: &Client, request: v1::PersistRequest) -> Result<Persist, RequestError> {
        let lease = client.lease(&request.lease)?;
        let tenant = self.lock().table.in_place(lease, client.peer.caller)?.tenant().0;
        if tenant != client.peer.identity.uid && client.peer.identity.uid != 0 {
            // With the lease's rights and its own directory a member of the admin group could write as that tenant.
            return Err(RequestError::NotPermitted("Persist out of another tenant's lease", "root"));
        }
        if !request.fd {
            return Err(RequestError::Request("Persist needs the directory's descriptor; set fd"));
        }
        match self.kind_of_number(lease, &request.area) {
            None => {}
            Some(AreaKind::File | AreaKind::Directory) => {
                return Err(RequestError::Kind("an area in a directory of your own is yours when you rename it"));
            }
            Some(AreaKind::Anonymous | AreaKind::Memory) => {
                return Err(RequestError::Kind(
                    "an area without a name can't be persisted; link its descriptor instead",
                ));
            }
        }
        let (parent, name) = split_area_path(&request.area)?;
        let counted = client.outgoing.persist(UNDER_WAY_MAX);
        Ok(Persist {
            caller: client.peer.caller,
            identity: self.identity_for(client, lease)?,
            lease,
            tenant,
            parent,
            name,
            new_name: check_name(&request.name)?,
            replace: match request.replace() {
                v1::Replace::Unspecified | v1::Replace::Never => Replace::Never,
                v1::Replace::Always => Replace::Always,
                v1::Replace::Exchange => Replace::Exchange,
            },
            area: request.area,
            _counted: counted.ok_or(RequestError::LimitPersists { limit: UNDER_WAY_MAX })?,
        })
    }

    fn kind_of_number(&self, lease: LeaseId, area: &[u8]) -> Option<AreaKind> {
        let number = area_number(area)?;
        self.lock().table.lease(lease)?.area_kind(&AreaKey::Number(number))
    }

    /// Carries it out, on the thread of this Persist alone: it may block for ever.
    ///
    /// # Errors
    /// NAME_EXISTS, PATH_UNKNOWN, PERMISSION, NO_SPACE and what else the kernel has to say; the area stays then.
    pub(crate) fn persist(&self, persist: Persist, directory: OwnedFd) -> Result<v1::PersistResponse, RequestError> {
        let moved = self.move_out(&persist, &directory);
        self.side.close(persist.tenant, vec![directory]);
        let persisted = match moved {
            Ok(persisted) => persisted,
            // What failed in a lease that has ended meanwhile failed for that.
            Err(error) => return Err(self.why(&persist, error)),
        };
        if persist.replace != Replace::Exchange {
            let mut state = self.lock();
            let kind = state.table.remove_area(persist.lease, &AreaKey::Name(persist.area.as_slice().into()));
            if kind != Some(AreaKind::File) {
                state.table.remove_areas_below(persist.lease, &persist.area);
            }
        }
        tracing::info!(lease = %persist.lease, copied = persisted.copied, "an area was persisted");
        Ok(v1::PersistResponse { copied: persisted.copied })
    }

    fn why(&self, persist: &Persist, error: RequestError) -> RequestError {
        self.lock().table.live(persist.lease, persist.caller).err().map_or(error, Into::into)
    }

    /// With the tenant's own rights: the kernel decides whether it may.
    fn move_out(&self, persist: &Persist, directory: &OwnedFd) -> Result<Persisted, RequestError> {
        let held = self.open_lease(persist.lease)?;
        let pool = self.pool_of(persist.lease).ok_or(Refusal::LeaseUnknown)?;
        let rights = persist
            .identity
            .assume(self.uid)
            .map_err(|errno| FsError::new("take on the tenant's rights", "", errno))?;
        let opened = match &persist.parent {
            None => None,
            Some(parent) => Some(
                open_directory_beneath(held.as_fd(), parent)
                    .map_err(|errno| FsError::new("open directory of lease", shown(parent), errno))?,
            ),
        };
        let from = opened.as_ref().unwrap_or(&held).as_fd();
        let persisted = scratch_fs::persist(from, &persist.name, directory.as_fd(), &persist.new_name, persist.replace)
            .map_err(|error| named(persist, error))?;
        if let Some(error) = &persisted.leftover {
            tracing::warn!(lease = %persist.lease, %error, "what was replaced stays under a temporary name, ignoring");
        }
        let source = persisted.source.as_ref().and_then(|source| set_aside(from, source));
        drop(rights);
        if let Some(aside) = source {
            // The original of a copied directory goes as any other area.
            match self.take_tree(pool, from, &aside, (persist.lease, persist.tenant)) {
                Ok(tree) => self.reaper.push(pool.id, tree, None),
                Err(error) => {
                    tracing::warn!(lease = %persist.lease, %error, "a copied area stays until its lease ends")
                }
            }
        }
        Ok(persisted)
    }
}

/// Renames what was copied within its directory, with the tenant's rights: the broker's own are for what the tenant could
/// take away itself. Nothing where it can't: that stays until the lease ends.
fn set_aside(from: BorrowedFd<'_>, source: &CStr) -> Option<CString> {
    let aside = NamePattern::new(b".scratch-", b"", 16).ok()?.draw().ok()?;
    match rustix::fs::renameat_with(from, source, from, &aside, RenameFlags::NOREPLACE) {
        Ok(()) => Some(aside),
        Err(errno) => {
            tracing::info!(%errno, "a copied area is not the tenant's to take away; it stays until its lease ends");
            None
        }
    }
}

fn named(persist: &Persist, error: FsError) -> RequestError {
    if error.errno == Errno::EXIST && persist.replace == Replace::Never {
        return RequestError::NameTaken(shown(&persist.new_name).to_owned());
    }
    error.into()
}

fn shown(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}
