//! A connection of the table, by the SDK: its client, the guards of what it made, and the calls that there are words for.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use scratch_client::{AreaOptions, ClientError};
use serde_json::{Value, json};

use super::answers::{self, granted, own_lease};
use super::area::Area;
use super::flavour::{Client, Lease, Of, RUNTIME, ask, get, look};
use super::requests::{self, AllPassed, Passed, lease};
use super::values::{Stop, bytes, hex, no_word};

/// What a call gave: its reply and the descriptors that came, or an error.
pub(super) type Told = Result<(Value, Vec<File>), Value>;
/// By lease and name.
type Place = (String, Vec<u8>);

pub(super) struct Connection {
    areas: HashMap<Place, Area>,
    leases: HashMap<String, Lease>,
    client: Client,
    /// What the last call made.
    last: Vec<Place>,
    /// Those in directories that were named, in their order: the broker numbers them.
    elsewhere: Vec<Place>,
    /// The directory of its own lease, of which was told.
    own: Option<PathBuf>,
}

impl Connection {
    pub(super) fn new(client: Client) -> Self {
        Self {
            areas: HashMap::new(),
            leases: HashMap::new(),
            client,
            last: Vec::new(),
            elsewhere: Vec::new(),
            own: None,
        }
    }

    pub(super) fn ping(&self) -> Result<(), ClientError> {
        ask!(&self.client, ping())
    }

    /// Closes the connection and nothing else.
    pub(super) fn close(self) {
        self.areas.into_values().for_each(Area::keep);
        self.leases.into_values().for_each(|lease| look!(lease, leave()));
    }

    /// Takes back what the last call made.
    pub(super) fn unmake(&mut self) {
        for place in self.last.drain(..) {
            self.areas.remove(&place);
        }
    }

    pub(super) fn call(&mut self, name: &str, request: &Value, passed: &mut AllPassed) -> Result<Told, Stop> {
        self.last.clear();
        let answer = match name {
            "Channel.Ping" => self.ping().map(|()| (json!({}), Vec::new())),
            "Channel.Delegate" => self.delegate(request)?,
            "Leases.Grant" => self.grant(request, passed)?,
            "Leases.Revoke" => ask!(&self.client, revoke(lease(request))).map(|()| (json!({}), Vec::new())),
            "Leases.Attach" => self.attach(request, passed)?,
            "Leases.Detach" => {
                let holder = if request["holder"].is_null() { 0 } else { requests::number(&request["holder"]) };
                ask!(&self.client, detach(lease(request), holder)).map(|()| (json!({}), Vec::new()))
            }
            "Leases.KeepAlive" => {
                let renewed = match self.leases.get(lease(request)) {
                    Some(lease) => ask!(lease, keep_alive()),
                    None => ask!(&self.client, keep_alive(lease(request))),
                };
                renewed.map(|ttl| (json!({"grantedTtl": answers::duration(ttl)}), Vec::new()))
            }
            "Areas.Create" => self.create(request, passed)?,
            "Areas.Release" => self.release(request)?,
            "Areas.Persist" => self.persist(request, passed)?,
            _ => return no_word(format!("the SDK has no {name}")),
        };
        if !passed.is_empty() {
            return no_word("the SDK passes no descriptor that it does not speak of");
        }
        let told = answer.map(|(reply, files)| (answers::reply(name, reply), files));
        Ok(told.map_err(|error| answers::error(&error)))
    }

    fn grant(&mut self, request: &Value, passed: &mut AllPassed) -> Called {
        let options = requests::grant(request, passed)?;
        if !passed.is_empty() {
            return no_word("the SDK passes no descriptor that it does not speak of");
        }
        Ok(get!(&self.client, grant(&options)).map(|lease: Lease| {
            let mount = match &lease {
                Of::Blocking(lease) => lease.mount(),
                Of::Async(lease) => lease.mount(),
            };
            let mount = mount.map(|mount| mount.mount.try_clone().expect("a descriptor can be copied").into());
            let reply = granted(&lease);
            if let Some(same) = self.leases.insert(look!(&lease, id()).to_owned(), lease) {
                look!(same, leave());
            }
            (reply, mount.into_iter().collect())
        }))
    }

