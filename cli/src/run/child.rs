//! The child: its start, its signals, what operators want of it, and its end. All of it on the main thread: a child
//! that dies with its parent dies with the thread that started it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::heartbeat::{Directive, Mailbox};
use super::output::Output;
use super::{Arguments, Event, Pause, pass_on, say};
use crate::environment;

/// What is passed on to the child.
const FORWARDED: [i32; 8] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT];

/// How long a child that was told to stop may take, where the operator did not say.
const STOP_TIME: Duration = Duration::from_secs(30);

/// How long at least, also after the operator's deadline.
const STOP_TIME_LEAST: Duration = Duration::from_secs(5);

/// How long a stopped child of a terminal stays stopped before its wrapper follows: when a terminal stops both, and
/// the shell sets both going again, one of the two is first.
const FOLLOW_AFTER: Duration = Duration::from_millis(100);

/// What every child that ends with this means: a shell's convention.
const SIGNAL_CODE: i32 = 128;

/// Tells the main thread of signals. What this process was started to ignore (`nohup`) it ignores, and so does the
/// child.
///
/// # Errors
/// The handlers cannot be set up.
pub fn listen(events: Sender<Event>) -> io::Result<()> {
    let ignored = ignored_signals();
    let forwarded = FORWARDED.into_iter().filter(|number| ignored & (1 << (number - 1)) == 0);
    let mut signals = SignalsInfo::<WithRawSiginfo>::new(forwarded.chain([SIGCHLD]))?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let event = Event::Signal { number: signal.si_signo, from_kernel: signal.si_code > 0 };
            if events.send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// The signals that this process ignores, bit by bit from 1 on; none where nothing says so.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// Whether a signal asks for the child's end, so that its end is on purpose.
pub const fn asks_to_end(number: i32) -> bool {
    matches!(number, SIGTERM | SIGINT)
}

/// Orphans become this process's children, and are waited for.
///
/// # Errors
/// The system cannot do that.
#[cfg(target_os = "linux")]
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn become_subreaper() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// This process ends when the process `parent`, which started it, does.
///
/// # Errors
/// The system cannot do that, or the parent is gone already.
#[cfg(target_os = "linux")]
pub fn die_with_parent(parent: Option<&OsStr>) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let parent = parent.and_then(OsStr::to_str).and_then(|pid| pid.parse().ok());
    if parent != Some(nix::unistd::getppid().as_raw()) {
        // It died before the line above.
        raise(Signal::SIGKILL)?;
    }
    Ok(())
}

/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn die_with_parent(_parent: Option<&OsStr>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// How the child ended.
pub struct Ending {
    /// What this process exits with.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// TERM or INT was passed on to it, or an operator told it to stop.
    asked: Option<Asked>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// By INT, which interactive programs outlive.
    Interrupt,
    /// By TERM, or by an operator.
    End,
}

impl Ending {
    fn new(status: ExitStatus, asked: Option<Asked>) -> Self {
        let signal = status.signal();
        let code = signal.map(|number| SIGNAL_CODE + number).or(status.code()).unwrap_or(255);
        Self { code, signal, asked }
    }

    /// Of a child that was never there: as a shell says it.
    pub fn not_started(error: &io::Error) -> Self {
        let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        Self { code, signal: None, asked: None }
    }

    /// Whether somebody wanted it, the child itself by its exit code 0 included.
    pub fn is_on_purpose(&self) -> bool {
        match self.asked {
            Some(Asked::End) => true,
            Some(Asked::Interrupt) => self.code == 0 || self.code == SIGNAL_CODE + SIGINT,
            None => self.code == 0,
        }
    }

    /// What the agent's last heartbeat says. After `error` there is no good-bye: the silence will be told.
    pub fn last_word(&self) -> &'static str {
        if self.is_on_purpose() { "offline" } else { "error" }
    }
}

/// The running child.
pub struct Supervisor {
    child: Child,
    /// Its process group, if it has its own, so that signals reach what it started, as a terminal's would.
    target: Pid,
    mailbox: Mailbox,
    pauses: bool,
    on_directive: Option<OsString>,
    directive: Option<Directive>,
    /// We stopped it for an operator, and it is stopped or about to be.
    is_paused: bool,
    /// It was seen to stand still, whoever wanted that.
    is_stopped: bool,
    kill_at: Option<Instant>,
    follow_at: Option<Instant>,
    asked: Option<Asked>,
    /// Commands for directives that run, and the directives' versions.
    commands: HashMap<Pid, u64>,
}

