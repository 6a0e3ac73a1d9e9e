//! PURE: the core.
pub mod event;
