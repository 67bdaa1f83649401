//! Which files of a table are put together, in which order, and what that will cost. Pure.
//!
//! A partition is looked at as a whole: it is *closed* when its day lies far enough back, and *due* when the job's policy says so.
//! Of a due partition only files that gain by it are rewritten: those smaller than half of a full one and, where rows are
//! to be clustered, those that are not. A file that is full and clustered is never read again. Bins of one partition are
//! rewritten and committed each by itself, so that a compaction that ends early has done what it has done.

use std::collections::BTreeMap;

use crate::domain::time::parse_date;
use crate::job::Compact;
use crate::job::care::Due;

/// Columns that say how old a partition is.
const DAYS: [&str; 2] = ["event_date", "marked_on"];
/// Full files that one bin may become: what is in a bin is redone when a writer changes one of its files meanwhile.
const FULL_FILES_A_BIN: u64 = 8;
/// The same where rows are sorted: only rows of one bin are sorted among each other.
const FULL_FILES_A_SORT: u64 = 64;

/// Values of the partition columns by their names.
pub type PartitionValues = BTreeMap<String, Option<String>>;

/// A live file, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Position in the list that was handed over.
    pub at: usize,
    pub bytes: u64,
    /// Whether its rows lie as they should.
    pub clustered: bool,
}

/// What is asked of a table.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'j> {
    pub policy: &'j Compact,
    /// Bytes of a full file.
    pub file: u64,
    /// Today, in days since 1970.
    pub today: i32,
    /// Whether rows are to be clustered.
    pub cluster: bool,
    /// Every partition that gains anything, whatever the policy says.
    pub force: bool,
}

/// Files that become fewer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bin {
    pub partition: PartitionValues,
    /// Positions, in the order in which rows are read.
    pub files: Vec<usize>,
    pub bytes: u64,
    /// Files that these bytes fill.
    pub becomes: u64,
}

/// A table's due partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compaction {
    pub bins: Vec<Bin>,
    pub partitions: u64,
    /// Partitions that would be due, but are too young.
    pub open: u64,
    /// Bytes of due partitions that wait for the next time.
    pub left_bytes: u64,
}

impl Compaction {
    pub fn bytes(&self) -> u64 {
        self.bins.iter().map(|bin| bin.bytes).sum()
    }

    pub fn files(&self) -> u64 {
        self.bins.iter().map(|bin| bin.files.len() as u64).sum()
    }

    pub fn becomes(&self) -> u64 {
        self.bins.iter().map(|bin| bin.becomes).sum()
    }
}

/// Files below it are worth putting together.
pub fn is_small(bytes: u64, file: u64) -> bool {
    bytes < file / 2
}

/// What to rewrite, those partitions first that lose the most files for their bytes.
pub fn compaction(partitions: BTreeMap<PartitionValues, Vec<Candidate>>, wanted: &Wanted<'_>) -> Compaction {
    let mut found = Compaction::default();
    let mut due: Vec<(f64, Vec<Bin>)> = Vec::new();
    for (partition, files) in partitions {
        if !is_due(&files, wanted) {
            continue;
        }
        let bins = bins(&partition, files, wanted);
        if bins.is_empty() {
            continue;
        }
        if !is_closed(&partition, wanted) {
            found.open += 1;
            continue;
        }
        let (files, bytes): (usize, u64) = bins.iter().fold((0, 0), |(files, bytes), bin| (files + bin.files.len(), bytes + bin.bytes));
        due.push((files as f64 / bytes.max(1) as f64, bins));
    }
    due.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    for (_, bins) in due {
        let bytes: u64 = bins.iter().map(|bin| bin.bytes).sum();
        let room = wanted.policy.max_rewrite.saturating_sub(found.bytes());
        // A partition that is larger than the bound by itself is taken bin by bin, or it would never be done.
        let fit: Vec<Bin> = bins
            .into_iter()
            .scan(0, |sum, bin| {
                *sum += bin.bytes;
                Some((*sum, bin))
            })
            .enumerate()
            .take_while(|(nth, (sum, _))| *sum <= room || (*nth == 0 && found.bins.is_empty()))
            .map(|(_, bin)| bin)
            .map(|(_, bin)| bin)
            .collect();
        found.left_bytes += bytes - fit.iter().map(|bin| bin.bytes).sum::<u64>();
        found.partitions += u64::from(!fit.is_empty());
        found.bins.extend(fit);
    }
    found
}