    fn attach(&self, request: &Value, passed: &mut AllPassed) -> Called {
        let holder = requests::holder(&request["holder"], passed)?;
        Ok(ask!(&self.client, attach(lease(request), &holder)).map(|id| (json!({"holder": {"id": id}}), Vec::new())))
    }

    fn delegate(&self, request: &Value) -> Called {
        let limits = requests::limits(&request["limits"]);
        let channel = match lease(request) {
            "" => ask!(&self.client, delegate(limits)),
            id => ask!(self.guard(id)?, delegate(limits)),
        };
        Ok(channel.map(|channel| (json!({}), vec![channel.into()])))
    }

    fn create(&mut self, request: &Value, passed: &mut AllPassed) -> Called {
        let options = requests::area(request)?;
        let (kind, place) = (request["kind"].as_str().unwrap_or_default(), &request["where"]["foreign"]["fd"]);
        let directory = match passed.pop_front() {
            Some(Passed::Path(path)) if *place == true => Some(path),
            None if request["where"].is_null() => None,
            _ => return no_word("an area is made in its lease's directory or in one that is named"),
        };
        if kind == "KIND_DIRECTORY" && request["wantHandle"] == true {
            return no_word("a directory comes without a descriptor");
        }
        let count = (!request["count"].is_null()).then(|| requests::number::<u32>(&request["count"]));
        match (kind, directory, count) {
            ("KIND_FILE", Some(path), None) => self.file_in(lease(request), &path, &options),
            ("KIND_DIRECTORY", Some(path), None) => self.directory_in(lease(request), &path, &options),
            ("KIND_FILE", None, None) => self.file(lease(request), &options),
            ("KIND_DIRECTORY", None, None) => self.directory(lease(request), &options),
            ("KIND_FILE", None, Some(count)) => self.files(lease(request), &options, count),
            ("KIND_ANONYMOUS" | "KIND_MEMORY", None, count) if options.name.is_none() => {
                self.nameless(lease(request), kind, count)
            }
            _ => no_word(format!("no method makes {kind:?} areas with this request")),
        }
    }

    /// An area in the lease's directory.
    pub(super) fn file(&mut self, id: &str, options: &AreaOptions) -> Called {
        let made = match id {
            "" => get!(&self.client, file(options)),
            id => get!(self.guard(id)?, file(options)),
        };
        Ok(made.map(|file| self.made(id, vec![Area::File(file)])))
    }

    pub(super) fn directory(&mut self, id: &str, options: &AreaOptions) -> Called {
        let made = match id {
            "" => get!(&self.client, directory(options)),
            id => get!(self.guard(id)?, directory(options)),
        };
        Ok(made.map(|directory| self.made(id, vec![Area::Directory(directory)])))
    }

    fn file_in(&mut self, id: &str, path: &Path, options: &AreaOptions) -> Called {
        let made = get!(self.guard(id)?, file_in(path, options));
        Ok(made.map(|file| self.made_elsewhere(id, Area::File(file))))
    }

    fn directory_in(&mut self, id: &str, path: &Path, options: &AreaOptions) -> Called {
        let made = get!(self.guard(id)?, directory_in(path, options));
        Ok(made.map(|directory| self.made_elsewhere(id, Area::Directory(directory))))
    }

    fn files(&mut self, id: &str, options: &AreaOptions, count: u32) -> Called {
        if options.name.is_some() || count > scratch_proto::BATCH_MAX {
            return no_word("files() draws the names, and asks for so many batches as it takes");
        }
        let made = match self.guard(id)? {
            Of::Blocking(lease) => {
                lease.files(options, count).map(|files| files.into_iter().map(Of::Blocking).collect::<Vec<_>>())
            }
            Of::Async(lease) => {
                let files = RUNTIME.block_on(lease.files(options, count));
                files.map(|files| files.into_iter().map(Of::Async).collect())
            }
        };
        Ok(made.map(|files| self.made(id, files.into_iter().map(Area::File).collect())))
    }

