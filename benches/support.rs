//! The parts of the tests' support that know nothing of the system.

#[path = "../tests/support/dynamodb_proxy.rs"]
pub mod dynamodb_proxy;
#[path = "../tests/support/loopback.rs"]
pub mod loopback;
#[path = "../tests/support/runtime_api.rs"]
pub mod runtime_api;
#[path = "../tests/support/tls.rs"]
pub mod tls;
