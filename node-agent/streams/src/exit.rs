//! How a remote command ended, and the `Status` that says so on the error stream (v4 and later).

use serde_json::{Value, json};

/// The end of a remote command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Exit code 0.
    Success,
    /// Another exit code.
    Code(i32),
    /// The command did not run, or its end is unknown. The text is shown to the user as it is.
    Failed(String),
}

impl Exit {
    /// The `Status` object for the error stream. kubectl exits with the code of a cause `ExitCode` under reason
    /// `NonZeroExitCode`, and prints the message of any other failure.
    pub fn to_status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Code(code) => json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": self.text(),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(message) => json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "message": message,
                "details": {"causes": [{"message": message}]}, "code": 500,
            }),
        }
    }

    /// What the protocols before v4 write on the error stream. Empty for success.
    pub fn text(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::Code(code) => {
                format!("command terminated with non-zero exit code: command terminated with exit code {code}")
            }
            Self::Failed(message) => message.clone(),
        }
    }

    /// Reads what a v4 server wrote on its error stream.
    pub fn from_status(bytes: &[u8]) -> Self {
        let Ok(status) = serde_json::from_slice::<Value>(bytes) else {
            let text = String::from_utf8_lossy(bytes);
            let text = text.trim();
            return Self::Failed(match text {
                "" => "the container runtime closed the connection without saying how the command ended".to_owned(),
                text => text.to_owned(),
            });
        };
        if status["status"] == "Success" {
            return Self::Success;
        }
        let code = status["details"]["causes"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|cause| cause["reason"] == "ExitCode")
            .and_then(|cause| cause["message"].as_str()?.parse().ok());
        match code {
            Some(code) if status["reason"] == "NonZeroExitCode" => Self::Code(code),
            _ => Self::Failed(status["message"].as_str().unwrap_or("unknown error").to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_survives_its_status() {
        for exit in [Exit::Success, Exit::Code(3), Exit::Failed("no such file".into())] {
            assert_eq!(Exit::from_status(exit.to_status().to_string().as_bytes()), exit);
        }
    }

    #[test]
    fn a_cut_error_stream_is_a_failure() {
        assert!(matches!(Exit::from_status(b""), Exit::Failed(_)));
        assert_eq!(Exit::from_status(b"boom\n"), Exit::Failed("boom".into()));
    }
}