    fn nameless(&mut self, id: &str, kind: &str, count: Option<u32>) -> Called {
        let made = match (id, kind, count) {
            ("", "KIND_ANONYMOUS", None) => ask!(&self.client, anonymous()).map(|file| vec![file]),
            ("", "KIND_MEMORY", None) => ask!(&self.client, memory()).map(|file| vec![file]),
            ("", ..) => return no_word("a client makes one at a time"),
            (id, "KIND_ANONYMOUS", None) => ask!(self.guard(id)?, anonymous()).map(|file| vec![file]),
            (id, "KIND_ANONYMOUS", Some(count)) => ask!(self.guard(id)?, anonymous_files(count)),
            (id, _, None) => ask!(self.guard(id)?, memory()).map(|file| vec![file]),
            _ => return no_word("memory files are made one at a time"),
        };
        Ok(made.map(|files| (json!({"areas": vec![json!({}); files.len()]}), files)))
    }

    fn made_elsewhere(&mut self, id: &str, area: Area) -> (Value, Vec<File>) {
        self.elsewhere.push((id.to_owned(), area.name().to_vec()));
        self.made(id, vec![area])
    }

    /// Keeps the guards, and tells of them.
    fn made(&mut self, id: &str, areas: Vec<Area>) -> (Value, Vec<File>) {
        let names: Vec<_> = areas.iter().map(|area| json!({"name": hex(area.name())})).collect();
        let files = areas.iter().filter_map(Area::opened).collect();
        let mut reply = json!({"areas": names});
        let directory = areas.first().and_then(Area::path).and_then(Path::parent);
        if let Some(directory) = directory.filter(|path| id.is_empty() && self.own.as_deref() != Some(*path)) {
            reply["lease"] = own_lease(directory);
            self.own = Some(directory.to_owned());
        }
        for area in areas {
            let place = (id.to_owned(), area.name().to_vec());
            self.last.push(place.clone());
            self.areas.insert(place, area);
        }
        (reply, files)
    }

    fn release(&mut self, request: &Value) -> Called {
        let (_, area) = self.take_area(request)?;
        Ok(area.close().map(|()| (json!({"existed": true}), Vec::new())))
    }

    fn persist(&mut self, request: &Value, passed: &mut AllPassed) -> Called {
        let directory = match passed.pop_front() {
            Some(Passed::Path(path)) => requests::opened(path),
            Some(Passed::Socket(socket)) => socket,
            Some(Passed::Process(_)) | None => return no_word("persist() goes to a directory"),
        };
        let (place, area) = self.take_area(request)?;
        let persisted = area.persist(directory, &bytes(request, "name"), requests::replace(request));
        let copied = persisted.map_err(|failed| {
            self.areas.insert(place, failed.guard);
            failed.error
        });
        Ok(copied.map(|copied| (json!({"copied": copied}), Vec::new())))
    }

    fn take_area(&mut self, request: &Value) -> Result<(Place, Area), Stop> {
        let (lease, area) = (lease(request), bytes(request, "area"));
        let number = area.to_str().and_then(|area| area.strip_prefix('#')?.parse::<usize>().ok());
        let place = match number {
            Some(number) => self.elsewhere.iter().filter(|(of, _)| of == lease).nth(number.saturating_sub(1)).cloned(),
            None => Some((lease.to_owned(), area.into_encoded_bytes())),
        };
        let place = place.unwrap_or_default();
        self.areas.remove_entry(&place).ok_or_else(|| Stop::NoWord("there is no guard of such an area".to_owned()))
    }

    /// The guard of the lease whose directory this is.
    pub(super) fn lease_at(&self, path: &Path) -> Option<String> {
        self.leases.iter().find(|(_, lease)| look!(lease, path()) == Some(path)).map(|(id, _)| id.clone())
    }

    fn guard(&self, id: &str) -> Result<&Lease, Stop> {
        self.leases.get(id).ok_or_else(|| Stop::NoWord("areas and channels are a guard's to make".to_owned()))
    }
}

/// A call that there is a word for, and how it went.
type Called = Result<Result<(Value, Vec<File>), ClientError>, Stop>;
