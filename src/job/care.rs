//! How a table is kept in shape: the sections `compact:` and `cluster_by:` as written and as meant.

use std::time::Duration;

use serde::Deserialize;

use super::{parse_bytes, parse_duration_setting};
use crate::domain::Mistake;

/// One reason for which a partition is put together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Due {
    /// More files than this are smaller than half of a full one.
    SmallFiles(u64),
    /// Files that its bytes would fill ÷ files that it has is less than this.
    Ratio(f64),
    /// More of its bytes than this share lie in files that are not clustered.
    Unclustered(f64),
}

/// When and how files are put together, as meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Compact {
    /// Any of them.
    pub when: Vec<Due>,
    /// Days of events that are younger are left alone: more of them is to come.
    pub older_than: Duration,
    /// Bytes read at most in one go; what is left is for the next one.
    pub max_rewrite: u64,
    /// Whether runs look after the table when they have committed something.
    pub after_run: bool,
    /// Commits between two such looks.
    pub every: u64,
    /// Whether removed files are marked as a change of data, so that another program's OPTIMIZE of the same files fails.
    pub guard_against_optimize: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// By the first column, then by the next one.
    Sort,
    /// By the columns' interleaved ranks, so that each of them narrows a search.
    ZOrder,
}

/// How rows lie in compacted files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterBy {
    pub curve: Curve,
    columns: Vec<String>,
}

impl ClusterBy {
    pub fn columns(&self) -> impl Iterator<Item = &String> {
        self.columns.iter()
    }

    /// As files say how their rows lie.
    pub fn name(&self) -> String {
        let curve = match self.curve {
            Curve::Sort => "sort",
            Curve::ZOrder => "z_order",
        };
        format!("{curve}({})", self.columns.join(","))
    }
}

/// `compact:` as people write it, with every default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompactFile {
    when: String,
    only_partitions_older_than: String,
    max_rewrite_bytes: String,
    after_run: bool,
    every: u64,
    guard_against_optimize: bool,
}

impl Default for CompactFile {
    fn default() -> Self {
        Self {
            when: "small_files > 8 or ratio < 0.25 or unclustered > 0.5".to_owned(),
            only_partitions_older_than: "2 d".to_owned(),
            max_rewrite_bytes: "8 GiB".to_owned(),
            after_run: true,
            every: 10,
            guard_against_optimize: true,
        }
    }
}

impl CompactFile {
    /// `fail` makes a mistake of a place in the file, what is wrong there, and the remedy.
    pub fn meant(&self, fail: &impl Fn(&str, &str, &str) -> Mistake) -> Result<Compact, Mistake> {
        let when = conditions(&self.when).map_err(|part| {
            fail(&part, &format!("`{part}` is no reason to compact"), "when: small_files > 8 or ratio < 0.25 or unclustered > 0.5")
        })?;
        let older_than = parse_duration_setting(&self.only_partitions_older_than).ok_or_else(|| {
            let written = &self.only_partitions_older_than;
            fail("only_partitions_older_than", &format!("`{written}` is no time"), "write it like 2 d; 0 d takes every partition")
        })?;
        let max_rewrite = parse_bytes(&self.max_rewrite_bytes)
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| fail("max_rewrite_bytes", &format!("`{}` is no size", self.max_rewrite_bytes), "write it like 8 GiB"))?;
        if self.every == 0 {
            return Err(fail("every", "after how many commits?", "every: 10; after_run: false switches it off"));
        }
        Ok(Compact {
            when,
            older_than,
            max_rewrite,
            after_run: self.after_run,
            every: self.every,
            guard_against_optimize: self.guard_against_optimize,
        })
    }
}

/// `small_files > n or ratio < r or unclustered > s`, any of them; the part that is none of these where there is one.
fn conditions(text: &str) -> Result<Vec<Due>, String> {
    let condition = |part: &str| {
        let words: Vec<&str> = part.split_whitespace().collect();
        let share = |written: &str| written.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
        match words.as_slice() {
            ["small_files", ">", count] => count.parse().ok().map(Due::SmallFiles),
            ["ratio", "<", written] => share(written).map(Due::Ratio),
            ["unclustered", ">", written] => share(written).map(Due::Unclustered),
            _ => None,
        }
    };
    text.split(" or ").map(|part| condition(part).ok_or_else(|| part.trim().to_owned())).collect()
}

/// `cluster_by:` as people write it: a list sorts, `{z_order: […]}` interleaves.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum ClusterByFile {
    Sort(Vec<String>),
    Curve(CurveFile),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurveFile {
    z_order: Vec<String>,
}

/// Ranks of 16 bits each share 64.
const MOST_INTERLEAVED: usize = 4;

impl ClusterByFile {
    pub fn meant(self, fail: &impl Fn(&str, &str, &str) -> Mistake) -> Result<ClusterBy, Mistake> {
        let (curve, columns) = match self {
            Self::Sort(columns) => (Curve::Sort, columns),
            Self::Curve(CurveFile { z_order }) => (Curve::ZOrder, z_order),
        };
        if columns.is_empty() {
            return Err(fail(
                "cluster_by",
                "cluster_by names no column",
                "cluster_by: [id], or: cluster_by: {z_order: [device, dateTime]}",
            ));
        }
        if let Some(twice) = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name)) {
            return Err(fail(twice.1, &format!("`{}` stands in cluster_by twice", twice.1), "name each column once"));
        }
        if curve == Curve::ZOrder && !(2..=MOST_INTERLEAVED).contains(&columns.len()) {
            return Err(fail("z_order", "z_order interleaves 2 to 4 columns", "cluster_by: [id] sorts by one"));
        }
        Ok(ClusterBy { curve, columns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_and_mistakes_name_their_part() {
        let read = conditions("small_files > 8 or ratio < 0.25 or unclustered > 0.5");
        assert_eq!(read, Ok(vec![Due::SmallFiles(8), Due::Ratio(0.25), Due::Unclustered(0.5)]));
        for wrong in ["small_files < 8", "ratio < 2", "sometimes", "small_files > 8 or", ""] {
            assert!(conditions(wrong).is_err(), "{wrong}");
        }
        assert_eq!(conditions("ratio < 0.5 or often"), Err("often".to_owned()));
    }
}
