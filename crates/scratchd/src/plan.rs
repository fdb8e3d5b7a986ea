//! A Create that was checked: what is to be made, how often, how it is called and where it goes.

use std::ffi::{CStr, CString};

use scratch_fs::{NamePattern, Naming, check_name, split_area_path};
use scratch_lease::AreaKind;
use scratch_proto::{BATCH_MAX, PACKET_BYTES_MAX, v1};

use crate::client::Road;
use crate::reason::RequestError;

/// Bytes that a Created takes beside its name: tags, lengths, `fd`.
const CREATED_BYTES: usize = 8;
/// Room for the rest of the reply: id, envelope, and a first lease with its path.
const REPLY_BYTES: usize = 6 * 1024;

const FOREIGN: &str = "a directory that the client passes";

/// A request that was checked: nothing in it can be refused by us any more, only by the kernel.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) kind: AreaKind,
    pub(crate) naming: Naming<'a>,
    pub(crate) mode: u32,
    pub(crate) place: Option<CString>,
    pub(crate) want_handle: bool,
    pub(crate) count: usize,
    pub(crate) resend: bool,
}

/// An exact name, checked; `None` for a random one.
pub(crate) fn exact_name(request: &v1::CreateRequest) -> Result<Option<CString>, RequestError> {
    if request.name.is_empty() { Ok(None) } else { Ok(Some(check_name(&request.name)?)) }
}

/// Checks a request whole, before anything is made.
///
/// # Errors
/// Whatever is wrong with it.
pub(crate) fn plan<'a>(
    road: Road,
    request: &'a v1::CreateRequest,
    exact: Option<&'a CStr>,
) -> Result<Plan<'a>, RequestError> {
    let kind = match request.kind() {
        v1::Kind::File => AreaKind::File,
        v1::Kind::Directory => AreaKind::Directory,
        v1::Kind::Anonymous => AreaKind::Anonymous,
        v1::Kind::Memory => AreaKind::Memory,
        v1::Kind::Unspecified => return Err(RequestError::Kind("no kind, or one of another version; set one")),
    };
    let count = request.count.max(1);
    if count > BATCH_MAX {
        return Err(RequestError::BatchSize(count));
    }
    let named = matches!(kind, AreaKind::File | AreaKind::Directory);
    if exact.is_some() && count > 1 {
        return Err(RequestError::Kind("an exact name goes with one area; send several requests"));
    }
    if exact.is_some() && !named {
        return Err(RequestError::Kind("an anonymous or memory area has no name; leave it out"));
    }
    let mode = request.mode.unwrap_or(if kind == AreaKind::Directory { 0o700 } else { 0o600 });
    if mode & !0o777 != 0 {
        return Err(RequestError::Mode(mode));
    }
    let naming = match exact {
        Some(name) => Naming::Exact(name),
        None => Naming::Random(pattern(request)?),
    };
    let name_bytes = match &naming {
        Naming::Exact(name) => name.to_bytes().len(),
        Naming::Random(pattern) => pattern.length(),
    };
    if count as usize * (name_bytes + CREATED_BYTES) + REPLY_BYTES > PACKET_BYTES_MAX {
        return Err(RequestError::ReplyTooLarge);
    }
    Ok(Plan {
        kind,
        naming,
        mode,
        place: place(road, request)?,
        want_handle: request.want_handle || !named,
        count: count as usize,
        resend: request.resend,
    })
}

fn pattern(request: &v1::CreateRequest) -> Result<NamePattern<'_>, RequestError> {
    let chars = if request.random_chars == 0 { 8 } else { request.random_chars };
    if !(3..=64).contains(&chars) {
        return Err(RequestError::RandomChars(request.random_chars));
    }
    let prefix = request.prefix.as_deref().unwrap_or(b"tmp");
    Ok(NamePattern::new(prefix, &request.suffix, chars as usize)?)
}

fn place(road: Road, request: &v1::CreateRequest) -> Result<Option<CString>, RequestError> {
    use v1::r#where::Kind;
    match request.r#where.as_ref().and_then(|place| place.kind.as_ref()) {
        None => Ok(None),
        Some(Kind::Foreign(_)) if road == Road::Grpc => Err(RequestError::NeedsChannel(FOREIGN)),
        // Opened where it may take its time.
        Some(Kind::Foreign(_)) => Ok(None),
        Some(Kind::Directory(path)) => {
            split_area_path(path)?;
            Ok(Some(CString::new(path.as_slice()).map_err(|_| scratch_fs::NameError::Nul)?))
        }
    }
}
