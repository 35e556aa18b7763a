//! The words of the field and their rules: pure, without HTTP, AWS or Lambda.

pub mod agent;
pub mod change;
pub mod check_in;
pub mod credential;
pub mod event;
pub mod failure;
pub mod heartbeat;
pub mod rate_limit;
pub mod registration;
pub mod token;
pub mod workspace;
