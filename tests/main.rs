//! Black-box tests over the real engine: HTTP against the local system, and the real Lambda binaries against a
//! Runtime API on loopback. One file per endpoint or promise.

mod support;

mod alerts;

mod envelope {
    mod events;
    mod heartbeat;
    mod register;
    mod verify;
}

mod mission_control {
    mod audit;
    mod batches;
    mod boots;
    mod budgets;
    pub mod client;
    mod directives;
    mod enroll;
    mod events_usage_workspace;
    mod heartbeat;
    mod lists;
    mod operators;
    mod reports;
    mod roles;
    mod rotate;
    mod schema;
    mod tokens;
}

mod system {
    mod faults;
    mod features;
    mod generated_input;
    mod lives;
    mod openapi;
    mod page;
    mod policies;
    mod rooms;
    mod routes;
    mod streams;
    mod sweep;
    mod template;
}

mod lambda {
    mod build;
    pub mod deployment;
    mod http;
    mod jobs;
    mod process;
}
