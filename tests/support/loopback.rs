//! A small HTTP server on loopback whose connections end when it is told to: what the DynamoDB
//! proxy and the Lambda Runtime API of the tests have in common.

#![allow(dead_code, reason = "the benches include this module too, and each of the two uses a part of it")]

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// How long a test waits for something that must happen, before it fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A request whose body has arrived.
pub type Request = hyper::Request<Bytes>;
/// An answer; its body may break off (see [`Broken`]).
pub type Response = hyper::Response<UnsyncBoxBody<Bytes, Broken>>;

type Answering = Pin<Box<dyn Future<Output = Result<Response, Broken>> + Send>>;
type Handler = Arc<dyn Fn(Request) -> Answering + Send + Sync>;

/// The connection ends here, without a (complete) answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection was broken on purpose")
    }
}

impl std::error::Error for Broken {}

/// A body that is sent at once.
pub fn whole(body: impl Into<Bytes>) -> UnsyncBoxBody<Bytes, Broken> {
    Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Waits for something that must happen; a test fails, rather than hangs, when it does not.
///
/// # Panics
/// When `what` has not happened for a minute.
#[track_caller]
pub fn patiently<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    within(PATIENCE, what, future)
}

/// As [`patiently`], with another patience.
///
/// # Panics
/// When `what` has not happened in this time.
#[track_caller]
pub fn within<F: Future>(time: Duration, what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        tokio::time::timeout(time, future)
            .await
            .unwrap_or_else(|_| panic!("{caller}: waited {time:?} in vain for {what}"))
    }
}

/// An HTTP/1.1 server on a free port of 127.0.0.1. Dropping it closes the port and every
/// connection.
pub struct LoopbackServer {
    address: SocketAddr,
    handler: Handler,
    state: Mutex<State>,
}

enum State {
    Open(Running),
    /// Bound but not listening: connections are refused, and nobody else gets the port.
    Closed(TcpSocket),
    Changing,
}

struct Running {
    /// Dropping it ends the task.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl LoopbackServer {
    /// Serves `handler` on a free port.
    pub async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response, Broken>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener's address");
        let state = Mutex::new(State::Open(Running::start(listener, handler.clone())));
        Self { address, handler, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection and closes the port: new connections are refused.
    pub async fn close(&self) {
        match self.replace(State::Changing) {
            State::Open(running) => {
                drop(running.stop);
                running.task.await.expect("the server's loop");
                let socket = patiently("the closing of the port", rebound(self.address)).await;
                self.replace(State::Closed(socket));
            }
            unchanged => drop(self.replace(unchanged)),
        }
    }

    /// Opens the port again after [`close`](Self::close).
    pub fn reopen(&self) {
        match self.replace(State::Changing) {
            State::Closed(socket) => {
                let listener = socket.listen(1024).expect("the port that was kept");
                self.replace(State::Open(Running::start(listener, self.handler.clone())));
            }
            unchanged => drop(self.replace(unchanged)),
        }
    }

    fn replace(&self, state: State) -> State {
        std::mem::replace(&mut self.state.lock().expect("the server's state"), state)
    }
}

/// Binds a port that was just closed, which succeeds when nothing listens there any more: a process
/// that is being started elsewhere holds a copy of the listener until it executes.
async fn rebound(address: SocketAddr) -> TcpSocket {
    let bind = || -> io::Result<TcpSocket> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    loop {
        match bind() {
            Ok(socket) => return socket,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("cannot keep {address}: {error}"),
        }
    }
}

impl Running {
    fn start(listener: TcpListener, handler: Handler) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(accept(listener, handler, stopped));
        Self { stop, task }
    }
}

async fn accept(listener: TcpListener, handler: Handler, mut stopped: oneshot::Receiver<()>) {
    let (open, closed) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, handler.clone(), closed.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop((listener, open));
    while connections.join_next().await.is_some() {}
}

/// Serves a connection until either end, or the server, closes it.
async fn serve(stream: TcpStream, handler: Handler, mut closed: watch::Receiver<()>) {
    stream.set_nodelay(true).ok();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let handler = handler.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
            handler(Request::from_parts(head, body)).await
        }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // An error is a client that left, or a connection broken on purpose: nothing to report.
        _ = &mut connection => {}
        _ = closed.changed() => {}
    }
    // Said outright, since the socket stays open while a process that is being started holds a copy.
    let mut stream = connection.into_parts().io.into_inner();
    stream.shutdown().await.ok();
}
