//! The steps that look at files, and make some beside the SDK.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::look::{Mount, look, look_at, same_file, until, wanted};
use super::steps::Run;
use super::table::Step;
use super::values::{Stop, demand, no_word};

impl Run<'_> {
    /// As its process makes them, beside the SDK.
    pub(super) fn make(&mut self, step: &Step) -> Result<(), Stop> {
        let path = PathBuf::from(self.variables.text(&step.keys["path"])?);
        let content = self.variables.text(&step.keys["content"])?;
        match step.object() {
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
