//! What is in a lease: everything in its directory, and what the broker made further down or without a name.
//! Blocks as the file system does: never on a channel thread or a task.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::FileType;
use rustix::io::Errno;
use scratch_fs::{FsError, open_directory, open_directory_beneath, split_area_path};
use scratch_lease::{AreaKey, AreaKind, Caller, LeaseId, Refusal};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::reason::RequestError;
use crate::release::area_number;
use crate::translate::{path_bytes, path_of_bytes};

/// Names that are looked at for one page's figures.
const NAMES_MAX: usize = 100_000;

/// Names that may still be looked at; nothing once there were too many.
struct Budget(usize);

impl Broker {
    /// Areas whose ids sort after `after`, in the order of the ids, of `limit` ids at most; and the last of those ids, if there
    /// are more.
    ///
    /// # Errors
    /// LEASE_UNKNOWN, LEASE_ENDING, LEASE_LOST, and the file system's.
    pub(crate) fn list_areas(
        &self,
        caller: Caller,
        lease: LeaseId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<v1::Area>, Option<Vec<u8>>), RequestError> {
        // One more, to know whether there are more.
        let made = self.made(caller, lease, after, limit + 1)?;
        let directory = self.open_lease(lease)?;
        let _rights = self.rights_in(lease)?;
        let mut ids: BTreeMap<Vec<u8>, Option<AreaKind>> =
            made.into_iter().map(|(id, kind)| (id, Some(kind))).collect();
        for entry in scratch_fs::list(directory.as_fd(), after, limit + 1)? {
            ids.entry(entry.name.into_bytes()).or_default();
        }
        let last = if ids.len() > limit { ids.keys().nth(limit - 1).cloned() } else { None };
        let mut budget = Budget(NAMES_MAX);
        let areas = ids.into_iter().take(limit);
        // What is not there any more, or is closed, is left out.
        let areas = areas.filter_map(|(id, kind)| self.area(lease, directory.as_fd(), id, kind, &mut budget).ok());
        Ok((areas.collect(), last))
    }

    /// One of them.
    ///
    /// # Errors
    /// As [`Broker::list_areas`], AREA_UNKNOWN, NAME_INVALID.
    pub(crate) fn get_area(&self, caller: Caller, lease: LeaseId, id: Vec<u8>) -> Result<v1::Area, RequestError> {
        let kind = {
            let state = self.lock();
            let lease = state.table.present(lease, caller)?;
            let number = area_number(&id).map(AreaKey::Number);
            number
                .and_then(|key| lease.area_kind(&key))
                .or_else(|| lease.area_kind(&AreaKey::Name(id.as_slice().into())))
        };
        if kind.is_none() {
            split_area_path(&id)?;
        }
        let directory = self.open_lease(lease)?;
        let _rights = self.rights_in(lease)?;
        let path = path_of_bytes(&id);
        self.area(lease, directory.as_fd(), id, kind, &mut Budget(NAMES_MAX)).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => RequestError::AreaUnknown(path),
            errno => FsError::new("look at area", path, errno).into(),
        })
    }

    /// What the broker made.
    fn made(
        &self,
        caller: Caller,
        lease: LeaseId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<BTreeMap<Vec<u8>, AreaKind>, RequestError> {
        let state = self.lock();
        let mut made: BTreeMap<Vec<u8>, AreaKind> = BTreeMap::new();
        let mut number_text = Vec::new();
        for (key, kind) in state.table.present(lease, caller)?.area_keys() {
            let id = match key {
                AreaKey::Number(number) => {
                    number_text.clear();
                    let _ = write!(number_text, "#{number}"); // writing to a Vec can't fail
                    &number_text
                }
                AreaKey::Name(name) => &name[..],
            };
            // Looked at before anything is copied: there may be a million.
            let is_later = || made.len() == limit && made.last_key_value().is_some_and(|(last, _)| id > &last[..]);
            if after.is_some_and(|after| id <= after) || is_later() {
                continue;
            }
            made.insert(id.to_vec(), kind);
            if made.len() > limit {
                made.pop_last();
            }
        }
        Ok(made)
    }

    fn rights_in(&self, lease: LeaseId) -> Result<Option<scratch_sys::Assumed>, RequestError> {
        let identity = self.lock().identities.get(&lease).cloned().ok_or(Refusal::LeaseUnknown)?;
        Ok(identity.assume(self.uid).map_err(|errno| FsError::new("take on the tenant's rights", "", errno))?)
    }

    fn area(
        &self,
        lease: LeaseId,
        directory: BorrowedFd<'_>,
        id: Vec<u8>,
        kind: Option<AreaKind>,
        budget: &mut Budget,
    ) -> Result<v1::Area, Errno> {
        let wire = |kind: v1::Kind, path, bytes| v1::Area {
            lease: lease.to_string(),
            id: id.clone(),
            kind: kind.into(),
            path,
            bytes,
        };
        match kind {
            Some(AreaKind::Anonymous) => return Ok(wire(v1::Kind::Anonymous, Vec::new(), None)),
            Some(AreaKind::Memory) => return Ok(wire(v1::Kind::Memory, Vec::new(), None)),
            Some(AreaKind::File | AreaKind::Directory) | None => {}
        }
        let foreign = area_number(&id).filter(|_| kind.is_some()).and_then(|number| self.foreign.shown(lease, number));
        if let Some((kind, path)) = foreign {
            // Not looked at: it may not answer.
            let kind = if kind == AreaKind::Directory { v1::Kind::Directory } else { v1::Kind::File };
            return Ok(wire(kind, path_bytes(&path), None));
        }
        let (parent, name) = split_area_path(&id).map_err(|_| Errno::INVAL)?;
        let opened = parent.map(|parent: CString| open_directory_beneath(directory, &parent)).transpose()?;
        let (kind, bytes) = budget.figures(opened.as_ref().map_or(directory, AsFd::as_fd), &name)?;
        let pool = self.pool_of(lease).ok_or(Errno::NOENT)?;
        let path =
            if pool.disk.has_paths() { pool.disk.lease_path(lease).join(path_of_bytes(&id)) } else { PathBuf::new() };
        Ok(wire(kind, path_bytes(&path), bytes))
    }
}

impl Budget {
    fn figures(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(v1::Kind, Option<u64>), Errno> {
        match scratch_fs::allocated(directory, name)? {
            (FileType::RegularFile, bytes) => Ok((v1::Kind::File, Some(bytes))),
            (FileType::Directory, _) => {
                // One that its owner closed to itself has no figure.
                let usage = open_directory(directory, name).ok();
                let usage = usage.and_then(|opened| scratch_fs::usage_within(opened.as_fd(), self.0));
                self.0 =
                    usage.map_or(0, |usage| self.0.saturating_sub(usize::try_from(usage.inodes).unwrap_or(self.0)));
                Ok((v1::Kind::Directory, usage.map(|usage| usage.bytes)))
            }
            (_, bytes) => Ok((v1::Kind::Unspecified, Some(bytes))),
        }
    }
}
