//! A function's environment, and its way in and out of Lambda.

pub mod app;
pub mod callers;
pub mod canary;
pub mod channels;
pub mod deliverer;
pub mod function;
pub mod gateway_event;
pub mod lambda;
pub mod limits;
pub mod refusal_cache;
pub mod respond;
pub mod telling;
pub mod token_cache;