fn is_due(files: &[Candidate], wanted: &Wanted<'_>) -> bool {
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let small = files.iter().filter(|file| is_small(file.bytes, wanted.file)).count() as u64;
    let unclustered: u64 = files.iter().filter(|file| !file.clustered).map(|file| file.bytes).sum();
    let ideal = bytes.div_ceil(wanted.file.max(1)).max(1);
    let holds = |due: &Due| match due {
        Due::SmallFiles(most) => small > *most,
        Due::Ratio(least) => (ideal as f64) / (files.len() as f64) < *least,
        Due::Unclustered(most) => wanted.cluster && unclustered as f64 > *most * bytes as f64,
    };
    wanted.force || wanted.policy.when.iter().any(holds)
}

/// Whether its day is over long enough; a partition without a day always is.
fn is_closed(partition: &PartitionValues, wanted: &Wanted<'_>) -> bool {
    let day = DAYS.iter().find_map(|name| partition.get(*name)?.as_deref());
    let Some(day) = day.and_then(parse_date).flatten() else { return true };
    let days = (wanted.policy.older_than.as_secs() / 86_400) as i32;
    wanted.force || day.saturating_add(days) < wanted.today
}

fn bins(partition: &PartitionValues, files: Vec<Candidate>, wanted: &Wanted<'_>) -> Vec<Bin> {
    let gains = |file: &Candidate| is_small(file.bytes, wanted.file) || (wanted.cluster && !file.clustered);
    let full_files = if wanted.cluster { FULL_FILES_A_SORT } else { FULL_FILES_A_BIN };
    let most = wanted.file.saturating_mul(full_files).min(wanted.policy.max_rewrite);
    let mut bins: Vec<Vec<Candidate>> = Vec::new();
    let mut room = 0;
    for file in files.into_iter().filter(gains) {
        match bins.last_mut() {
            Some(bin) if file.bytes <= room => {
                room -= file.bytes;
                bin.push(file);
            }
            _ => {
                room = most.saturating_sub(file.bytes);
                bins.push(vec![file]);
            }
        }
    }
    // One file alone gains only where its rows are put in order.
    let worth = |bin: &Vec<Candidate>| bin.len() > 1 || (wanted.cluster && bin.iter().any(|file| !file.clustered));
    let bins = bins.into_iter().filter(worth);
    bins.map(|bin| {
        let bytes = bin.iter().map(|file| file.bytes).sum::<u64>();
        Bin {
            partition: partition.clone(),
            files: bin.iter().map(|file| file.at).collect(),
            bytes,
            becomes: bytes.div_ceil(wanted.file.max(1)).max(1),
        }
    })
    .collect()
}

