//! Who the agent is: by its key, by its name under an enrollment token, or by its name alone where anybody registers.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::environment::{self, Secret};
use crate::http::{Answer, Client, Lost};

/// How often a wrapper looks whether it is its turn.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The agent that the heartbeats are for.
pub struct Identity {
    client: Client,
    name: Option<String>,
    board: Option<String>,
    token: Option<Secret>,
    key: Option<Secret>,
    /// Where the key stands, or will stand.
    key_file: Option<PathBuf>,
    /// The key is none that this program made: it is never replaced.
    is_given: bool,
    /// A registration is not made twice: each makes another agent.
    has_registered: bool,
}

impl Identity {
    /// # Errors
    /// There is neither a key nor a name, or a file that was named cannot be read.
    pub fn new(
        client: Client,
        name: Option<String>,
        board: Option<String>,
        key_file: Option<PathBuf>,
    ) -> Result<Self, String> {
        let token = environment::secret(environment::ENROLLMENT_TOKEN)?;
        let is_named = key_file.is_some();
        let kept = match (&key_file, &name) {
            (Some(_), _) | (None, None) => key_file,
            (None, Some(name)) => default_key_file(client.base(), board.as_deref(), name),
        };
        let of_environment = environment::secret(environment::KEY)?;
        let (key, key_file, is_given) = match (of_environment, kept) {
            (Some(key), _) => (Some(key), environment::file(environment::KEY), true),
            (None, Some(file)) => {
                let key = match fs::read_to_string(&file) {
                    Ok(text) => Some(Secret::new(&text)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound && name.is_some() => None,
                    // By its token the name finds the same agent; without one it would be another each time.
                    Err(error) if !is_named && token.is_some() => {
                        super::say(format_args!("the agent's key is not read: {}: {error}", file.display()));
                        None
                    }
                    Err(error) => return Err(format!("{}: {error}", file.display())),
                };
                (key, Some(file), false)
            }
            (None, None) => (None, None, false),
        };
        for (secret, place) in [(&key, environment::KEY), (&token, environment::ENROLLMENT_TOKEN)] {
            if secret.as_ref().is_some_and(|secret| !secret.is_sendable()) {
                let file = key_file.as_ref().filter(|_| place == environment::KEY);
                let place = file.map_or_else(|| place.to_owned(), |file| file.display().to_string());
                return Err(format!("{place}: has letters that no key or token has"));
            }
        }
        if key.is_none() && name.is_none() {
            return Err("the agent needs a key (ROLLCALL_KEY, --key-file) or a name (--name)".to_owned());
        }
        Ok(Self { client, name, board, token, key, key_file, is_given, has_registered: false })
    }

    /// Posts an event of the agent; nothing without its key, since a token posts none.
    ///
    /// # Errors
    /// There was no whole answer within `deadline`.
    pub fn event(&self, event: &str, payload: &Value, deadline: Duration) -> Result<Option<Answer>, Lost> {
        let Some(key) = &self.key else { return Ok(None) };
        let body = json!({ "event": event, "payload": payload });
        self.client.post("/api/agents/events", Some(key), &body, deadline).map(Some)
    }

    /// The text without this agent's secrets: a server may repeat them.
    pub fn redact(&self, text: &str) -> String {
        let secrets = self.key.iter().chain(&self.token).filter(|secret| !secret.reveal().is_empty());
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret.reveal(), "(a secret)"))
    }

    /// Sends one heartbeat, which may take two exchanges if the kept key is of no use any more.
    ///
    /// # Errors
    /// There was no whole answer within `deadline`.
    pub fn heartbeat(
        &mut self,
        body: &Value,
        was_accepted: bool,
        deadline: Duration,
    ) -> Result<Answer, Lost> {
        let ends = Instant::now() + deadline;
        let left = || ends.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        if self.key.is_none() && self.token.is_none() {
            // Of several wrappers that start at once, the first one makes the agent.
            let _turn = self.turn(left());
            // Under an operator's approval the key is there, and refused until then.
            if !self.read_key_again()
                && let Some(refusal) = self.register(left())?
            {
                return Ok(refusal);
            }
        }
        if let Some(key) = &self.key {
            let answer = self.client.post("/api/v1/agent/heartbeat", Some(key), body, left())?;
            // Rollcall itself does not know the key: its agent was removed, or has another one.
            let is_unknown = answer.status == 401 && answer.message().is_some();
            if !is_unknown || self.read_key_again() || self.is_given {
                return Ok(answer);
            }
            let registers = self.token.is_none() && self.name.is_some();
            if self.token.is_none() && (!registers || self.has_registered || was_accepted) {
                return Ok(answer);
            }
            self.key = None;
            if registers {
                return match self.register(left())? {
                    Some(refusal) => Ok(refusal),
                    None => self.client.post("/api/v1/agent/heartbeat", self.key.as_ref(), body, left()),
                };
            }
        }
        let mut named = body.clone();
        named["name"] = json!(self.name);
        if let Some(board) = &self.board {
            named["board_id"] = json!(board);
        }
        let answer = self.client.post("/api/v1/agents/heartbeat", self.token.as_ref(), &named, left())?;
        let key = answer.body["agent_token"].as_str().map(Secret::new).filter(Secret::is_sendable);
        if let (200, Some(key)) = (answer.status, key) {
            self.keep(key);
        }
        Ok(answer)
    }

    /// Somebody may have put another key into the file.
    fn read_key_again(&mut self) -> bool {
        let read = self.key_file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        match read.map(|text| Secret::new(&text)) {
            Some(key) if self.key.as_ref() != Some(&key) && !key.reveal().is_empty() => {
                self.key = Some(key);
                true
            }
            _ => false,
        }
    }

    /// Waits until no other wrapper makes an agent whose key would be in the same folder; for half of the time at most, and
    /// where that cannot be done, not at all.
    fn turn(&self, deadline: Duration) -> Option<File> {
        let ends = Instant::now() + deadline / 2;
        let folder = self.key_file.as_ref()?.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        make_folder(folder).ok()?;
        let folder = File::open(folder).ok()?;
        while let Err(TryLockError::WouldBlock) = folder.try_lock() {
            if Instant::now() > ends {
                return None;
            }
            thread::sleep(LOOK_EVERY);
        }
        Some(folder)
    }

    /// Registers the name, and verifies it by its own key; the refusal, if there is one.
    fn register(&mut self, deadline: Duration) -> Result<Option<Answer>, Lost> {
        let mut body = json!({ "name": self.name });
        if let Some(board) = &self.board {
            body["boardId"] = json!(board);
        }
        let answer = self.client.post("/api/agents/register", None, &body, deadline)?;
        let key = answer.body["data"]["apiKey"].as_str().map(Secret::new);
        let key = key.filter(|key| answer.status == 200 && key.is_sendable());
        let Some(key) = key else { return Ok(Some(answer)) };
        self.has_registered = true;
        self.keep(key);
        // What comes of it the heartbeat will show.
        self.client.post("/api/agents/verify", self.key.as_ref(), &json!({}), deadline)?;
        Ok(None)
    }

    fn keep(&mut self, key: Secret) {
        match &self.key_file {
            Some(file) => {
                if let Err(error) = write_key(file, &key) {
                    super::say(format_args!("the agent's key is not kept: {}: {error}", file.display()));
                }
            }
            None => super::say(format_args!(
                "the agent's key is not kept: neither XDG_STATE_HOME nor HOME is set"
            )),
        }
        self.key = Some(key);
    }
}

