//! One case of the table, step by step.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use scratch_client::{ConnectOptions, Pidfd};
use scratch_tests::{Broker, DEADLINE};
use serde_json::{Value, json};

use super::answers;
use super::client::OtherProcess;
use super::connection::Connection;
use super::flavour::{Client, Way};
use super::look::{Mount, pause, until};
use super::observer::Observer;
use super::requests::{AllPassed, Passed, lease};
use super::table::{Case, Step};
use super::values::{Stop, Variables, demand, no_word};

/// A second tenant; what it is called does not matter.
const OTHER_TENANT: u32 = 1234;

/// Everything that a case has opened, by name. `main` is its connection.
pub(super) struct Run<'a> {
    way: Way,
    broker: &'a Broker,
    pub(super) case: &'a Case,
    pub(super) variables: Variables,
    pub(super) connections: HashMap<String, Connection>,
    observers: HashMap<String, Observer>,
    clients: HashMap<String, OtherProcess>,
    children: HashMap<String, (Child, Pidfd)>,
    ends: HashMap<String, End>,
    pub(super) files: HashMap<String, File>,
    pub(super) mounts: HashMap<String, Mount>,
    /// The leases that channels reach.
    channels: HashMap<String, String>,
    /// Which connection the last call went by.
    last: String,
}

/// The end of a pair that stays here.
#[expect(dead_code, reason = "held until it is closed")]
enum End {
    Stream(UnixStream),
    Datagrams(UnixDatagram),
}

impl<'a> Run<'a> {
    pub(super) fn new(way: Way, broker: &'a Broker, case: &'a Case, elsewhere: Option<&Path>) -> Self {
        let mut variables = Variables::default();
        variables.set("pid", std::process::id());
        variables.set("tenant", OTHER_TENANT);
        variables.set("uid", rustix::process::geteuid().as_raw());
        if let Some(elsewhere) = elsewhere {
            variables.set("elsewhere", elsewhere.to_str().expect("a test's paths are texts"));
        }
        let mut run = Self {
            way,
            broker,
            case,
            variables,
            connections: HashMap::new(),
            observers: HashMap::new(),
            clients: HashMap::new(),
            children: HashMap::new(),
            ends: HashMap::new(),
            files: HashMap::new(),
            mounts: HashMap::new(),
            channels: HashMap::new(),
            last: String::new(),
        };
        run.connections.insert("main".to_owned(), run.connected());
        run
    }

    /// The step at this place among those of the case.
    /// `instead`: a call is answered so, and not as the table says.
    pub(super) fn step(&mut self, at: usize, instead: Option<&Value>) -> Result<(), Stop> {
        let step = &self.case.steps[at].1;
        match step.verb {
            "call" => self.call(step, instead),
            "open" => self.open(step),
            "child" => self.child(step.object()),
            "kill" => self.kill(step.object()),
            "close" => self.close(step.object()),
            "make" => self.make(step),
            "check" => self.check(step),
            "descriptor" => self.descriptor(step),
            "let" => self.set(&step.keys["let"]),
            "packet" => no_word("the SDK sends no packets but its own"),
            "client" => self.client_of_another_process(step),
            verb => no_word(format!("nothing here can {verb}")),
        }
    }

    /// Takes back what the last call made, which should have made nothing.
    pub(super) fn unmake(&mut self) {
        if let Some(connection) = self.connections.get_mut(&self.last) {
            connection.unmake();
        }
    }

