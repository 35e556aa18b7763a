//! The real Lambda binaries, against a Lambda Runtime API on loopback.

#[path = "../support/mod.rs"]
mod support;
