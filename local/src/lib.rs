//! The whole system in one process: `template.yaml` over an embedded DynamoDB engine, or over another endpoint.

#![warn(missing_docs)]

mod clock;
mod console;
mod database;
mod gateway;
mod policy;
pub mod private;
mod streams;
mod system;
pub mod template;

pub use clock::Clock;
pub use database::Database;
pub use streams::StreamInvocation;
pub use system::{Options, StartError, System};
