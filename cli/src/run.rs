//! `rollcall run … -- cmd`: any program, wrapped in heartbeats.

mod child;
mod heartbeat;
mod identity;
mod output;
mod pace;
mod state;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Value, json};

use self::child::{Ending, Supervisor};
use self::heartbeat::{Directive, End, Heartbeats, Mailbox, Progress};
use self::identity::Identity;
use self::output::Output;
use self::pace::Pace;
use self::state::{SharedState, Used};
use crate::http::Client;

/// How long the last words may take in all.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The longest tail: an event's payload has 16 KiB.
const TAIL_BYTES: i64 = 8 * 1024;

/// The same, as JSON.
const TAIL_JSON_BYTES: usize = 15_000;

/// The first argument of the program that makes itself mortal and then becomes the child.
pub const SHIM: &str = "__die-with";

/// Runs a program and sends heartbeats for it: it need not know of Rollcall.
///
/// The program starts at once, and nothing of Rollcall's delays or fails it. The exit code is the program's own, 128
/// and the signal's number if a signal ended it, 126 or 127 if it could not be started.
#[derive(clap::Args)]
#[expect(clippy::doc_markdown, reason = "what users read: no Markdown")]
#[command(after_help = "Examples:\n  \
    ROLLCALL_KEY_FILE=key rollcall run -- python3 agent.py\n  \
    ROLLCALL_ENROLLMENT_TOKEN=rce_… rollcall run --name nightly --progress output -- ./nightly.sh")]
pub struct Arguments {
    /// Name of the agent: its first heartbeat creates it, by the enrollment token if there is one
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Board of the agent, a UUID
    #[arg(long, value_name = "ID", requires = "name")]
    board: Option<String>,
    /// File with the agent's key; with --name the key is kept there [default: under $XDG_STATE_HOME/rollcall]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// What shows that the work gets further: whatever the program writes, or a file that it touches
    #[arg(long, value_name = "output|FILE")]
    progress: Option<OsString>,
    /// Put the last bytes of the program's output into the event of its failure; it may hold secrets
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=TAIL_BYTES as u64))]
    tail: Option<u64>,
    /// How an operator's pause is obeyed: by SIGSTOP, until SIGCONT
    #[arg(long, value_enum, value_name = "HOW")]
    pause: Option<Pause>,
    /// Command for the directives that nothing else obeys; it finds the action in $ROLLCALL_DIRECTIVE, and obeys with 0
    #[arg(long, value_name = "CMD")]
    on_directive: Option<OsString>,
    /// End the program when this wrapper dies (Linux)
    #[arg(long)]
    die_with_me: bool,
    /// Wait for the program's orphans, too, as process 1 does (Linux)
    #[arg(long)]
    subreaper: bool,
    /// Send secrets over http to other machines
    #[arg(long)]
    insecure_http: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pause {
    Signal,
}

/// What the main thread hears.
pub enum Event {
    /// A signal came; whether the kernel sent it, as it does for a terminal, to all of its programs.
    Signal { number: i32, from_kernel: bool },
    /// Another directive stands, or none.
    Directive(Option<Directive>),
}

/// One line to whoever reads standard error, if anybody does.
fn say(line: fmt::Arguments<'_>) {
    writeln!(io::stderr(), "rollcall: {line}").ok();
}

