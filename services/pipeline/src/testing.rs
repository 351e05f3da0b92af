//! What tests of this crate share.

use galley_kube::Resource;
use galley_types::ResourceName;

/// A resource as far as decisions look at it.
pub fn resource(group: &str, plural: &str) -> Resource {
    galley_kube::resource::builtin()
        .storage(ResourceName::new(plural, group).as_str())
        .map(|found| Resource::clone(found))
        .expect("a built-in resource")
}
