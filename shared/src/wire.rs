//! HTTP: what requests say and what answers look like, in the two contracts. Nothing here asks the store.

pub mod answer;
pub mod base_url;
pub mod channel_request;
pub mod contract;
pub mod credentials;
pub mod envelope;
pub mod error;
pub mod fields;
pub mod json;
pub mod mission_control;
pub mod report;
pub mod route;
pub mod sender;
pub mod signature;
pub mod source_address;
pub mod target;
pub mod token_request;
