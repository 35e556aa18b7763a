//! What is measured, built for this machine with the profile that it is deployed with; and the rivals' runtimes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Section;
use crate::report::in_repository;

/// The functions' package.
const FUNCTIONS: &str = "rollcall-functions";

/// Where everything lies that was built for the run.
#[derive(Clone)]
pub struct Binaries {
    release: PathBuf,
    folder: PathBuf,
    functions: Vec<String>,
    /// Programs that are started without a search path.
    programs: BTreeMap<&'static str, PathBuf>,
}

impl Binaries {
    /// Builds what these sections need; `chosen` functions, or else all.
    ///
    /// # Errors
    /// A program that is needed is not there, or a build failed: one line.
    pub fn build(sections: &[Section], chosen: &[String]) -> Result<Self, String> {
        let needs = |section| sections.contains(&section);
        let executable = std::env::current_exe().map_err(|error| error.to_string())?;
        let release = executable.ancestors().nth(2).ok_or("this program lies in no target folder")?;
        let folder = release.join("benches");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let functions = match chosen {
            [] => functions()?,
            chosen => chosen.to_owned(),
        };
        let programs = [
            (Section::ColdStart, "python3"),
            (Section::ColdStart, "node"),
            (Section::ColdStart, "npm"),
            (Section::Warm, "valgrind"),
            (Section::Load, "wrk"),
        ];
        let programs = programs.into_iter().filter(|(section, _)| needs(*section));
        let programs: Result<_, String> = programs.map(|(_, name)| Ok((name, found(name)?))).collect();
        let binaries = Self { release: release.to_owned(), folder, functions, programs: programs? };

        let mut wanted = vec!["rollcall-local"];
        if needs(Section::ColdStart) || needs(Section::Warm) {
            wanted.extend(["empty", "bare-update", "heartbeat"]);
        }
        if needs(Section::Load) {
            wanted.push("heartbeat");
        }
        if needs(Section::ColdStart) || needs(Section::Size) {
            wanted.extend(binaries.functions.iter().map(String::as_str));
        }
        if needs(Section::Sweep) {
            wanted.push("sweep");
        }
        cargo(&wanted)?;
        if needs(Section::ColdStart) {
            binaries.install_rivals()?;
        }
        Ok(binaries)
    }

    /// A release binary.
    pub fn path(&self, binary: &str) -> PathBuf {
        self.release.join(binary)
    }

    /// The functions whose cold starts and sizes are wanted.
    pub fn functions(&self) -> &[String] {
        &self.functions
    }

    /// Where the run may write.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder of this name, with nothing in it.
    pub fn empty_folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        // Absent at first.
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).expect("a folder to write to");
        folder
    }

    /// A program that the sections needed.
    pub fn program(&self, name: &str) -> &Path {
        &self.programs[name]
    }

    /// The same heartbeat in Python.
    pub fn python(&self) -> tokio::process::Command {
        let python = self.folder.join("python");
        let mut command = tokio::process::Command::new(python.join("bin/python"));
        command.args(["-m", "awslambdaric", "heartbeat.handle"]).current_dir(python);
        command
    }

    /// The same heartbeat in Node.
    pub fn node(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.program("node"));
        command.arg(self.folder.join("node/heartbeat.mjs"));
        command
    }

    fn install_rivals(&self) -> Result<(), String> {
        let (python, node) = (self.folder.join("python"), self.folder.join("node"));
        run(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
        let requirements = in_repository("benches/rivals/python/requirements.txt");
        run(Command::new(python.join("bin/pip")).args(["install", "--quiet", "-r"]).arg(requirements))?;

        fs::create_dir_all(&node).map_err(|error| format!("{}: {error}", node.display()))?;
        for file in ["python/heartbeat.py", "node/package.json", "node/heartbeat.mjs"] {
            let from = in_repository("benches/rivals").join(file);
            fs::copy(from, self.folder.join(file)).map_err(|error| format!("{file}: {error}"))?;
        }
        run(Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"])
            .current_dir(&node))
    }
}

/// The names of all functions: the binaries of the package.
fn functions() -> Result<Vec<String>, String> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(in_repository(""));
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{command:?}: {error}"))?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages
        .filter(|package| package["name"] == FUNCTIONS)
        .filter_map(|package| package["targets"].as_array())
        .flatten();
    let binaries = targets.filter(|target| target["kind"][0] == "bin");
    Ok(binaries.filter_map(|binary| binary["name"].as_str()).map(str::to_owned).collect())
}

/// Builds release binaries, all at once: their features are unified then, as when `sam build` builds the workspace's
/// default members, and their dependencies are built once.
fn cargo(binaries: &[&str]) -> Result<(), String> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release"]);
    for package in [FUNCTIONS, "local", "rivals"] {
        command.args(["--package", package]);
    }
    // Ring's build script reads what Cargo says of this program, and would be run anew with all that needs it.
    let own = ["MANIFEST_DIR", "MANIFEST_LINKS", "MANIFEST_PATH", "PKG_NAME"];
    let version = ["MAJOR", "MINOR", "PATCH", "PRE"].map(|part| format!("PKG_VERSION_{part}"));
    for name in own.iter().copied().chain(version.iter().map(String::as_str)) {
        command.env_remove(format!("CARGO_{name}"));
    }
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    run(&mut command)
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// Where a program lies.
fn found(program: &str) -> Result<PathBuf, String> {
    let path = Command::new("which").arg(program).output().map_err(|error| format!("which: {error}"))?;
    match String::from_utf8_lossy(&path.stdout).trim() {
        "" => Err(format!("{program} is needed; it is not installed")),
        path => Ok(path.into()),
    }
}
