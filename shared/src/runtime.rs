//! A function's environment, and its way in and out of Lambda.

pub mod app;
pub mod lambda;
pub mod refusal_cache;
pub mod token_cache;
