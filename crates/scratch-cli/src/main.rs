//! `scratch`: to be written; `run` alone for now.

mod exit;
mod run;

use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "scratch")]
enum Program {
    Run(run::RunArgs),
}

fn main() -> ExitCode {
    match Program::try_parse() {
        Ok(Program::Run(args)) => run::run(args),
        Err(error) => {
            let _ = error.print();
            let is_run = std::env::args_os().nth(1).is_some_and(|name| name == "run");
            if !error.use_stderr() {
                ExitCode::SUCCESS
            } else if is_run {
                exit::RUN_FAILED.into()
            } else {
                exit::USAGE.into()
            }
        }
    }
}