/// Text of a partition for people: `database=fleetdb_de/event_date=2024-03-01`.
pub fn partition_text(partition: &PartitionValues) -> String {
    let part = |(name, value): (&String, &Option<String>)| format!("{name}={}", value.as_deref().unwrap_or("NULL"));
    partition.iter().map(part).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn policy(when: Vec<Due>, max_rewrite: u64) -> Compact {
        Compact { when, older_than: Duration::from_hours(48), max_rewrite, after_run: true, every: 10, guard_against_optimize: true }
    }

    fn partition(day: &str) -> PartitionValues {
        [("database".to_owned(), Some("d".to_owned())), ("event_date".to_owned(), Some(day.to_owned()))].into()
    }

    fn files(sizes: &[u64], clustered: bool) -> Vec<Candidate> {
        sizes.iter().enumerate().map(|(at, bytes)| Candidate { at, bytes: *bytes, clustered }).collect()
    }

    fn wanted(policy: &Compact) -> Wanted<'_> {
        Wanted { policy, file: 100, today: parse_date("2024-03-10").flatten().unwrap(), cluster: false, force: false }
    }

    #[test]
    fn full_files_are_left_alone_and_small_ones_become_few() {
        let policy = policy(vec![Due::SmallFiles(2)], 1_000_000);
        let found = compaction([(partition("2024-03-01"), files(&[120, 10, 20, 60, 30], false))].into(), &wanted(&policy));
        assert_eq!(found.bins.len(), 1);
        assert_eq!((found.bins[0].files.as_slice(), found.bins[0].becomes), ([1, 2, 4].as_slice(), 1));
        let few = compaction([(partition("2024-03-01"), files(&[120, 10, 20], false))].into(), &wanted(&policy));
        assert_eq!(few, Compaction::default());
    }

    #[test]
    fn young_partitions_wait() {
        let policy = policy(vec![Due::SmallFiles(1)], 1_000_000);
        let both = [(partition("2024-03-09"), files(&[1, 1], false)), (partition("2024-03-07"), files(&[1, 1], false))];
        let found = compaction(both.into(), &wanted(&policy));
        assert_eq!((found.partitions, found.open), (1, 1));
        assert_eq!(found.bins[0].partition, partition("2024-03-07"));
    }

    #[test]
    fn what_is_too_much_is_left_and_the_worst_goes_first() {
        let policy = policy(vec![Due::SmallFiles(1)], 100);
        let both = [(partition("2024-03-01"), files(&[40, 40], false)), (partition("2024-03-02"), files(&[10; 6], false))];
        let found = compaction(both.into(), &wanted(&policy));
        assert_eq!((found.bins[0].partition.clone(), found.left_bytes), (partition("2024-03-02"), 80));
        assert_eq!(found.bytes(), 60);
    }

    #[test]
    fn a_partition_of_more_than_is_read_at_once_is_done_in_parts() {
        let policy = policy(vec![Due::SmallFiles(1)], 70);
        let found = compaction([(partition("2024-03-01"), files(&[30; 10], false))].into(), &wanted(&policy));
        assert_eq!((found.bins.len(), found.bytes(), found.left_bytes), (1, 60, 240));
        // A file that is larger than the bound by itself does not keep its partition from being clustered.
        let wanted = Wanted { cluster: true, ..wanted(&policy) };
        let found = compaction([(partition("2024-03-01"), files(&[500, 20, 20], false))].into(), &wanted);
        assert_eq!((found.bins.len(), found.bytes()), (1, 500));
    }

    #[test]
    fn clustering_takes_what_is_not_clustered_once() {
        let policy = policy(vec![Due::Unclustered(0.5)], 1_000_000);
        let wanted = Wanted { cluster: true, ..wanted(&policy) };
        let once = compaction([(partition("2024-03-01"), files(&[120], false))].into(), &wanted);
        assert_eq!(once.bins.len(), 1);
        let again = compaction([(partition("2024-03-01"), files(&[120, 130], true))].into(), &wanted);
        assert_eq!(again.bins.len(), 0);
    }

    #[test]
    fn a_rewrite_is_never_due_again_by_itself() {
        // Whatever sizes there are: what becomes of the bins is not due any more, unless it grows.
        let policy = policy(vec![Due::SmallFiles(1), Due::Ratio(0.9)], u64::MAX);
        for seed in 0..200_u64 {
            let sizes: Vec<u64> = (0..=seed % 13).map(|at| (seed * 7919 + at * 104_729) % 140 + 1).collect();
            let found = compaction([(partition("2024-03-01"), files(&sizes, false))].into(), &wanted(&policy));
            let taken: Vec<usize> = found.bins.iter().flat_map(|bin| bin.files.clone()).collect();
            let mut after: Vec<u64> = (0..sizes.len()).filter(|at| !taken.contains(at)).map(|at| sizes[at]).collect();
            for bin in &found.bins {
                after.extend((0..bin.becomes).map(|at| (bin.bytes - at * 100).min(100)));
            }
            assert!(after.len() <= sizes.len());
            assert_eq!(after.iter().sum::<u64>(), sizes.iter().sum::<u64>());
            let again = compaction([(partition("2024-03-01"), files(&after, false))].into(), &wanted(&policy));
            assert!(again.files() <= 2, "{sizes:?} -> {after:?} -> {again:?}");
        }
    }
}
