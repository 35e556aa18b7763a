//! Black-box tests of contract B, Mission Control's agent API and the operators' plane: HTTP against the local
//! system, over the real engine. One file per endpoint or promise.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod client;
mod enroll;
mod events_usage_workspace;
mod heartbeat;
mod lists;
mod operators;
mod rotate;
mod tokens;
