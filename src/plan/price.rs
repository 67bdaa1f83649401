//! What requests and task time cost, at list prices.

/// US dollars, AWS list prices of us-east-1 for S3 Standard and Fargate on Linux/x86; other regions differ by some percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    /// Month of the figures, as price guides quoted AWS's list then.
    pub as_of: &'static str,
    /// Per request: PUT, COPY, POST and LIST.
    pub write_request: f64,
    /// Per request: GET and HEAD.
    pub read_request: f64,
    pub vcpu_hour: f64,
    pub gib_hour: f64,
    /// Share of the on-demand price that Fargate Spot takes, as a rule.
    pub spot_share: f64,
}

pub const PRICES: Prices = Prices {
    as_of: "2026-03",
    write_request: 0.005 / 1000.0,
    read_request: 0.0004 / 1000.0,
    vcpu_hour: 0.04048,
    gib_hour: 0.004_445,
    spot_share: 0.3,
};

impl Prices {
    /// Dollars for requests of both kinds; deletes are free.
    pub fn requests(&self, writes_and_lists: u64, reads: u64) -> f64 {
        writes_and_lists as f64 * self.write_request + reads as f64 * self.read_request
    }

    /// Dollars for a task of that size and time, on demand; a minute is billed at least.
    pub fn task(&self, vcpus: f64, gib: f64, seconds: f64) -> f64 {
        (vcpus * self.vcpu_hour + gib * self.gib_hour) * seconds.max(60.0) / 3600.0
    }
}

/// What a run is expected to do, before it does it.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Estimate {
    pub lists: u64,
    pub gets: u64,
    pub puts: u64,
    pub requests_usd: f64,
    pub seconds: f64,
    /// Of a task on demand; about a third of it on Fargate Spot.
    pub task_usd: f64,
}

/// Stored bytes that one core turns into silver in a second: FaultData, codecs mixed, as measured (docs/performance.md).
const BYTES_PER_CORE_SECOND: f64 = 2.0e7;
/// Until the first batch begins, and around each batch.
const START_SECONDS: f64 = 1.0;
const BATCH_SECONDS: f64 = 0.5;
/// Listing pages hold this many keys.
const PAGE: u64 = 1000;
/// GETs of the ledger, of three tables and of one batch's checks.
const GETS_PER_RUN: u64 = 30;
const GETS_PER_BATCH: u64 = 12;
const LISTS_PER_RUN: u64 = 12;
const LISTS_PER_BATCH: u64 = 9;
/// Lease, claim, intent, a commit for each table.
const PUTS_PER_BATCH: u64 = 6;

/// The work of a run, as the listing shows it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    pub listed: u64,
    pub objects: u64,
    pub bytes: u64,
    pub batches: u64,
    /// Partitions that new rows fall into: a file each, and two more requests where a file is rewritten.
    pub partitions: u64,
    pub file_bytes: u64,
}

impl Prices {
    pub fn estimate(&self, work: &Work, vcpus: f64, gib: f64) -> Estimate {
        let lists = work.listed.div_ceil(PAGE).max(1) + LISTS_PER_RUN + LISTS_PER_BATCH * work.batches;
        let gets = GETS_PER_RUN + GETS_PER_BATCH * work.batches + work.objects;
        let files = work.partitions + work.bytes / work.file_bytes.max(1);
        let puts = (PUTS_PER_BATCH + 1) * work.batches + files;
        let seconds = START_SECONDS + BATCH_SECONDS * work.batches as f64 + work.bytes as f64 / (BYTES_PER_CORE_SECOND * vcpus);
        let requests_usd = self.requests(lists + puts, gets);
        Estimate { lists, gets, puts, requests_usd, seconds, task_usd: self.task(vcpus, gib, seconds) }
    }
}

/// The work of a compaction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rewrite {
    pub files: u64,
    pub becomes: u64,
    pub bytes: u64,
    /// Whether rows are put in order, too.
    pub sorted: bool,
    pub commits: u64,
}

/// Stored bytes that one core reads and writes anew in a second, and sorted, as measured (docs/performance.md).
const REWRITTEN_PER_CORE_SECOND: f64 = 3.0e7;
const SORTED_PER_CORE_SECOND: f64 = 1.5e7;
/// Bytes of one part of an upload, and of a file that takes one request to read.
const PART: u64 = 5 << 20;
const WHOLE: u64 = 8 << 20;
/// Of the log and the lease.
const REQUESTS_PER_COMPACTION: u64 = 20;
const PUTS_PER_COMMIT: u64 = 2;

impl Prices {
    pub fn rewrite(&self, work: &Rewrite, vcpus: f64, gib: f64) -> Estimate {
        if work.files == 0 {
            return Estimate::default();
        }
        // What was written is read back by its keys: a footer and a few columns.
        let gets = work.files + work.bytes / WHOLE + 3 * work.becomes + REQUESTS_PER_COMPACTION;
        let puts = work.bytes / PART + 2 * work.becomes + PUTS_PER_COMMIT * work.commits;
        let per_second = if work.sorted { SORTED_PER_CORE_SECOND } else { REWRITTEN_PER_CORE_SECOND };
        let seconds = START_SECONDS + work.bytes as f64 / (per_second * vcpus);
        Estimate { lists: 6, gets, puts, requests_usd: self.requests(6 + puts, gets), seconds, task_usd: self.task(vcpus, gib, seconds) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_objects_cost_requests_and_bytes_cost_time() {
        let few = Work { listed: 64, objects: 64, bytes: 1 << 30, batches: 1, partitions: 10, file_bytes: 128 << 20 };
        let many = Work { listed: 20_000, objects: 20_000, ..few };
        let (few, many) = (PRICES.estimate(&few, 2.0, 4.0), PRICES.estimate(&many, 2.0, 4.0));
        assert!(many.requests_usd > 10.0 * few.requests_usd);
        assert!((many.seconds - few.seconds).abs() < 1e-9);
        let hour = PRICES.task(1.0, 2.0, 3600.0);
        assert!((hour - 0.04937).abs() < 1e-5, "{hour}");
    }
}
