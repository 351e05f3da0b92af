//! Machines on EC2, by the real SDK against an emulator that answers as AWS does.

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use galley_cloud::{Capacity, CloudError, InstanceOwner, InstanceSpec, InstanceState, Instances};
use galley_cloud_aws::Aws;
use galley_harness::Emulator;
use serde_json::json;

struct Account {
    emulator: Emulator,
    config: SdkConfig,
    subnet: String,
    image: String,
}

impl Account {
    async fn new() -> Self {
        let emulator = Emulator::start().unwrap();
        let credentials = aws_sdk_ec2::config::Credentials::new("test", "test", None, None, "test");
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .endpoint_url(emulator.url())
            .credentials_provider(credentials)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .retry_config(RetryConfig::disabled())
            .load()
            .await;
        let ec2 = aws_sdk_ec2::Client::new(&config);
        let subnets = ec2.describe_subnets().send().await.unwrap();
        let images = ec2.describe_images().owners("amazon").send().await.unwrap();
        let image = images.images().iter().find(|image| image.root_device_name().is_some()).unwrap();
        Self {
            subnet: subnets.subnets()[0].subnet_id().unwrap().into(),
            image: image.image_id().unwrap().into(),
            emulator,
            config,
        }
    }

    fn aws(&self, installation: &str) -> Aws {
        Aws::from_config(installation, &self.config).unwrap()
    }

    fn spec(&self, claim: &str) -> InstanceSpec {
        InstanceSpec {
            owner: InstanceOwner { cluster: "c1".into(), group: "workers".into() },
            claim: claim.into(),
            display_name: format!("workers-{claim}"),
            image: self.image.clone(),
            instance_type: "t3.small".into(),
            capacity: Capacity::OnDemand,
            subnet: self.subnet.clone(),
            security_groups: Vec::new(),
            instance_profile: None,
            disk_gib: Some(30),
            user_data: "#!/bin/sh\n".into(),
        }
    }

    fn fault(&self, action: &str, when: &str, code: Option<&str>) {
        let mut fault = json!({ "action": action, "when": when });
        if let Some(code) = code {
            fault["code"] = code.into();
        }
        self.emulator.control("/_fault", Some(&fault.to_string())).unwrap();
    }

    fn calls(&self, action: &str) -> usize {
        let log: Vec<(String, String)> = serde_json::from_str(&self.emulator.control("/_log", None).unwrap()).unwrap();
        log.iter().filter(|(called, _)| called == action).count()
    }
}

#[tokio::test]
async fn a_machine_is_launched_found_by_its_claim_and_ended() {
    let account = Account::new().await;
    let aws = account.aws("one");
    let launched = aws.instance_launch(&account.spec("claim-1")).await.unwrap();
    assert_eq!(launched.claim, "claim-1");
    assert_eq!(launched.provider_id, format!("aws:///{}/{}", launched.zone, launched.id));
    assert!(launched.zone.starts_with("eu-central-1"), "{launched:?}");
    let listed = aws.instance_list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].id, &listed[0].owner, listed[0].state.is_alive()), (&launched.id, &launched.owner, true));
    aws.instance_terminate(&launched.id).await.unwrap();
    assert!(aws.instance_list().await.unwrap().is_empty());
    aws.instance_terminate(&launched.id).await.unwrap();
}

#[tokio::test]
async fn ending_what_never_was_is_done_already() {
    let account = Account::new().await;
    account.aws("one").instance_terminate("i-0123456789abcdef0").await.unwrap();
}

