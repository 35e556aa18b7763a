//! The words of the field and their rules: pure, without HTTP, AWS or Lambda.

pub mod agent;
pub mod credential;
pub mod event;
pub mod rate_limit;
pub mod token;
pub mod workspace;
