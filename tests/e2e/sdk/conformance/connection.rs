//! A connection of the table, by the SDK: its client, the guards of what it made, and the calls that there are words for.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use scratch_client::{AreaOptions, ClientError};
use serde_json::{Value, json};

use super::answers::{self, granted, own_lease};
use super::area::Area;
use super::flavour::{Client, Lease, Of, RUNTIME, ask, get, get_all, look};
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
    /// Its own lease, of which was told.
    own: Option<String>,
    /// The lease of a delegated channel: the client's own, which needs no id.
    channel: Option<String>,
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
            channel: None,
        }
    }

    /// `lease`: what the channel reaches, where that is known.
    pub(super) fn of_channel(client: Client, lease: Option<String>) -> Self {
        Self { channel: lease, ..Self::new(client) }
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
        let mut request = request.clone();
        if name.starts_with("Areas.") && self.channel.as_deref().is_some_and(|own| own == lease(&request)) {
            request["lease"] = "".into();
        }
        let request = &request;
        let answer = match name {
            "Channel.Ping" => self.ping().map(|()| (json!({}), Vec::new())),
            "Channel.Delegate" => self.delegate(request)?,
            "Leases.Grant" => self.grant(request, passed)?,
            "Leases.Revoke" if request["wait"] == "WAIT_FREED" => {
                let debt = ask!(&self.client, revoke_until_freed(lease(request)));
                debt.map(|debt| (json!({"freed": debt.is_empty(), "debt": debt}), Vec::new()))
            }
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

    fn delegate(&mut self, request: &Value) -> Called {
        let limits = requests::limits(&request["limits"]);
        let channel = match lease(request) {
            "" => ask!(&self.client, delegate(limits)),
            id => ask!(self.lease(id), delegate(limits)),
        };
        Ok(channel.map(|channel| (json!({}), vec![channel.into()])))
    }

    fn create(&mut self, request: &Value, passed: &mut AllPassed) -> Called {
        let options = requests::area(request)?;
        let (kind, place) = (request["kind"].as_str().unwrap_or_default(), &request["where"]["foreign"]["fd"]);
        let directory = match passed.pop_front() {
            Some(Passed::Path(path)) if *place == true => Some(path),
            None if request["where"]["foreign"].is_null() => None,
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
            ("KIND_ANONYMOUS" | "KIND_MEMORY", None, count) if options.name.is_none() && options.inside.is_none() => {
                self.nameless(lease(request), kind, count)
            }
            _ => no_word(format!("no method makes {kind:?} areas with this request")),
        }
    }

    /// An area in the lease's directory, or in one below that.
    fn file(&mut self, id: &str, options: &AreaOptions) -> Called {
        let made = match id {
            "" => get!(&self.client, file(options)),
            id => get!(self.lease(id), file(options)),
        };
        Ok(made.map(|file| self.made(id, options, vec![Area::File(file)])))
    }

    fn directory(&mut self, id: &str, options: &AreaOptions) -> Called {
        let made = match id {
            "" => get!(&self.client, directory(options)),
            id => get!(self.lease(id), directory(options)),
        };
        Ok(made.map(|directory| self.made(id, options, vec![Area::Directory(directory)])))
    }

    fn file_in(&mut self, id: &str, path: &Path, options: &AreaOptions) -> Called {
        let made = get!(self.lease(id), file_in(path, options));
        Ok(made.map(|file| self.made_elsewhere(id, Area::File(file))))
    }

    fn directory_in(&mut self, id: &str, path: &Path, options: &AreaOptions) -> Called {
        let made = get!(self.lease(id), directory_in(path, options));
        Ok(made.map(|directory| self.made_elsewhere(id, Area::Directory(directory))))
    }

    fn files(&mut self, id: &str, options: &AreaOptions, count: u32) -> Called {
        if options.name.is_some() || count > scratch_proto::BATCH_MAX {
            return no_word("files() draws the names, and asks for so many batches as it takes");
        }
        let made = match id {
            "" => get_all!(&self.client, files(options, count)),
            id => get_all!(self.lease(id), files(options, count)),
        };
        Ok(made.map(|files: Vec<_>| self.made(id, options, files.into_iter().map(Area::File).collect())))
    }

    fn nameless(&mut self, id: &str, kind: &str, count: Option<u32>) -> Called {
        let made = match (id, kind, count) {
            ("", "KIND_ANONYMOUS", None) => ask!(&self.client, anonymous()).map(|file| vec![file]),
            ("", "KIND_ANONYMOUS", Some(count)) => ask!(&self.client, anonymous_files(count)),
            // One at a time.
            ("", _, count) => (0..count.unwrap_or(1)).map(|_| ask!(&self.client, memory())).collect(),
            (id, "KIND_ANONYMOUS", None) => ask!(self.lease(id), anonymous()).map(|file| vec![file]),
            (id, "KIND_ANONYMOUS", Some(count)) => ask!(self.lease(id), anonymous_files(count)),
            (id, _, count) => {
                let lease = self.lease(id);
                (0..count.unwrap_or(1)).map(|_| ask!(lease, memory())).collect()
            }
        };
        Ok(made.map(|files: Vec<_>| {
            let mut reply = json!({"areas": vec![json!({}); files.len()]});
            self.tell_own(id, None, &mut reply);
            (reply, files)
        }))
    }

    fn made_elsewhere(&mut self, id: &str, area: Area) -> (Value, Vec<File>) {
        self.elsewhere.push((id.to_owned(), area.name().to_vec()));
        self.made(id, &AreaOptions::default(), vec![area])
    }

    /// Keeps the guards, and tells of them.
    fn made(&mut self, id: &str, options: &AreaOptions, areas: Vec<Area>) -> (Value, Vec<File>) {
        let names: Vec<_> = areas.iter().map(|area| json!({"name": hex(area.name())})).collect();
        let files = areas.iter().filter_map(Area::opened).collect();
        let mut reply = json!({"areas": names});
        self.tell_own(id, areas.first().and_then(Area::path).and_then(Path::parent), &mut reply);
        for area in areas {
            let below = options.inside.iter().flat_map(|inside| [inside.as_os_str().as_bytes(), b"/"]);
            let place = (id.to_owned(), below.chain([area.name()]).flatten().copied().collect::<Vec<_>>());
            self.last.push(place.clone());
            self.areas.insert(place, area);
        }
        (reply, files)
    }

    /// Of its own lease a connection tells once.
    fn tell_own(&mut self, id: &str, directory: Option<&Path>, reply: &mut Value) {
        let own = look!(&self.client, lease_id()).filter(|_| id.is_empty());
        if let Some(own) = own.filter(|own| self.own.as_ref() != Some(own)) {
            reply["lease"] = own_lease(&own, directory);
            self.own = Some(own);
        }
    }

    /// By its guard, or by its path where there is none.
    fn release(&mut self, request: &Value) -> Called {
        let path = PathBuf::from(bytes(request, "area"));
        let existed = match (self.take_area(request), lease(request)) {
            (Some((_, area)), _) => area.close().map(|()| true),
            (None, "") => ask!(&self.client, release(&path)),
            (None, id) => ask!(self.lease(id), release(&path)),
        };
        Ok(existed.map(|existed| (json!({"existed": existed}), Vec::new())))
    }

    fn persist(&mut self, request: &Value, passed: &mut AllPassed) -> Called {
        let directory = match passed.pop_front() {
            Some(Passed::Path(path)) => requests::opened(path),
            Some(Passed::Socket(socket)) => socket,
            Some(Passed::Process(_)) | None => return no_word("persist() goes to a directory"),
        };
        let (path, name) = (PathBuf::from(bytes(request, "area")), bytes(request, "name"));
        let replace = requests::replace(request);
        let copied = match (self.take_area(request), lease(request)) {
            (Some((place, area)), _) => area.persist(directory, &name, replace).map_err(|failed| {
                self.areas.insert(place, failed.guard);
                failed.error
            }),
            (None, "") => ask!(&self.client, persist(&path, &directory, &name, replace)),
            (None, id) => ask!(self.lease(id), persist(&path, &directory, &name, replace)),
        };
        Ok(copied.map(|copied| (json!({"copied": copied}), Vec::new())))
    }

    fn take_area(&mut self, request: &Value) -> Option<(Place, Area)> {
        let (lease, area) = (lease(request), bytes(request, "area"));
        let number = area.to_str().and_then(|area| area.strip_prefix('#')?.parse::<usize>().ok());
        let place = match number {
            Some(number) => self.elsewhere.iter().filter(|(of, _)| of == lease).nth(number.saturating_sub(1)).cloned(),
            None => Some((lease.to_owned(), area.into_encoded_bytes())),
        };
        self.areas.remove_entry(&place?)
    }

    /// The guard that it has, or one of another's lease, which ends nothing.
    fn lease(&mut self, id: &str) -> &Lease {
        let client = &self.client;
        self.leases.entry(id.to_owned()).or_insert_with(|| match client {
            Of::Blocking(client) => Of::Blocking(client.lease(id, None)),
            Of::Async(client) => Of::Async(client.lease(id, None)),
        })
    }
}

/// A call that there is a word for, and how it went.
type Called = Result<Result<(Value, Vec<File>), ClientError>, Stop>;
