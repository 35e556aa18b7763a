//! What the child writes, passed on byte by byte: to know when it last wrote, and what.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long after the child's end its pipes are waited for when nothing comes: a grandchild may hold them.
const DRAIN: Duration = Duration::from_secs(1);

/// As much as a pipe can hold: what comes after that is not the child's own.
const PIPE_BYTES: u64 = 1024 * 1024;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// When the child last wrote.
#[derive(Clone)]
pub struct LastOutput {
    began: Instant,
    millis: Arc<AtomicU64>,
}

impl LastOutput {
    fn new() -> Self {
        Self { began: Instant::now(), millis: Arc::default() }
    }

    fn is_now(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    pub fn age(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.millis.load(Ordering::Relaxed)))
    }
}

/// Two threads that copy what the child writes to where it would have gone.
pub struct Output {
    pub last: LastOutput,
    tail: Arc<Mutex<Tail>>,
    pumps: Vec<Pump>,
}

struct Tail {
    bytes: VecDeque<u8>,
    most: usize,
}

/// One of the two. The counters are of bytes that were read, and of those that were written after that.
#[derive(Clone, Default)]
struct Pump {
    read: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
    has_ended: Arc<AtomicBool>,
}

impl Output {
    /// Keeps the last `tail` bytes of both.
    pub fn new(tail: usize) -> Self {
        let tail = Tail { bytes: VecDeque::with_capacity(tail), most: tail };
        Self { last: LastOutput::new(), tail: Arc::new(Mutex::new(tail)), pumps: Vec::new() }
    }

    /// Passes on what comes from `from`.
    ///
    /// # Errors
    /// There is no thread for it, or nowhere to write.
    pub fn pass_on(&mut self, from: impl Read + Send + 'static, to: BorrowedFd<'_>) -> io::Result<()> {
        // Not by the standard library's own handle, which would hold back a line without an end.
        let to = File::from(to.try_clone_to_owned()?);
        let (pump, last, tail) = (Pump::default(), self.last.clone(), Arc::clone(&self.tail));
        let threads = pump.clone();
        thread::Builder::new().name("output".to_owned()).spawn(move || {
            threads.copy(from, to, &last, &tail);
            threads.has_ended.store(true, Ordering::Release);
        })?;
        self.pumps.push(pump);
        Ok(())
    }

    /// Waits until what the child wrote is passed on. A grandchild that holds the pipes is waited for no longer than
    /// [`DRAIN`]; a slow reader is, unless `gives_up`.
    pub fn drain(&self, mut gives_up: impl FnMut() -> bool) {
        let began = Instant::now();
        for pump in &self.pumps {
            let read_before = pump.read.load(Ordering::Acquire);
            let mut seen = None;
            while !pump.has_ended.load(Ordering::Acquire) && !gives_up() {
                let read = pump.read.load(Ordering::Acquire);
                let is_idle = pump.written.load(Ordering::Acquire) == read && seen == Some(read);
                if began.elapsed() > DRAIN && (is_idle || read - read_before > PIPE_BYTES) {
                    break;
                }
                seen = Some(read);
                thread::sleep(LOOK_EVERY);
            }
        }
    }

    /// The last bytes that the child wrote, as text.
    pub fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = tail.bytes.iter().copied().collect::<Vec<_>>();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Tail {
    fn add(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.most)..];
        let surplus = (self.bytes.len() + bytes.len()).saturating_sub(self.most);
        self.bytes.drain(..surplus);
        self.bytes.extend(bytes);
    }
}

impl Pump {
    fn copy(&self, mut from: impl Read, mut to: File, last: &LastOutput, tail: &Mutex<Tail>) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let bytes = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => &buffer[..length],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            self.read.fetch_add(bytes.len() as u64, Ordering::AcqRel);
            last.is_now();
            tail.lock().unwrap_or_else(PoisonError::into_inner).add(bytes);
            // Nobody reads any more: the child shall see the same.
            if write_all(&mut to, bytes).is_err() {
                return;
            }
            self.written.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        }
    }
}

/// Also to a terminal or pipe that another program has set not to block.
fn write_all(to: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut ready = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                poll(&mut ready, PollTimeout::NONE).or_else(|error| match error {
                    nix::errno::Errno::EINTR => Ok(0),
                    error => Err(error),
                })?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A pipe of the child's, as a file.
pub fn pipe(from: impl Into<OwnedFd>) -> File {
    File::from(from.into())
}
