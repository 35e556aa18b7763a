//! What all of Rollcall's functions share: the domain, the store, the two wire contracts, and the way in and
//! out of Lambda.

#![warn(missing_docs)]

pub mod agent;
pub mod answer;
pub mod app;
pub mod auth;
pub mod config;
pub mod contract;
pub mod credential;
pub mod error;
pub mod event;
pub mod json;
pub mod lambda;
pub mod rate_limit;
pub mod refusals;
pub mod source_address;
pub mod store;
pub mod time;
pub mod token;
pub mod token_memory;
pub mod workspace;