impl Supervisor {
    /// # Errors
    /// The program cannot be started.
    pub fn start(
        mut command: Command,
        mailbox: Mailbox,
        mut output: Option<&mut Output>,
        arguments: &Arguments,
    ) -> io::Result<Self> {
        // A program of a terminal's background may not read it: there the child stays in our group.
        let has_own_group = !io::stdin().is_terminal();
        if has_own_group {
            command.process_group(0);
        }
        if output.is_some() {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let mut child = command.spawn()?;
        if let Some(output) = &mut output
            && let Err(error) = pass_on(output, &mut child)
        {
            say(format_args!("the program's output is lost: {error}"));
        }
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        Ok(Self {
            child,
            target: if has_own_group { Pid::from_raw(-pid.as_raw()) } else { pid },
            mailbox,
            pauses: arguments.pause == Some(Pause::Signal),
            on_directive: arguments.on_directive.clone(),
            directive: None,
            is_paused: false,
            is_stopped: false,
            kill_at: None,
            follow_at: None,
            asked: None,
            commands: HashMap::new(),
        })
    }

    fn has_own_group(&self) -> bool {
        self.target.as_raw() < 0
    }

    /// Passes on signals and directives until the child has ended.
    pub fn supervise(mut self, heard: &Receiver<Event>) -> Ending {
        loop {
            // The child may have ended before anybody listened.
            if let Some(status) = self.reap() {
                return Ending::new(status, self.asked);
            }
            let until = [self.kill_at, self.follow_at].into_iter().flatten().min();
            let event = match until {
                Some(until) => heard.recv_timeout(until.saturating_duration_since(Instant::now())),
                None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Signal { number: SIGCHLD, .. }) => {}
                Ok(Event::Signal { number, from_kernel }) => self.forward(number, from_kernel),
                Ok(Event::Directive(directive)) => self.follow(directive),
                Err(RecvTimeoutError::Timeout) => self.do_what_is_due(),
                // Without signals there is still the child.
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().unwrap_or_else(|_| ExitStatus::from_raw(255 << 8));
                    return Ending::new(status, self.asked);
                }
            }
        }
    }

    /// Waits for whoever has ended, stopped or gone on; how the child ended, if it has.
    fn reap(&mut self) -> Option<ExitStatus> {
        // By the standard library first, which knows every signal's number.
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
        let child = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or_default());
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                    return Some(ExitStatus::from_raw(code << 8));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                    return Some(ExitStatus::from_raw(signal as i32));
                }
                Ok(WaitStatus::Stopped(pid, signal)) if pid == child => self.has_stopped(signal),
                Ok(WaitStatus::Continued(pid)) if pid == child => {
                    (self.is_stopped, self.follow_at) = (false, None);
                }
                Ok(WaitStatus::Exited(pid, code)) => self.command_ended(pid, code),
                Ok(WaitStatus::Signaled(pid, _, _)) => self.command_ended(pid, -1),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
                // An orphan; or one whose signal has no name here.
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn has_stopped(&mut self, signal: Signal) {
        self.is_stopped = true;
        if self.is_paused {
            if let Some(directive) = self.directive.as_ref().filter(|directive| directive.action == "pause") {
                self.mailbox.obey(directive.version);
            }
        } else if !self.has_own_group()
            && matches!(signal, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU)
        {
            // The shell waits for us: it takes the terminal back when we stop, too.
            self.follow_at = Some(Instant::now() + FOLLOW_AFTER);
        }
    }

    fn forward(&mut self, number: i32, from_kernel: bool) {
        if asks_to_end(number) {
            let asked = if number == SIGTERM { Asked::End } else { Asked::Interrupt };
            self.asked = if self.asked == Some(Asked::End) { self.asked } else { Some(asked) };
        }
        let is_terminals = from_kernel && !self.has_own_group();
        if let Ok(signal) = Signal::try_from(number)
            && !is_terminals
        {
            self.send(signal);
        }
        if self.is_paused && matches!(number, SIGTERM | SIGINT | SIGHUP | SIGQUIT) {
            // Whoever is stopped cannot end.
            self.send(Signal::SIGCONT);
        }
    }

    fn send(&self, signal: Signal) {
        // It may have ended meanwhile.
        kill(self.target, signal).ok();
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        if self.kill_at.take_if(|at| *at <= now).is_some() {
            say(format_args!("the program did not stop in time, and is killed"));
            self.send(Signal::SIGKILL);
        }
        if self.follow_at.take_if(|at| *at <= now).is_some() {
            raise(Signal::SIGSTOP).ok();
        }
    }

    /// Does what an operator wants, as far as it can be done from outside. What nobody obeys is never acknowledged.
    fn follow(&mut self, directive: Option<Directive>) {
        let wanted = directive.as_ref().map_or("run", |directive| directive.action.as_str()).to_owned();
        self.kill_at = None;
        let was_paused = self.is_paused;
        if was_paused && wanted != "pause" {
            self.is_paused = false;
            self.send(Signal::SIGCONT);
        }
        self.directive.clone_from(&directive);
        let Some(directive) = directive else { return };
        match wanted.as_str() {
            "stop" => {
                say(format_args!("an operator tells the program to stop"));
                self.asked = Some(Asked::End);
                self.kill_at = Some(Instant::now() + time_to_stop(&directive, environment::now()));
                self.send(Signal::SIGTERM);
                // Whoever is stopped cannot end.
                self.send(Signal::SIGCONT);
                self.mailbox.obey(directive.version);
            }
            // It stands still already, or has just been set going.
            "pause" | "run" if was_paused => self.mailbox.obey(directive.version),
            "pause" if self.pauses => {
                self.is_paused = true;
                self.send(Signal::SIGSTOP);
                if self.is_stopped {
                    // It was before: the system does not say so twice.
                    self.mailbox.obey(directive.version);
                }
            }
            _ => self.command(&directive),
        }
    }

    fn command(&mut self, directive: &Directive) {
        let Some(line) = &self.on_directive else { return };
        let mut command = Command::new("sh");
        command.arg("-c").arg(line).stdin(Stdio::null()).process_group(0);
        command.env("ROLLCALL_DIRECTIVE", &directive.action);
        command.env("ROLLCALL_DIRECTIVE_DEADLINE", directive.deadline.as_deref().unwrap_or_default());
        command.env("ROLLCALL_PID", self.child.id().to_string());
        match command.spawn() {
            Ok(started) => {
                let pid = Pid::from_raw(i32::try_from(started.id()).unwrap_or_default());
                self.commands.insert(pid, directive.version);
            }
            Err(error) => say(format_args!("--on-directive: {error}")),
        }
    }

    fn command_ended(&mut self, pid: Pid, code: i32) {
        let Some(version) = self.commands.remove(&pid) else { return };
        if code == 0 {
            // An older one's obedience must not take the place of the newer's.
            if self.directive.as_ref().is_some_and(|directive| directive.version == version) {
                self.mailbox.obey(version);
            }
        } else {
            say(format_args!("--on-directive: the command failed, and nothing is acknowledged"));
        }
    }
}

