//! What an agent reports in a heartbeat beside its health: everything in it is optional.

/// A heartbeat's report. An empty one changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The version of the directive that the agent obeys. An old or an invented one does nothing.
    pub ack_directive: Option<i64>,
}
