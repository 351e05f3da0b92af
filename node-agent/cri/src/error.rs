//! Why the runtime did not do what it was asked.

/// A failed CRI call.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The runtime refused or failed; its message is for users.
    #[error("{call}({subject}): {}", source.message())]
    Call {
        /// CRI method.
        call: &'static str,
        /// Id or name that it was about.
        subject: String,
        #[source]
        source: Box<tonic::Status>,
    },
    /// An answer without the part that matters.
    #[error("{call}({subject}): the runtime's answer is incomplete")]
    Incomplete {
        /// CRI method.
        call: &'static str,
        /// Id or name that it was about.
        subject: String,
    },
}

impl CriError {
    /// Whether what it was about does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Call { source, .. } => source.code() == tonic::Code::NotFound,
            Self::Incomplete { .. } => false,
        }
    }

    /// What the runtime said, as Kubernetes shows it: `rpc error: code = Unknown desc = ...`.
    pub fn message(&self) -> String {
        match self {
            Self::Call { source, .. } => {
                format!("rpc error: code = {:?} desc = {}", source.code(), source.message())
            }
            Self::Incomplete { .. } => self.to_string(),
        }
    }

    /// The runtime's message alone.
    pub fn detail(&self) -> String {
        match self {
            Self::Call { source, .. } => source.message().to_owned(),
            Self::Incomplete { .. } => self.to_string(),
        }
    }
}
