//! The store as its users see it.

mod cache;
mod cluster;
mod crash;
mod handover;
mod lanes;
mod migrations;
mod outage;
mod postgres;
mod registry;
mod simulation;
mod support;
mod upkeep;
mod watches;
