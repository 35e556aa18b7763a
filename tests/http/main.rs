//! Black-box tests: HTTP against the local system, over the real engine. One file per endpoint or promise.

#[path = "../support/mod.rs"]
mod support;

mod events;
mod faults;
mod heartbeat;
mod register;
mod routes;
mod sweep;
mod template;
mod verify;
