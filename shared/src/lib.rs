//! What all of Rollcall's functions share, in four rooms.
//!
//! [`domain`] knows nobody. [`store`] knows the domain and DynamoDB; [`wire`] knows the domain and HTTP; they
//! never meet. [`runtime`] ties them together. `tests/system/rooms.rs` holds the rule.

#![warn(missing_docs)]

pub mod config;
pub mod domain;
pub mod runtime;
pub mod store;
pub mod time;
pub mod wire;
