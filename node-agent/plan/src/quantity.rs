//! Reading resource quantities: the numbers that cgroups want. Malformed texts count as nothing: the API server has
//! validated them, and a pod must not be unstoppable because of one.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity in thousandths, rounded up.
pub fn milli(quantity: &Quantity) -> i64 {
    quantity.0.parse::<galley_types::Quantity>().map_or(0, |q| q.millis())
}

/// The quantity in whole units, rounded up.
pub fn whole(quantity: &Quantity) -> i64 {
    quantity.0.parse::<galley_types::Quantity>().map_or(0, |q| q.units())
}