/// One file for each deployment, board and name.
fn default_key_file(base: &str, board: Option<&str>, name: &str) -> Option<PathBuf> {
    let digest = Sha256::digest(format!("{base}\0{}\0{name}", board.unwrap_or_default()));
    let digest = u64::from_be_bytes(std::array::from_fn(|at| digest[at]));
    // The beginning is for people alone.
    let readable =
        name.chars().take(40).map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' });
    let readable = readable.collect::<String>();
    Some(environment::state_folder()?.join(format!("{readable}.{digest:016x}.key")))
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a key that only its owner can read, whole or not at all.
fn write_key(file: &Path, key: &Secret) -> io::Result<()> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        make_folder(folder)?;
    }
    let mut draft = file.as_os_str().to_owned();
    // Not by the process's number: in a container that is always the same, and so would be what a crash left behind.
    draft.push(format!(".{:016x}.new", rand::random::<u64>()));
    let write = || {
        let mut written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        writeln!(written, "{}", key.reveal())?;
        written.sync_all()?;
        fs::rename(&draft, file)
    };
    write().inspect_err(|_| drop(fs::remove_file(&draft)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::write_key;
    use crate::environment::Secret;

    #[test]
    fn a_key_that_cannot_be_kept_leaves_nothing_behind() {
        let folder = std::env::temp_dir().join(format!("rollcall-key-{:016x}", rand::random::<u64>()));
        let (file, taken) = (folder.join("new/key"), folder.join("taken"));
        fs::create_dir_all(taken.join("inside")).expect("a folder");
        write_key(&taken, &Secret::new("secret")).expect_err("a folder is in its place");
        write_key(&file, &Secret::new("first")).expect("a file");
        write_key(&file, &Secret::new("second")).expect("the same file");
        assert_eq!(fs::read_to_string(&file).expect("the file"), "second\n");
        let names = |folder| fs::read_dir(folder).expect("a folder").count();
        assert_eq!((names(&folder), names(&folder.join("new"))), (2, 1));
        fs::remove_dir_all(folder).expect("the folder");
    }
}
