//! EC2 instances.

use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, Filter, HttpTokensState, IamInstanceProfileSpecification,
    Instance as Ec2Instance, InstanceMarketOptionsRequest, InstanceMetadataEndpointState,
    InstanceMetadataOptionsRequest, InstanceStateName, InstanceType, MarketType, ResourceType, Tag, TagSpecification,
    VolumeType,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use galley_cloud::{Capacity, CloudError, Instance, InstanceOwner, InstanceSpec, InstanceState, Instances};

use crate::Aws;
use crate::error::{Asked, cloud_error};

const TAG_INSTALLATION: &str = "galley.dev/installation";
const TAG_CLUSTER: &str = "galley.dev/cluster";
const TAG_GROUP: &str = "galley.dev/node-group";
const TAG_CLAIM: &str = "galley.dev/claim";

/// Before base64 ("Instance user data" in the EC2 user guide).
const USER_DATA_MOST: usize = 16 * 1024;

fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build()
}

fn state(name: Option<&InstanceStateName>) -> InstanceState {
    match name {
        Some(InstanceStateName::Pending) => InstanceState::Pending,
        Some(InstanceStateName::Running) => InstanceState::Running,
        Some(InstanceStateName::Stopped) => InstanceState::Stopped,
        Some(InstanceStateName::Terminated) => InstanceState::Terminated,
        // A state that AWS adds later is not one in which pods can be trusted to run.
        _ => InstanceState::Stopping,
    }
}

impl Aws {
    /// What an instance is to us; nothing if it lacks a tag of ours.
    fn instance(&self, found: &Ec2Instance) -> Option<Instance> {
        let tag = |wanted: &str| {
            let tags = found.tags().iter();
            tags.filter(|tag| tag.key() == Some(wanted)).find_map(|tag| tag.value()).map(str::to_owned)
        };
        if tag(TAG_INSTALLATION)? != self.installation {
            return None;
        }
        let id = found.instance_id()?.to_owned();
        let zone = found.placement().and_then(|placement| placement.availability_zone()).unwrap_or_default().to_owned();
        Some(Instance {
            owner: InstanceOwner { cluster: tag(TAG_CLUSTER)?, group: tag(TAG_GROUP)? },
            claim: tag(TAG_CLAIM)?,
            state: state(found.state().and_then(|state| state.name())),
            instance_type: found.instance_type().map(|t| t.as_str().to_owned()).unwrap_or_default(),
            // The form of the AWS cloud provider, which other controllers take apart.
            provider_id: format!("aws:///{zone}/{id}"),
            zone,
            id,
        })
    }

    /// The device that a size for the root disk must name.
    async fn root_device(&self, image: &str) -> Result<String, CloudError> {
        if let Some(known) = self.root_devices.lock().get(image) {
            return Ok(known.clone());
        }
        let asked = Asked { operation: "DescribeImages", what: "image", name: image, place: &self.region };
        let answer = self.ec2.describe_images().image_ids(image).send().await.map_err(|e| cloud_error(&asked, e))?;
        let device = answer.images().first().and_then(|image| image.root_device_name()).map(str::to_owned);
        let device = device
            .ok_or_else(|| CloudError::Invalid { detail: format!("the image {image} is not there, or has no disk") })?;
        self.root_devices.lock().insert(image.to_owned(), device.clone());
        Ok(device)
    }
}

impl Instances for Aws {
    async fn instance_list(&self) -> Result<Vec<Instance>, CloudError> {
        let asked = Asked { operation: "DescribeInstances", what: "instances", name: "", place: &self.region };
        let ours = Filter::builder().name(format!("tag:{TAG_INSTALLATION}")).values(&self.installation).build();
        let there = ["pending", "running", "shutting-down", "stopping", "stopped"].map(str::to_owned).to_vec();
        let there = Filter::builder().name("instance-state-name").set_values(Some(there)).build();
        let mut pages = self.ec2.describe_instances().filters(ours).filters(there).into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(reservation) = pages.next().await {
            let reservation = reservation.map_err(|error| cloud_error(&asked, error))?;
            found.extend(reservation.instances().iter().filter_map(|instance| self.instance(instance)));
        }
        Ok(found)
    }

    async fn instance_launch(&self, spec: &InstanceSpec) -> Result<Instance, CloudError> {
        if spec.user_data.len() > USER_DATA_MOST {
            let detail = format!("user data has {} bytes, at most {USER_DATA_MOST} are possible", spec.user_data.len());
            return Err(CloudError::Invalid { detail });
        }
        let tags = [
            ("Name", spec.display_name.as_str()),
            (TAG_INSTALLATION, &self.installation),
            (TAG_CLUSTER, &spec.owner.cluster),
            (TAG_GROUP, &spec.owner.group),
            (TAG_CLAIM, &spec.claim),
        ];
        let tags: Vec<Tag> = tags.into_iter().map(|(key, value)| tag(key, value)).collect();
        let tagged = |kind| TagSpecification::builder().resource_type(kind).set_tags(Some(tags.clone())).build();
        // Pods must not reach the node's role: a hop limit of one ends at the node's own network namespace.
        let metadata = InstanceMetadataOptionsRequest::builder()
            .http_endpoint(InstanceMetadataEndpointState::Enabled)
            .http_tokens(HttpTokensState::Required)
            .http_put_response_hop_limit(1)
            .build();
        let mut call = self
            .ec2
            .run_instances()
            .client_token(&spec.claim)
            .min_count(1)
            .max_count(1)
            .image_id(&spec.image)
            .instance_type(InstanceType::from(spec.instance_type.as_str()))
            .subnet_id(&spec.subnet)
            .set_security_group_ids(Some(spec.security_groups.clone()))
            .user_data(STANDARD.encode(&spec.user_data))
            .metadata_options(metadata)
            .tag_specifications(tagged(ResourceType::Instance))
            .tag_specifications(tagged(ResourceType::Volume));
        if let Some(profile) = &spec.instance_profile {
            call = call.iam_instance_profile(IamInstanceProfileSpecification::builder().name(profile).build());
        }
        match spec.capacity {
            Capacity::OnDemand => {}
            Capacity::Spot => {
                let market = InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).build();
                call = call.instance_market_options(market);
            }
        }
        if let Some(size) = spec.disk_gib {
            let disk = EbsBlockDevice::builder()
                .volume_size(size)
                .volume_type(VolumeType::Gp3)
                .encrypted(true)
                .delete_on_termination(true)
                .build();
            let device = self.root_device(&spec.image).await?;
            call = call.block_device_mappings(BlockDeviceMapping::builder().device_name(device).ebs(disk).build());
        }
        let asked =
            Asked { operation: "RunInstances", what: "instances", name: &spec.instance_type, place: &spec.subnet };
        let answer = call.send().await.map_err(|error| cloud_error(&asked, error))?;
        answer.instances().iter().find_map(|instance| self.instance(instance)).ok_or_else(|| CloudError::Failed {
            operation: "RunInstances",
            source: "the answer has no instance with our tags".into(),
        })
    }

    async fn instance_terminate(&self, id: &str) -> Result<(), CloudError> {
        let asked = Asked { operation: "TerminateInstances", what: "instance", name: id, place: &self.region };
        match self.ec2.terminate_instances().instance_ids(id).send().await {
            Ok(_) => Ok(()),
            Err(error) => match cloud_error(&asked, error) {
                CloudError::NotFound { .. } => Ok(()),
                other => Err(other),
            },
        }
    }
}
