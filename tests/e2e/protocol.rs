//! What docs/protocol.md shows is run as it stands there, and what it says of restarts is done; a client that knows nothing but
//! the socket finds its way by reflection.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use scratch_tests::{Broker, DEADLINE, Dialogue, Options, contained, eventually, names_in, python, source_tree};

/// What stands in the document's fences, by the name in the comment before each.
fn examples() -> Vec<(String, String)> {
    let document = fs::read_to_string(source_tree().join("docs/protocol.md")).expect("the document can be read");
    let example = |part: &str| {
        let (name, rest) = part.split_once(" -->\n```").expect("a fence follows the comment");
        let (_, code) = rest.split_once('\n').expect("a fence has lines");
        let (code, _) = code.split_once("\n```").expect("a fence ends");
        (name.to_owned(), format!("{code}\n"))
    };
    document.split("<!-- run: ").skip(1).map(example).collect()
}

/// The examples' directory: they stand in it, with the contract as in a checkout.
fn prepared(broker: &Broker) -> Vec<String> {
    let place = broker.place();
    std::os::unix::fs::symlink(source_tree().join("proto"), place.join("proto")).expect("a place is writable");
    let examples = examples();
    for (name, code) in &examples {
        fs::write(place.join(name), code).expect("a place is writable");
    }
    examples.into_iter().map(|(name, _)| name).collect()
}

/// What one of them prints.
fn printed(broker: &Broker, python: &Path, name: &str) -> String {
    let mut command = Command::new(if name.ends_with(".sh") { Path::new("sh") } else { python });
    command.arg(name).current_dir(broker.place()).env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
    // So that `python3` is the one with the packages.
    if let Some(own) = python.parent().filter(|own| own.is_absolute()) {
        command.env("PATH", format!("{}:{}", own.display(), std::env::var("PATH").unwrap_or_default()));
    }
    let output = command.stderr(Stdio::inherit()).output().expect("python was there a moment ago");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}: {}\n{text}", output.status);
    text
}

#[test]
fn the_examples_of_the_document_run() {
    let test = "protocol::the_examples_of_the_document_run";
    contained(test, || {
        let Some(python) = python(test) else { return };
        let broker = Broker::start(Options::default());
        assert_eq!(prepared(&broker), ["stubs.sh", "plain_grpc.py", "channel.py"]);
        printed(&broker, &python, "stubs.sh");

        let pool = broker.pool_root().display().to_string();
        let grpc = printed(&broker, &python, "plain_grpc.py");
        assert!(grpc.starts_with(&format!("made {pool}/")) && grpc.contains(".txt\n"), "{grpc}");
        assert!(grpc.contains("renewed for 60 s\n"), "{grpc}");
        assert!(grpc.contains("refused: LEASE_UNKNOWN in request "), "{grpc}");

        let channel = printed(&broker, &python, "channel.py");
        assert!(channel.starts_with(&format!("made {pool}/")), "{channel}");
        assert!(channel.contains(&format!("held by {} as well\n", std::process::id())), "{channel}");
        assert!(channel.ends_with("it was there: True\n"), "{channel}");
        eventually(DEADLINE, "nothing is left of either", || names_in(broker.pool_root()) == [".scratch"]);
    });
}

#[test]
fn reflection() {
    let test = "protocol::reflection";
    contained(test, || {
        let Some(python) = python(test) else { return };
        let broker = Broker::start(Options::default());
        let mut client = Command::new(python);
        client.arg(source_tree().join("tests/python/reflection.py")).env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
        let status = client.status().expect("python was there a moment ago");
        assert!(status.success(), "reflection ended early: {status}");
    });
}

#[test]
fn a_client_comes_back_after_a_restart() {
    let test = "protocol::a_client_comes_back_after_a_restart";
    contained(test, || {
        let Some(python) = python(test) else { return };
        // Far longer than it takes to come back, and to be waited for by what does not.
        let mut broker = Broker::start(Options { grace: Some("5s"), ..Options::default() });
        let mut client = Command::new(python);
        client.arg(source_tree().join("tests/python/reconnect.py")).env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
        let mut client = Dialogue::start(client);
        assert_eq!(client.line(), "granted");
        broker.kill();
        broker.restart();
        client.say("there is another broker");
        assert!(client.wait().success());
        eventually(DEADLINE, "nothing is left", || names_in(broker.pool_root()) == [".scratch"]);
    });
}
