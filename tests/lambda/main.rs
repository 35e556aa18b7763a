//! The real Lambda binaries, against a Lambda Runtime API on loopback, over the real engine.

#[path = "../support/mod.rs"]
mod support;

mod build;
mod deployment;
mod http;
mod jobs;
mod process;