/// Until the operator's deadline, if there is one.
fn time_to_stop(directive: &Directive, now: SystemTime) -> Duration {
    let deadline = directive.deadline.as_deref().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    deadline.map_or(STOP_TIME, |deadline| {
        SystemTime::from(deadline).duration_since(now).unwrap_or_default().max(STOP_TIME_LEAST)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;
    use std::time::{Duration, SystemTime};

    use super::{Asked, Directive, Ending, time_to_stop};

    #[test]
    fn a_stop_has_until_the_operators_deadline_and_never_less_than_a_moment() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_107_600);
        let of = |deadline: Option<&str>| {
            let directive =
                Directive { version: 1, action: "stop".to_owned(), deadline: deadline.map(str::to_owned) };
            time_to_stop(&directive, now).as_secs()
        };
        assert_eq!(of(None), 30);
        assert_eq!(of(Some("2025-11-25T21:55:20.000Z")), 120);
        assert_eq!(of(Some("2025-11-25T21:40:00.000Z")), 5);
        assert_eq!(of(Some("soon")), 30);
    }

    #[test]
    fn an_end_is_on_purpose_if_it_was_asked_for_or_went_well() {
        let ending = |raw, asked| Ending::new(ExitStatus::from_raw(raw), asked);
        assert_eq!(ending(0, None).last_word(), "offline");
        assert_eq!(ending(3 << 8, None).last_word(), "error");
        assert_eq!(ending(3 << 8, Some(Asked::End)).last_word(), "offline");
        assert_eq!(ending(3 << 8, Some(Asked::Interrupt)).last_word(), "error");
        assert_eq!(ending(130 << 8, Some(Asked::Interrupt)).last_word(), "offline");
        let interrupted = ending(2, Some(Asked::Interrupt));
        assert_eq!(
            (interrupted.code, interrupted.signal, interrupted.last_word()),
            (130, Some(2), "offline")
        );
        let killed = ending(9, None);
        assert_eq!((killed.code, killed.signal, killed.last_word()), (137, Some(9), "error"));
    }
}
