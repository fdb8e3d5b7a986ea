//! Running one program as a step: shown before, its failure named after. And where things are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Of a command of this program: why it failed.
pub(crate) type Outcome = Result<(), String>;

/// The root of the source tree.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the source tree")
}

/// Cargo's target directory, wherever it was put: this program was built into `target/<profile>`.
pub(crate) fn target_directory() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("can't find this program: {error}"))?;
    let tagged = own.ancestors().find(|place| place.join("CACHEDIR.TAG").exists());
    tagged.map(Path::to_path_buf).ok_or_else(|| format!("{} is in no target directory", own.display()))
}

/// The cargo that runs this program, at the root of the source tree.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root());
    command
}

/// Runs a program with the caller's input and output.
pub(crate) fn step(command: &mut Command) -> Outcome {
    let shown = shown(command);
    eprintln!("$ {shown}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown}: {status}")),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_else(|| command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
