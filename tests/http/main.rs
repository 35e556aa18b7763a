//! Black-box tests: HTTP against the local system, over the real engine. One file per endpoint or promise.

#[path = "../support/mod.rs"]
mod support;

mod heartbeat;
mod register;
mod verify;
