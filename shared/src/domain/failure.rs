//! Why nothing could be read or written.

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Lost every race that it tried; nothing was changed.
    #[error("lost every race for the row")]
    Contended,
    /// DynamoDB is throttled or does not answer. Whether the write happened is unknown.
    #[error("DynamoDB is unavailable: {0}")]
    Unavailable(String),
    /// DynamoDB refused what no caller can cause: a missing table, a right that is not there, a broken row.
    #[error("DynamoDB refused: {0}")]
    Broken(String),
}