#[tokio::test]
async fn a_launch_whose_answer_was_lost_gives_the_same_machine_when_it_is_repeated() {
    let account = Account::new().await;
    let aws = account.aws("one");
    for code in [None, Some("InternalError")] {
        let claim = format!("claim-{}", code.unwrap_or("dropped"));
        account.fault("RunInstances", "after", code);
        let lost = aws.instance_launch(&account.spec(&claim)).await.unwrap_err();
        assert!(matches!(lost, CloudError::Failed { operation: "RunInstances", .. }), "{lost:?}");
        let launched = aws.instance_launch(&account.spec(&claim)).await.unwrap();
        let with_claim: Vec<_> = aws.instance_list().await.unwrap();
        let with_claim: Vec<_> = with_claim.iter().filter(|i| i.claim == claim).map(|i| &i.id).collect();
        assert_eq!(with_claim, [&launched.id]);
    }
}

#[tokio::test]
async fn a_claim_is_for_one_machine_only() {
    let account = Account::new().await;
    let aws = account.aws("one");
    aws.instance_launch(&account.spec("claim-1")).await.unwrap();
    let other = InstanceSpec { instance_type: "t3.large".into(), ..account.spec("claim-1") };
    let refused = aws.instance_launch(&other).await.unwrap_err();
    assert!(matches!(&refused, CloudError::Failed { operation: "RunInstances", .. }), "{refused:?}");
    assert_eq!(aws.instance_list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_new_machine_is_first_unseen_then_pending_then_running() {
    let account = Account::new().await;
    let aws = account.aws("one");
    account.emulator.control("/_lag", Some(r#"{"hidden": 1, "pending": 1}"#)).unwrap();
    aws.instance_launch(&account.spec("claim-1")).await.unwrap();
    let mut states = Vec::new();
    for _ in 0..3 {
        states.push(aws.instance_list().await.unwrap().first().map(|instance| instance.state));
    }
    assert_eq!(states, [None, Some(InstanceState::Pending), Some(InstanceState::Running)]);
}

#[tokio::test]
async fn an_installation_does_not_see_the_machines_of_another() {
    let account = Account::new().await;
    let (one, two) = (account.aws("one"), account.aws("two"));
    one.instance_launch(&account.spec("claim-1")).await.unwrap();
    assert!(two.instance_list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_says_what_to_do_and_is_not_repeated_behind_the_callers_back() {
    let account = Account::new().await;
    let aws = account.aws("one");
    let spec = account.spec("claim-1");
    let refusals: [(&str, fn(&CloudError) -> bool); 4] = [
        ("RequestLimitExceeded", |e| matches!(e, CloudError::Throttled { .. })),
        (
            "InsufficientInstanceCapacity",
            |e| matches!(e, CloudError::Capacity { instance_type, .. } if instance_type == "t3.small"),
        ),
        ("VcpuLimitExceeded", |e| matches!(e, CloudError::Quota { .. })),
        ("UnauthorizedOperation", |e| matches!(e, CloudError::Unauthorized { operation: "RunInstances", .. })),
    ];
    for (at, (code, expected)) in refusals.into_iter().enumerate() {
        account.fault("RunInstances", "before", Some(code));
        let refused = aws.instance_launch(&spec).await.unwrap_err();
        assert!(expected(&refused), "{code}: {refused:?}");
        assert_eq!(account.calls("RunInstances"), at + 1);
    }
    assert!(aws.instance_list().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_can_never_work_is_said_to_be_invalid() {
    let account = Account::new().await;
    let aws = account.aws("one");
    let good = account.spec("claim-1");
    for (what, spec) in [
        ("an image that is not there", InstanceSpec { image: "ami-00000000".into(), ..good.clone() }),
        ("a subnet that is not there", InstanceSpec { subnet: "subnet-00000000".into(), ..good.clone() }),
        ("a type that is not there", InstanceSpec { instance_type: "t9.tiny".into(), ..good.clone() }),
        ("too much user data", InstanceSpec { user_data: "#".repeat(16 * 1024 + 1), ..good.clone() }),
    ] {
        let refused = aws.instance_launch(&spec).await.unwrap_err();
        assert!(matches!(refused, CloudError::Invalid { .. }), "{what}: {refused:?}");
    }
    assert!(aws.instance_list().await.unwrap().is_empty());
}
