//! PersistentVolumes and claims: see `galley_controllers_plan::volume_binding`.

use galley_controllers_plan::Plan;
use galley_controllers_plan::volume_binding::{CLAIMS, COMPONENT, ObservedClaim, VOLUMES, plan_claim, plan_volume};
use galley_store::{DecodeError, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, View};

/// The controller.
#[derive(Debug)]
pub struct VolumeBinding;

impl Controller for VolumeBinding {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        let key = change.key();
        match change.resource() {
            CLAIMS => {
                wake.key(key.clone());
                if let Ok(claim) = change.now.object.typed::<PersistentVolumeClaim>()
                    && let Some(volume) = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref())
                {
                    wake.object(VOLUMES, "", volume);
                }
            }
            VOLUMES => {
                wake.key(key.clone());
                let volume = change.now.object.typed::<PersistentVolume>();
                let promised = volume.ok().and_then(|v| v.spec.as_ref()?.claim_ref.clone());
                match promised {
                    Some(claim) => wake.object(
                        CLAIMS,
                        claim.namespace.as_deref().unwrap_or_default(),
                        claim.name.as_deref().unwrap_or_default(),
                    ),
                    // A free volume may be what some claim waits for.
                    None => {
                        for seen in view.all(CLAIMS) {
                            let claim = seen.object.typed::<PersistentVolumeClaim>();
                            let unbound = claim.is_ok_and(|claim| {
                                let spec = claim.spec.as_ref();
                                spec.is_none_or(|spec| spec.volume_name.as_deref().unwrap_or_default().is_empty())
                            });
                            if unbound {
                                wake.key(seen.object.key.clone());
                            }
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let view = context.view;
        if key.resource.as_str() == VOLUMES {
            let Some(volume) = view.typed::<PersistentVolume>(key)? else {
                return Ok(Plan::nothing("the volume is gone".into()));
            };
            let promised = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            let claim = promised.and_then(|claim| {
                let namespace = claim.namespace.as_deref().unwrap_or_default();
                view.get(CLAIMS, namespace, claim.name.as_deref().unwrap_or_default())
            });
            let claim = claim.map(|seen| seen.object.typed::<PersistentVolumeClaim>()).transpose()?;
            return Ok(plan_volume(&volume, claim.as_deref()).explain());
        }
        let Some(claim) = view.typed::<PersistentVolumeClaim>(key)? else {
            return Ok(Plan::nothing("the claim is gone".into()));
        };
        let spec = claim.spec.as_ref();
        let class = spec.and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
        let named = spec.and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
        let mut volumes = Vec::new();
        match named {
            Some(name) => volumes.extend(view.get(VOLUMES, "", name).map(|seen| seen.object.typed()).transpose()?),
            None => {
                for seen in view.all(VOLUMES) {
                    volumes.push(seen.object.typed::<PersistentVolume>()?);
                }
            }
        }
        let class = view.get("storageclasses.storage.k8s.io", "", class);
        let class = class.map(|seen| seen.object.typed::<StorageClass>()).transpose()?;
        let waits_for_consumer =
            class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        Ok(plan_claim(&ObservedClaim { claim, volumes, waits_for_consumer }).explain())
    }
}