    /// A connection that the broker has taken: those of the case before may still be counted.
    fn connected(&self) -> Connection {
        let end = Instant::now() + DEADLINE;
        loop {
            let connection = Connection::new(self.client());
            match connection.ping() {
                Ok(()) => return connection,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            pause();
        }
    }

    fn client(&self) -> Client {
        let runtime_directory = Some(self.broker.runtime_dir());
        let options = ConnectOptions { runtime_directory, create: Some(self.way.create), ..ConnectOptions::default() };
        self.way.connect(&options)
    }

    fn call(&mut self, step: &Step, instead: Option<&Value>) -> Result<(), Stop> {
        for _ in 0..step.keys["repeat"].as_u64().unwrap_or(1) {
            until(step, || self.call_once(step, instead))?;
        }
        Ok(())
    }

    fn call_once(&mut self, step: &Step, instead: Option<&Value>) -> Result<(), Stop> {
        let (name, expect) = (step.object(), &step.keys["expect"]);
        let request = self.variables.expand(&step.keys["request"])?;
        let via = step.keys["via"].as_str().unwrap_or("main");
        if step.keys.get("raw").is_some() || step.keys.get("headers").is_some() {
            return no_word("the SDK's bytes and headers are its own");
        }
        let told = if let Some(observer) = self.observers.get(via) {
            observer.call(name, &request)?
        } else if let Some(client) = self.clients.get_mut(via) {
            client.call(name, &request)?
        } else {
            let mut passed = self.passed(&step.keys["descriptors"])?;
            self.last = via.to_owned();
            let Some(connection) = self.connections.get_mut(via) else { return no_word(format!("there is no {via}")) };
            connection.call(name, &request, &mut passed)?
        };
        let (told, files) = match told {
            Err(error) => (json!({"error": error}), Vec::new()),
            Ok((mut reply, files)) => {
                if name == "Areas.Release" && request["wait"] == "WAIT_FREED" {
                    // Waiting for that is not the SDK's.
                    Observer::new(self.broker).wait_freed(expect["reply"]["freed"] != false);
                }
                if name == "Channel.Delegate" && !expect["reply"]["lease"].is_null() {
                    // delegate() gives the channel alone; which lease it reaches shows from outside.
                    if let Some(id) = Observer::new(self.broker).lease_below(lease(&request)) {
                        let channel = expect["descriptors"][0].as_str().unwrap_or_default();
                        self.channels.insert(channel.to_owned(), id.clone());
                        reply["lease"] = id.into();
                    }
                }
                (json!({"reply": reply}), files)
            }
        };
        match instead {
            None => {
                self.answers(expect, &told)?;
                self.take(expect, files)
            }
            Some(_) if self.answers(expect, &told).is_ok() => Err(Stop::Wrong("holds".to_owned())),
            Some(instead) => self.answers(instead, &told),
        }
    }

    /// Compares what was told with what is expected of it.
    fn answers(&mut self, expect: &Value, told: &Value) -> Result<(), Stop> {
        demand(expect.get("error").is_some() == told.get("error").is_some(), expect, told, "answer")?;
        for of in ["error", "reply"] {
            if let Some(expected) = expect.get(of) {
                self.variables.compare(expected, &told[of], of).map_err(|stop| stop.of(told))?;
            }
        }
        Ok(())
    }

    /// The descriptors that came, by the names that the table has for them.
    fn take(&mut self, expect: &Value, files: Vec<File>) -> Result<(), Stop> {
        let Some(names) = expect["descriptors"].as_array() else { return Ok(()) };
        demand(names.len() == files.len(), &expect["descriptors"], &files.len().into(), "descriptors")?;
        let names = names.iter().filter_map(Value::as_str).map(str::to_owned);
        self.files.extend(names.zip(files));
        Ok(())
    }

    fn passed(&mut self, descriptors: &Value) -> Result<AllPassed, Stop> {
        let mut passed = AllPassed::new();
        for text in descriptors.as_array().into_iter().flatten() {
            let text = self.variables.text(text)?;
            let (word, rest) = text.split_once(':').unwrap_or((&text, ""));
            passed.push_back(match word {
                "pidfd" if rest.is_empty() => {
                    Passed::Process(Pidfd::open(std::process::id()).expect("this process lives"))
                }
                "pidfd" => Passed::Process(self.children[rest].1.clone()),
                "pair" => {
                    let (near, far) = UnixStream::pair().expect("sockets can be made");
                    self.ends.insert(rest.to_owned(), End::Stream(near));
                    Passed::Socket(far.into())
                }
                "datagrams" => {
                    let (near, far) = UnixDatagram::pair().expect("sockets can be made");
                    self.ends.insert(rest.to_owned(), End::Datagrams(near));
                    Passed::Socket(far.into())
                }
                "directory" | "file" => Passed::Path(PathBuf::from(rest)),
                other => panic!("no such descriptor: {other}"),
            });
        }
        Ok(passed)
    }

    fn open(&mut self, step: &Step) -> Result<(), Stop> {
        let name = step.object().to_owned();
        if step.text("road") == "grpc" {
            self.observers.insert(name, Observer::new(self.broker));
            return Ok(());
        }
        let expect = &step.keys["expect"];
        if let Some(error) = expect.get("error") {
            // Whom the broker turns away hears of it with the first call.
            let connection = Connection::new(self.client());
            let told = connection.ping().map_or_else(|error| answers::error(&error), |()| json!({}));
            self.variables.compare(error, &told, "error").map_err(|stop| stop.of(&told))?;
            self.connections.insert(name, connection);
            return Ok(());
        }
        let connection = match step.text("descriptor") {
            "" => self.connected(),
            channel => {
                let own = self.channels.remove(channel);
                let Some(channel) = self.files.remove(channel) else { return no_word("no such channel came") };
                Connection::of_channel(self.way.delegated(channel.into()), own)
            }
        };
        self.connections.insert(name, connection);
        Ok(())
    }

    fn client_of_another_process(&mut self, step: &Step) -> Result<(), Stop> {
        if step.text("road") == "grpc" {
            return no_word("another process is a client of the SDK");
        }
        let user = step.keys.get("tenant").map(|_| OTHER_TENANT);
        let client = OtherProcess::start(self.way, self.broker, user);
        self.variables.set(format!("{}.pid", step.object()), client.number());
        self.clients.insert(step.object().to_owned(), client);
        Ok(())
    }

    fn child(&mut self, name: &str) -> Result<(), Stop> {
        let child = Command::new("sleep").arg("100000").stdin(Stdio::null()).spawn().expect("sleep(1) is there");
        self.variables.set(format!("{name}.pid"), child.id());
        // Kept beyond its end, so that it can be passed when there is nobody behind it any more.
        let pidfd = Pidfd::open(child.id()).expect("a child that was not waited for has a pidfd");
        self.children.insert(name.to_owned(), (child, pidfd));
        Ok(())
    }

    fn kill(&mut self, name: &str) -> Result<(), Stop> {
        if let Some(client) = self.clients.remove(name) {
            client.kill();
            return Ok(());
        }
        let (child, _) = self.children.get_mut(name).expect("what is killed was started");
        child.kill().and_then(|()| child.wait()).expect("our own child can be killed");
        Ok(())
    }

    fn close(&mut self, name: &str) -> Result<(), Stop> {
        if let Some(connection) = self.connections.remove(name) {
            connection.close();
            return Ok(());
        }
        let was_there = self.ends.remove(name).is_some() || self.mounts.remove(name).is_some();
        if was_there { Ok(()) } else { no_word(format!("{name} was not opened")) }
    }

    fn set(&mut self, values: &Value) -> Result<(), Stop> {
        for (name, value) in values.as_object().expect("let has variables") {
            let value = self.variables.expand(value)?;
            self.variables.set(name, value);
        }
        Ok(())
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        for (child, _) in self.children.values_mut() {
            // It may have been killed and waited for.
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}
