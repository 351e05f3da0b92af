//! AWS: machines are EC2 instances. The only crate that talks to it.
//!
//! ```text
//!  InstanceSpec ──► RunInstances(ClientToken = claim, tags: installation, cluster, node group, claim)
//!  tags         ◄── DescribeInstances(tag installation) ──► Instance
//! ```
//!
//! Calls are not repeated here: whoever asked has stored what it wants, and asks again on its own time, so that a throttled account
//! is not asked thrice by everybody. The client's TLS is rustls with ring, as everywhere in Galley.

mod error;
mod instances;

use std::collections::HashMap;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use parking_lot::Mutex;
use std::time::Duration;

/// A call that took longer was lost; what it did is found again by its claim.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// The endpoint is in the same region.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// An installation's part of an AWS account in one region.
pub struct Aws {
    /// What it made carries this, and it touches nothing else: several installations can share an account.
    installation: String,
    region: String,
    ec2: aws_sdk_ec2::Client,
    /// Root devices by image; an image never changes.
    root_devices: Mutex<HashMap<String, String>>,
}

/// The environment says no region.
#[derive(Debug, thiserror::Error)]
#[error("no AWS region is given: set AWS_REGION")]
pub struct NoRegion;

impl Aws {
    /// Credentials, and what else is not given, come from where the SDK looks for them (`AWS_ENDPOINT_URL`, the role of a task
    /// or instance, profiles).
    pub async fn connect(installation: &str, region: Option<String>) -> Result<Self, NoRegion> {
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder().connect_timeout(CONNECT_LIMIT).operation_timeout(CALL_LIMIT).build(),
            );
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        Self::from_config(installation, &loader.load().await)
    }

    /// With a configuration of the caller's.
    pub fn from_config(installation: &str, config: &SdkConfig) -> Result<Self, NoRegion> {
        let region = config.region().ok_or(NoRegion)?.to_string();
        Ok(Self {
            installation: installation.to_owned(),
            region,
            ec2: aws_sdk_ec2::Client::new(config),
            root_devices: Mutex::default(),
        })
    }

    /// `eu-central-1`.
    pub fn region(&self) -> &str {
        &self.region
    }
}
