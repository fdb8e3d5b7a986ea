//! Another process of the table with a connection of its own: this program again, in a role. It takes calls on stdin and answers
//! on stdout, one JSON value a line.

use std::io::stdin;

use scratch_client::{ConnectOptions, CreateMode};
use scratch_tests::{Broker, Dialogue};
use serde_json::{Value, json};

use super::connection::{Connection, Told};
use super::flavour::Way;
use super::requests::AllPassed;
use super::values::{Stop, no_word};
use crate::sdk::process::{Role, SAYS, process, says};

const FLAVOUR: &str = "SCRATCH_SDK_FLAVOUR";

pub(super) struct OtherProcess(Dialogue);

impl OtherProcess {
    pub(super) fn start(way: Way, broker: &Broker, user: Option<u32>) -> Self {
        let mut command = process(broker, Role::Conformance, user);
        command.env("SCRATCHD_CREATE", if way.create == CreateMode::Auto { "auto" } else { "broker" });
        command.env(FLAVOUR, if way.is_async { "async" } else { "blocking" });
        Self(Dialogue::start(command))
    }

    pub(super) fn number(&self) -> i32 {
        self.0.process().as_raw_nonzero().get()
    }

    pub(super) fn call(&mut self, name: &str, request: &Value) -> Result<Told, Stop> {
        self.0.say(&json!([name, request]).to_string());
        let mut told: Value = serde_json::from_str(&says(&mut self.0)).expect("it answers in JSON");
        match told["noWord"].as_str() {
            Some(why) => no_word(why),
            None if told["error"].is_null() => Ok(Ok((told["reply"].take(), Vec::new()))),
            None => Ok(Err(told["error"].take())),
        }
    }

    pub(super) fn kill(self) {
        rustix::process::kill_process(self.0.process(), rustix::process::Signal::KILL).expect("a child can be killed");
        assert_eq!(self.0.wait().code(), None);
    }
}

/// What the other process does.
pub(in crate::sdk) fn serve() {
    let is_async = std::env::var(FLAVOUR).is_ok_and(|flavour| flavour == "async");
    // Who makes areas says SCRATCHD_CREATE.
    let client = Way { is_async, create: CreateMode::Auto }.connect(&ConnectOptions::default());
    let mut connection = Connection::new(client);
    for line in stdin().lines() {
        let line = line.expect("stdin can be read");
        let question: Value = serde_json::from_str(&line).expect("it is asked in JSON");
        let name = question[0].as_str().expect("a call has a name");
        let told = match connection.call(name, &question[1], &mut AllPassed::new()) {
            Ok(Ok((reply, _))) => json!({"reply": reply}),
            Ok(Err(error)) => json!({"error": error}),
            Err(Stop::NoWord(why)) => json!({"noWord": why}),
            Err(Stop::Wrong(wrong)) => panic!("{wrong}"),
        };
        println!("\n{SAYS}{told}");
    }
}
