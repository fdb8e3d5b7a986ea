//! The steps that look at files, and make some beside the SDK.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use scratch_client::AreaOptions;

use super::look::{Mount, look, look_at, same_file, until, wanted};
use super::steps::Run;
use super::table::Step;
use super::values::{Stop, demand, no_word};

impl Run<'_> {
    /// What the SDK is asked to remove or move later it has to make, so that there is a guard.
    pub(super) fn make(&mut self, step: &Step, at: usize) -> Result<(), Stop> {
        let path = PathBuf::from(self.variables.text(&step.keys["path"])?);
        let content = self.variables.text(&step.keys["content"])?;
        match step.object() {
            kind @ ("file" | "directory") if self.is_guarded(&path, at) => self.make_by_sdk(kind, &path)?,
            "file" => drop(File::create_new(&path).expect("the place is ours")),
            "directory" => fs::create_dir(&path).expect("the place is ours"),
            "symlink" => symlink(self.variables.text(&step.keys["target"])?, &path).expect("the place is ours"),
            "link" => fs::hard_link(self.variables.text(&step.keys["target"])?, &path).expect("the place is ours"),
            "mount" => drop(self.mounts.insert(step.text("as").to_owned(), Mount::new(&path))),
            kind => panic!("no {kind} can be made"),
        }
        if step.object() == "file" {
            let mut file = File::options().write(true).open(&path).expect("the file is ours");
            file.write_all(content.as_bytes()).expect("there is room");
        }
        if let Ok(mode) = u32::from_str_radix(step.text("mode"), 8) {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("the file is ours");
        }
        Ok(())
    }

    /// Whether a later step releases or persists what has this name in a lease's directory.
    fn is_guarded(&self, path: &Path, at: usize) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a test's paths are texts");
        let is_of_it = |step: &Step| {
            matches!(step.object(), "Areas.Release" | "Areas.Persist")
                && step.keys["request"]["area"] == format!("$bytes:{name}")
        };
        self.case.steps[at..].iter().any(|(_, step)| is_of_it(step))
            && path.parent().is_some_and(|parent| self.connections["main"].lease_at(parent).is_some())
    }

    fn make_by_sdk(&mut self, kind: &str, path: &Path) -> Result<(), Stop> {
        let main = self.connections.get_mut("main").expect("main is open");
        let lease = path.parent().and_then(|parent| main.lease_at(parent)).expect("it was there a moment ago");
        let options = AreaOptions { name: path.file_name().map(Into::into), ..AreaOptions::default() };
        let made = if kind == "file" { main.file(&lease, &options)? } else { main.directory(&lease, &options)? };
        made.map(drop).map_err(|error| Stop::Wrong(error.to_string()))
    }

    pub(super) fn check(&mut self, step: &Step) -> Result<(), Stop> {
        let path = self.variables.text(&step.keys["check"])?;
        until(step, || self.variables.compare(&wanted(step), &look_at(Path::new(&path), step), &path))
    }

    pub(super) fn descriptor(&mut self, step: &Step) -> Result<(), Stop> {
        let Some(file) = self.files.get(step.object()) else { return no_word("no such descriptor came") };
        let write = self.variables.text(&step.keys["write"])?;
        let found = look(file, &write, step);
        self.variables.compare(&wanted(step), &found, step.object())?;
        if let Some(path) = step.keys.get("path") {
            let path = self.variables.text(path)?;
            demand(same_file(file, Path::new(&path)), &path.into(), &"another file".into(), step.object())?;
        }
        Ok(())
    }
}
