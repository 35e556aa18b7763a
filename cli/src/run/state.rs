//! One sender per agent: the files by which the wrapper and the client libraries of its child talk. docs/clients.md says
//! what is in them.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::environment;

/// What is read of a library's file.
const FILE_BYTES: u64 = 64 * 1024;

/// How many libraries' files are read: a child that forks without end must not hold up a heartbeat.
const FILES: usize = 1024;

/// The most that one report may say of either.
const USED_MOST: u64 = 1_000_000_000_000;

/// A folder that only its owner can look into, for one run.
pub struct SharedState {
    folder: PathBuf,
}

/// What the child's libraries say, taken together.
#[derive(Debug, Default, PartialEq)]
pub struct Said {
    /// The oldest progress of those that have work.
    pub progress_age: Option<Duration>,
    /// The worst health of those that run: `error`, `degraded` or `healthy`.
    pub status: Option<&'static str>,
    /// The versions that they obey.
    pub acknowledged: Vec<u64>,
    /// What they used since the child began, those that are gone included.
    pub used: Used,
}

/// Tokens, and millionths of a dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub tokens: u64,
    pub micros: u64,
}

impl Used {
    fn of(report: &Value) -> Self {
        let tokens = report["usage"]["tokens"].as_u64().unwrap_or_default().min(USED_MOST);
        let dollars = report["usage"]["cost_usd"].as_f64().unwrap_or_default().clamp(0.0, 1e6);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped, and whole")]
        let micros = (dollars * 1e6).round() as u64;
        Self { tokens, micros }
    }

    pub const fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            micros: self.micros.saturating_add(other.micros),
        }
    }

    /// What this is more than `before`, as far as one report may say it.
    pub fn since(self, before: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(before.tokens).min(USED_MOST),
            micros: self.micros.saturating_sub(before.micros).min(USED_MOST),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "at most 10^12")]
    pub fn json(self) -> Value {
        json!({ "tokens": self.tokens, "cost_usd": self.micros as f64 / 1e6 })
    }
}

impl SharedState {
    /// # Errors
    /// There is no place for it.
    pub fn new(boot_id: &str) -> io::Result<Self> {
        let mut made = Err(io::ErrorKind::NotFound.into());
        for place in environment::runtime_folders() {
            made = Self::within(&place, boot_id);
            if made.is_ok() {
                break;
            }
        }
        made
    }

    fn within(place: &Path, boot_id: &str) -> io::Result<Self> {
        // The child may be in another folder when it opens the file.
        let folder = std::path::absolute(place)?.join(format!("rollcall-{boot_id}"));
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let state = Self { folder };
        state.direct(None)?;
        Ok(state)
    }

    /// The file for the child's libraries to read.
    pub fn file(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Tells the libraries what the last accepted heartbeat's answer said.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn direct(&self, directive: Option<&Value>) -> io::Result<()> {
        let (file, draft) = (self.file(), self.folder.join("state-new"));
        let mut written =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        write!(written, "{}", json!({ "directive": directive }))?;
        fs::rename(draft, file)
    }

    /// What the libraries wrote; nothing where there is none, or none that can be read.
    pub fn read(&self) -> Said {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let reports = files.filter(|path| is_report(path)).take(FILES).filter_map(|path| report(&path));
        let mut said = Said::default();
        for (report, age) in reports {
            said.add(&report, age);
        }
        said
    }
}

impl Drop for SharedState {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

impl Said {
    /// Adds what was written `age` ago.
    fn add(&mut self, report: &Value, age: Duration) {
        self.used = self.used.plus(Used::of(report));
        if !report["pid"].as_i64().is_some_and(is_running) {
            return;
        }
        let progress = report["progress_age_seconds"].as_f64();
        let progress = progress.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.progress_age = self.progress_age.max(progress.map(|then| then.saturating_add(age)));
        let ranks = ["healthy", "degraded", "error"];
        let rank = |status: &str| ranks.iter().position(|word| *word == status);
        let status = self.status.and_then(rank).max(report["status"].as_str().and_then(rank));
        self.status = status.map(|rank| ranks[rank]);
        self.acknowledged.extend(report["ack_directive"].as_u64());
    }
}

fn is_report(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let id = name.strip_prefix("state.").unwrap_or_default();
    id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn report(path: &Path) -> Option<(Value, Duration)> {
    let mut text = Vec::new();
    let file = fs::File::open(path).ok()?;
    let modified = file.metadata().ok()?.modified().ok()?;
    file.take(FILE_BYTES).read_to_end(&mut text).ok()?;
    let age = environment::now().duration_since(modified).unwrap_or_default();
    Some((serde_json::from_slice(&text).ok()?, age))
}

fn is_running(pid: i64) -> bool {
    i32::try_from(pid).is_ok_and(|pid| pid > 0 && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use serde_json::json;

    use super::{Said, SharedState, Used};

    #[test]
    fn of_several_libraries_the_oldest_progress_and_the_worst_health_count_and_of_those_that_are_gone_none() {
        let state = SharedState::new(&format!("{:016x}", rand::random::<u64>())).expect("a folder");
        let folder = state.folder.clone();
        assert_eq!(fs::metadata(&folder).expect("the folder").permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(state.file()).expect("the file"), r#"{"directive":null}"#);
        assert_eq!(state.read(), Said::default());
        let write = |name: &str, text: String| fs::write(folder.join(name), text).expect("a file");
        let report = |pid: u32, age: f64, status: &str| {
            json!({ "pid": pid, "status": status, "progress_age_seconds": age, "ack_directive": 7,
                "usage": { "tokens": 5, "cost_usd": 0.25 } })
            .to_string()
        };
        let me = std::process::id();
        write("state.0000000000000001", report(me, 20.0, "healthy"));
        write("state.0000000000000002", report(me, 90.0, "degraded"));
        write("state.0000000000000003", report(i32::MAX as u32, 5000.0, "error"));
        write("state.0000000000000004", "{".to_owned());
        write("state.0000000000000005", json!({ "pid": me, "progress_age_seconds": -1e300 }).to_string());
        write("state.0000000000000006.new", report(me, 6000.0, "error"));
        let said = state.read();
        let age = said.progress_age.expect("an age");
        assert!((Duration::from_secs(90)..Duration::from_secs(1000)).contains(&age), "{age:?}");
        assert_eq!((said.status, said.acknowledged.as_slice()), (Some("degraded"), [7, 7].as_slice()));
        let used = Used { tokens: 15, micros: 750_000 };
        assert_eq!(said.used, used);
        assert_eq!(
            used.since(Used { tokens: 20, micros: 1 }).json(),
            json!({ "tokens": 0, "cost_usd": 0.749_999 })
        );
        drop(state);
        assert!(!folder.exists());
    }
}