/// Runs it all; the exit code is the child's.
pub fn run(arguments: Arguments) -> ExitCode {
    let (events, heard) = channel();
    if let Err(error) = child::listen(events.clone()) {
        say(format_args!("signals are not passed on: {error}"));
    }
    if arguments.subreaper
        && let Err(error) = child::become_subreaper()
    {
        say(format_args!("--subreaper: {error}"));
    }
    let boot_id = format!("{:016x}", rand::random::<u64>());
    let state = SharedState::new(&boot_id).map(Arc::new);
    let state =
        state.inspect_err(|error| say(format_args!("the child's libraries are not heard: {error}"))).ok();
    let mut output = arguments.is_piped().then(|| Output::new(arguments.tail_bytes()));
    // Its thread runs before the child does.
    let heartbeats = Running::start(&arguments, &boot_id, state.clone(), output.as_ref(), events);
    let child = arguments.child(&boot_id, state.as_deref());
    let mailbox = heartbeats.as_ref().map(|heartbeats| heartbeats.mailbox.clone()).unwrap_or_default();
    let started = Instant::now();
    let ending = match Supervisor::start(child, mailbox, output.as_mut(), &arguments) {
        Ok(supervisor) => supervisor.supervise(&heard),
        Err(error) => {
            say(format_args!("{}: {error}", arguments.command[0].display()));
            Ending::not_started(&error)
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    if let Some(output) = &output {
        output.drain(|| asked_to_end(&heard));
    }
    if let Some(heartbeats) = heartbeats {
        let tail = output.as_ref().filter(|_| arguments.tail.is_some() && !ending.is_on_purpose());
        heartbeats.end(ending.event(seconds, tail.map(Output::tail)), ending.last_word());
    }
    drop(state);
    // Not by returning: a thread may still be in an exchange, or wait for a grandchild.
    std::process::exit(ending.code)
}

/// Whether somebody wants an end while the last output is passed on.
fn asked_to_end(heard: &Receiver<Event>) -> bool {
    heard.try_iter().any(|event| matches!(event, Event::Signal { number, .. } if child::asks_to_end(number)))
}

/// The sender's thread, seen from the main one.
struct Running {
    mailbox: Mailbox,
    has_ended: Receiver<()>,
}

impl Running {
    /// Nothing if there is no sending heartbeats: the child runs all the same.
    fn start(
        arguments: &Arguments,
        boot_id: &str,
        state: Option<Arc<SharedState>>,
        output: Option<&Output>,
        events: Sender<Event>,
    ) -> Option<Self> {
        let Arguments { name, board, key_file, insecure_http, .. } = arguments;
        let identity = Client::from_environment(*insecure_http)
            .and_then(|client| Identity::new(client, name.clone(), board.clone(), key_file.clone()));
        let identity = identity.inspect_err(|why| say(format_args!("no heartbeats: {why}"))).ok()?;
        let mailbox = Mailbox::default();
        let heartbeats = Heartbeats {
            identity,
            boot_id: boot_id.to_owned(),
            mailbox: mailbox.clone(),
            progress: arguments.progress(output),
            state,
            events,
            pace: Pace::new(),
            directive: None,
            reported: Used::default(),
        };
        let (ended, has_ended) = channel();
        let thread = thread::Builder::new().name("heartbeats".to_owned()).spawn(move || {
            heartbeats.run();
            ended.send(()).ok();
        });
        thread.inspect_err(|error| say(format_args!("no heartbeats: {error}"))).ok()?;
        Some(Self { mailbox, has_ended })
    }

    fn end(self, event: Value, last_word: &'static str) {
        self.mailbox.end(End { event, last_word, until: Instant::now() + LAST_WORDS });
        if self.has_ended.recv_timeout(LAST_WORDS).is_err() {
            say(format_args!(
                "could not say {last_word} at the end: it took longer than {} s",
                LAST_WORDS.as_secs()
            ));
        }
    }
}

impl Arguments {
    /// Whether the child writes to this process; else it has our own terminal, files or pipes.
    fn is_piped(&self) -> bool {
        self.tail.is_some() || self.progress.as_deref().is_some_and(|progress| progress == "output")
    }

    fn tail_bytes(&self) -> usize {
        self.tail.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default()
    }

    fn progress(&self, output: Option<&Output>) -> Progress {
        match (&self.progress, output) {
            (Some(progress), Some(output)) if progress == "output" => Progress::Output(output.last.clone()),
            (Some(file), _) if file != "output" => Progress::File(file.into()),
            _ => Progress::Unknown,
        }
    }

    fn child(&self, boot_id: &str, state: Option<&SharedState>) -> Command {
        let (program, rest) = (&self.command[0], &self.command[1..]);
        let mut command = match std::env::current_exe() {
            Ok(own) if self.die_with_me && cfg!(target_os = "linux") => {
                let mut command = Command::new(own);
                command.arg(SHIM).arg(std::process::id().to_string()).arg(program);
                command
            }
            _ => Command::new(program),
        };
        command.args(rest).env("ROLLCALL_BOOT_ID", boot_id);
        match state {
            Some(state) => command.env("ROLLCALL_STATE", state.file()),
            // That of another wrapper, around this one.
            None => command.env_remove("ROLLCALL_STATE"),
        };
        command
    }
}

/// Passes on what the child writes.
fn pass_on(output: &mut Output, child: &mut std::process::Child) -> io::Result<()> {
    if let Some(stdout) = child.stdout.take() {
        output.pass_on(output::pipe(stdout), io::stdout().as_fd())?;
    }
    if let Some(stderr) = child.stderr.take() {
        output.pass_on(output::pipe(stderr), io::stderr().as_fd())?;
    }
    Ok(())
}

/// The text's end that fits into an event.
fn that_fits(mut text: String) -> String {
    while serde_json::to_string(&text).map_or(0, |json| json.len()) > TAIL_JSON_BYTES {
        let half =
            text.char_indices().map(|(at, _)| at).find(|at| *at >= text.len() / 4).unwrap_or(text.len());
        text.drain(..half);
    }
    text
}

impl Ending {
    fn event(&self, seconds: f64, tail: Option<String>) -> Value {
        let mut event = json!({ "code": self.code, "seconds": (seconds * 1000.0).round() / 1000.0 });
        if let Some(signal) = self.signal {
            event["signal"] = json!(signal);
        }
        if let Some(tail) = tail {
            event["tail"] = json!(that_fits(tail));
        }
        event
    }
}

/// `rollcall __die-with PARENT CMD…`: ends when its parent does, and becomes the command.
pub fn shim(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let parent = arguments.next();
    let Some(program) = arguments.next() else { return ExitCode::from(2) };
    if let Err(error) = child::die_with_parent(parent.as_deref()) {
        say(format_args!("--die-with-me: {error}"));
    }
    let error = Command::new(&program).args(arguments).exec();
    say(format_args!("{}: {error}", program.display()));
    ExitCode::from(Ending::not_started(&error).code.to_le_bytes()[0])
}

#[cfg(test)]
mod tests {
    use super::that_fits;

    #[test]
    fn of_a_tail_that_is_longer_as_json_the_end_stays() {
        let text = format!("{}end", "\u{1}".repeat(8000));
        let fits = that_fits(text);
        assert!(fits.ends_with("end") && fits.len() > 1000 && fits.len() < 3000, "{}", fits.len());
        assert_eq!(that_fits("short ä".to_owned()), "short ä");
    }
}
