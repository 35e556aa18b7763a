//! The words of the field and their rules: pure, without HTTP, AWS or Lambda.

pub mod agent;
pub mod boot;
pub mod canary;
pub mod change;
pub mod channel;
pub mod check_in;
pub mod concern;
pub mod credential;
pub mod delivery;
pub mod directive;
pub mod event;
pub mod failure;
pub mod fleet;
pub mod hearing;
pub mod heartbeat;
pub mod ids;
pub mod message;
pub mod notification;
pub mod pace;
pub mod public_address;
pub mod rate_limit;
pub mod registration;
pub mod rendering;
pub mod report;
pub mod silence;
#[cfg(test)]
mod simulation;
pub mod spend;
pub mod token;
pub mod watch;
pub mod workspace;
