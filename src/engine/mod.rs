pub mod local;
pub mod spark;
