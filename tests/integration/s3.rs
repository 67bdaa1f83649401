//! S3 for real: servers on loopback, the same outcomes as on disk.

use crate::buckets::{Bucket, moto};
use crate::cases::check_all_in;

#[test]
fn every_case_ends_over_s3_as_on_disk() {
    check_all_in(&Bucket::new(moto()));
}
