//! What AWS's error codes mean to the caller: what to do next.
//!
//! Codes are those of "Error codes for the Amazon EC2 API" in the EC2 API reference.

use std::time::Duration;

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use galley_cloud::CloudError;

/// EC2's request buckets refill within a second or two; a caller that comes back later finds some again.
const THROTTLED_FOR: Duration = Duration::from_secs(2);

/// What an error code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    Throttled,
    Capacity,
    Quota,
    Unauthorized,
    NotFound,
    Invalid,
    Unknown,
}

pub(crate) fn meaning(code: &str) -> Meaning {
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "RequestThrottled"
        | "SlowDown"
        | "RequestThrottledException"
        | "TooManyRequestsException" => Meaning::Throttled,
        "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacityOnHost"
        | "SpotMaxPriceTooLow"
        | "UnfulfillableCapacity"
        | "Unsupported" => Meaning::Capacity,
        "InsufficientFreeAddressesInSubnet" | "MaxSpotInstanceCountExceeded" | "PendingVerification" => Meaning::Quota,
        "UnauthorizedOperation"
        | "AuthFailure"
        | "AccessDenied"
        | "AccessDeniedException"
        | "InvalidClientTokenId"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "SignatureDoesNotMatch"
        | "OptInRequired"
        | "Blocked" => Meaning::Unauthorized,
        // The same token was sent with another question before: whether that one made something is not known.
        "IdempotentParameterMismatch" => Meaning::Unknown,
        "ValidationError" | "MissingParameter" => Meaning::Invalid,
        code if code.ends_with("LimitExceeded") => Meaning::Quota,
        code if code.ends_with(".NotFound") => Meaning::NotFound,
        code if code.starts_with("Invalid") => Meaning::Invalid,
        _ => Meaning::Unknown,
    }
}

/// What was being asked for, for the texts.
pub(crate) struct Asked<'a> {
    pub operation: &'static str,
    pub what: &'static str,
    pub name: &'a str,
    /// The subnet or zone.
    pub place: &'a str,
}

pub(crate) fn cloud_error<E, R>(asked: &Asked<'_>, error: SdkError<E, R>) -> CloudError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let code = error.code().unwrap_or_default().to_owned();
    let detail = || format!("{code}: {}", error.message().unwrap_or("no message"));
    match meaning(&code) {
        Meaning::Throttled => CloudError::Throttled { retry_after: THROTTLED_FOR },
        Meaning::Capacity => CloudError::Capacity {
            instance_type: asked.name.to_owned(),
            place: asked.place.to_owned(),
            detail: detail(),
        },
        Meaning::Quota => CloudError::Quota { what: asked.what, detail: detail() },
        Meaning::Unauthorized => CloudError::Unauthorized { operation: asked.operation, detail: detail() },
        Meaning::NotFound if asked.what == "instance" => {
            CloudError::NotFound { what: asked.what, name: asked.name.to_owned() }
        }
        // Something that the request names: an image, a subnet, a security group.
        Meaning::NotFound | Meaning::Invalid => CloudError::Invalid { detail: detail() },
        Meaning::Unknown => CloudError::Failed { operation: asked.operation, source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_code_says_what_to_do_next() {
        for (code, expected) in [
            ("RequestLimitExceeded", Meaning::Throttled),
            ("InsufficientInstanceCapacity", Meaning::Capacity),
            ("Unsupported", Meaning::Capacity),
            ("VcpuLimitExceeded", Meaning::Quota),
            ("InstanceLimitExceeded", Meaning::Quota),
            ("UnauthorizedOperation", Meaning::Unauthorized),
            ("InvalidClientTokenId", Meaning::Unauthorized),
            ("InvalidInstanceID.NotFound", Meaning::NotFound),
            ("InvalidParameterValue", Meaning::Invalid),
            ("InvalidAMIID.Malformed", Meaning::Invalid),
            ("IdempotentParameterMismatch", Meaning::Unknown),
            ("InternalError", Meaning::Unknown),
            ("", Meaning::Unknown),
        ] {
            assert_eq!(meaning(code), expected, "{code}");
        }
    }
}
