//! What the environment says: where Rollcall is, and the secrets. A secret is never a flag: flags are in the process
//! list.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

pub const URL: &str = "ROLLCALL_URL";
pub const KEY: &str = "ROLLCALL_KEY";
pub const ENROLLMENT_TOKEN: &str = "ROLLCALL_ENROLLMENT_TOKEN";
pub const OPERATOR_TOKEN: &str = "ROLLCALL_OPERATOR_TOKEN";

/// Where `cargo run` listens.
pub const DEFAULT_URL: &str = "http://127.0.0.1:3000";

/// A key or token. It cannot print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it can be sent: all keys and tokens are visible ASCII.
    pub fn is_sendable(&self) -> bool {
        self.0.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A variable's text; none if it is empty.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment in this crate")]
pub fn raw(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The file that `NAME_FILE` names, if `NAME` itself is not there.
pub fn file(name: &str) -> Option<PathBuf> {
    raw(name).is_none().then(|| raw(&format!("{name}_FILE"))).flatten().map(PathBuf::from)
}

/// The value of `NAME`, or of the file that `NAME_FILE` names, without the white space around it.
///
/// # Errors
/// The file cannot be read, or either is not text: one line, without the value.
pub fn text(name: &str) -> Result<Option<String>, String> {
    let value = match (raw(name), file(name)) {
        (Some(value), _) => value.into_string().map_err(|_| format!("{name}: is not UTF-8"))?,
        (None, Some(file)) => std::fs::read_to_string(&file)
            .map_err(|error| format!("{name}_FILE: {}: {error}", file.display()))?,
        (None, None) => return Ok(None),
    };
    Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty()))
}

/// A secret of the environment; see [`text`].
///
/// # Errors
/// As [`text`].
pub fn secret(name: &str) -> Result<Option<Secret>, String> {
    Ok(text(name)?.map(|value| Secret::new(&value)))
}

/// Where this user's state lies: `$XDG_STATE_HOME/rollcall`, by default `~/.local/state/rollcall`.
pub fn state_folder() -> Option<PathBuf> {
    let state = raw("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || raw("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    state.or_else(home).map(|folder| folder.join("rollcall"))
}

/// Where a folder for one run may be: `$XDG_RUNTIME_DIR`, which may be of another user, or the machine's folder for what
/// does not last.
pub fn runtime_folders() -> impl Iterator<Item = PathBuf> {
    let runtime = raw("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    runtime.into_iter().chain([env::temp_dir()])
}

/// The machine's clock, for what others wrote down by it: a deadline, a file's age.
#[expect(clippy::disallowed_methods, reason = "the one reader of the clock in this crate")]
pub fn now() -> SystemTime {
    SystemTime::now()
}
