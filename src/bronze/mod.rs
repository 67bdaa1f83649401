//! Bronze: which objects a source has, told by their names alone.
//!
//! Below `database=<db>/entity=<E>/` an object in a leaf day folder is Firehose's, one higher up a backfill's. Firehose's own
//! error objects and what other tools leave behind (`_SUCCESS`, `.crc`, Parquet files …) are recognised, counted and left alone.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use tokio::sync::mpsc;

use crate::domain::time::days_from_civil;
use crate::domain::{BronzeObject, Layout, PathValues, Source};
use crate::plan::order;
use crate::store::{Action, Store, StoreError};

/// Year, month and day.
const LEVELS: usize = 3;
/// Objects of an archive class that one listing asks about, in order of their keys: whether one is restored takes a request each.
const ARCHIVED_ASKED: usize = 1000;
const ASKED_AT_ONCE: usize = 32;
/// Names that are handed on together, and such runs of them that wait for whoever compares them with what is known.
const LISTED_TOGETHER: usize = 256;
pub const LISTED_AHEAD: usize = 16;

/// The dates and the share of objects that a run looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Days since 1970, inclusive.
    pub from: Option<i32>,
    pub to: Option<i32>,
    /// Folders of months and days that were over before are left out; the objects of a year's root never are.
    pub revisit_from: Option<i32>,
    /// (i, n), i from 1.
    pub shard: Option<(u64, u64)>,
    /// Only these keys.
    pub only: Option<std::collections::BTreeSet<String>>,
}

/// What a listing found.
#[derive(Debug, Default)]
pub struct Listing {
    pub objects: Vec<BronzeObject>,
    /// Left alone, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// In an archive class: restored or not is not asked yet.
    pub archived: Vec<BronzeObject>,
    /// Further objects, all of them known.
    pub known: u64,
}

impl Listing {
    pub fn skipped(&self) -> u64 {
        self.skipped.values().sum()
    }
}

pub fn source_folder(source: &Source) -> String {
    format!("database={}/entity={}", source.database, source.entity)
}

/// An object as a store lists it.
#[derive(Debug)]
pub struct Listed {
    key: String,
    version: String,
    size: u64,
    is_archived: bool,
}

/// Lists both layouts of a source.
pub async fn list(bronze: &Store, source: &Source, selection: &Selection) -> Result<Listing, StoreError> {
    let (found, listed) = mpsc::channel(LISTED_AHEAD);
    let collected = async { Ok(collect(listed, source, |_, _| false).await) };
    let ((), listing) = tokio::try_join!(send(bronze, source, selection, found), collected)?;
    Ok(listing)
}

/// Tells what a source has, as long as somebody listens; by a task of its own, for there may be very many to compare.
pub async fn send(bronze: &Store, source: &Source, selection: &Selection, to: mpsc::Sender<Vec<Listed>>) -> Result<(), StoreError> {
    let folder = source_folder(source);
    let task = tokio::spawn(tell(bronze.clone(), folder.clone(), selection.clone(), to));
    task.await.unwrap_or_else(|error| Err(bronze.interrupted(Action::List, &folder, error)))
}

async fn tell(bronze: Store, folder: String, selection: Selection, to: mpsc::Sender<Vec<Listed>>) -> Result<(), StoreError> {
    let within = selection.clone();
    let entries = bronze.list_wide(&folder, LEVELS, move |folder| within.takes_dates(&path_values(folder)));
    let mut entries = entries.ready_chunks(LISTED_TOGETHER);
    while let Some(some) = entries.next().await {
        let some: Vec<(String, ObjectMeta)> = some.into_iter().collect::<Result<_, _>>()?;
        let taken = some.into_iter().filter(|(key, _)| selection.takes(key));
        let listed = taken.map(|(key, meta)| {
            let (version, is_archived) = (bronze.version_of(&meta), bronze.is_archived(&meta));
            Listed { key, version, size: meta.size, is_archived }
        });
        if to.send(listed.collect()).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// What a listing's names stand for; those that are known, by key and version, are only counted, because nobody needs to see them again.
pub async fn collect(listed: mpsc::Receiver<Vec<Listed>>, source: &Source, is_known: impl Fn(&str, &str) -> bool) -> Listing {
    let folder = source_folder(source);
    let mut listing = Listing::default();
    let runs = futures::stream::unfold(listed, |mut listed| async move { listed.recv().await.map(|run| (run, listed)) });
    let mut names = std::pin::pin!(runs.flat_map(futures::stream::iter));
    while let Some(Listed { key, version, size, is_archived }) = names.next().await {
        if is_known(&key, &version) {
            listing.known += 1;
            continue;
        }
        let inner = key.strip_prefix(&folder).unwrap_or(&key).trim_start_matches('/');
        let path = path_values(&key);
        if let Some(reason) = foreign(inner, &path, size) {
            *listing.skipped.entry(reason).or_default() += 1;
            continue;
        }
        let layout = layout_of(inner, &path);
        let object = BronzeObject { key, version, size, layout, path };
        if is_archived { listing.archived.push(object) } else { listing.objects.push(object) }
    }
    listing
}

/// Objects of an archive class that are as they were listed and have been restored; the others are left alone.
pub struct Settled {
    pub restored: Vec<BronzeObject>,
    pub left: Vec<BronzeObject>,
}

/// Asks about at most [`ARCHIVED_ASKED`] objects, from another one on each time, so that in the end all are asked about.
pub async fn settle_archived(bronze: &Store, mut archived: Vec<BronzeObject>) -> Result<Settled, StoreError> {
    archived.sort_by(|a, b| a.key.cmp(&b.key));
    if archived.len() > ARCHIVED_ASKED {
        let first = uuid::Uuid::new_v4().as_u128() % archived.len() as u128;
        archived.rotate_left(first as usize);
    }
    let mut left = archived.split_off(archived.len().min(ARCHIVED_ASKED));
    let (restored, unreadable) = readable(bronze, archived).await?;
    left.extend(unreadable);
    left.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(Settled { restored, left })
}

/// Those that can be read as they were listed, and the others; a request each.
pub async fn readable(bronze: &Store, objects: Vec<BronzeObject>) -> Result<(Vec<BronzeObject>, Vec<BronzeObject>), StoreError> {
    let mut answers = futures::stream::iter(objects.into_iter().map(|object| async {
        let readable = bronze.is_readable(&object.key, Some(&object.version)).await;
        readable.map(|readable| (object, readable))
    }))
    .buffered(ASKED_AT_ONCE);
    let (mut yes, mut no) = (Vec::new(), Vec::new());
    while let Some((object, readable)) = answers.try_next().await? {
        if readable { yes.push(object) } else { no.push(object) }
    }
    Ok((yes, no))
}

pub fn layout_of(key: &str, path: &PathValues) -> Layout {
    if path.day.is_some() || key.contains("/day=") { Layout::Firehose } else { Layout::YearRoot }
}

/// The path day of an object, from its key alone.
pub fn extent_of(key: &str) -> String {
    let path = path_values(key);
    order::extent_of(layout_of(key, &path), &path)
}

/// Why an object is not read, if it is not.
fn foreign(inner: &str, path: &PathValues, size: u64) -> Option<&'static str> {
    let mut parts = inner.split('/').rev();
    let name = parts.next().unwrap_or_default();
    if inner.split('/').any(|part| part.ends_with("-failed") || part.ends_with("_failed") || part == "errors") {
        return Some("Firehose error objects");
    }
    let hidden = |part: &str| part.starts_with('_') || part.starts_with('.');
    // What consoles and file system adapters put to make a folder seen; listings drop the slash at its end.
    let folder = size == 0 && ["year=", "month=", "day="].iter().any(|column| name.starts_with(column));
    if folder || hidden(name) || parts.any(hidden) || name.is_empty() || name.ends_with("_$folder$") {
        return Some("markers and hidden files");
    }
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    if let Some("parquet" | "orc" | "avro" | "csv" | "crc" | "tmp" | "md5" | "sha256") = extension.as_deref() {
        return Some("files of other formats");
    }
    (path.year.is_none() && !inner.contains("year=")).then_some("objects outside of a year folder")
}

/// `column=value` folders of a key, as written; Hive's default partition is none.
pub fn path_values(key: &str) -> PathValues {
    let mut values = PathValues::default();
    let folders = key.rsplit_once('/').map_or("", |(folders, _)| folders);
    for part in folders.split('/') {
        let Some((column, value)) = part.split_once('=') else { continue };
        let value = (value != crate::domain::HIVE_DEFAULT).then(|| value.to_owned());
        match column {
            "database" => values.database = value,
            "entity" => values.entity = value,
            "year" => values.year = value,
            "month" => values.month = value,
            "day" => values.day = value,
            _ => {}
        }
    }
    values
}

impl Selection {
    fn takes(&self, key: &str) -> bool {
        let named = self.only.as_ref().is_none_or(|only| only.contains(key));
        let anytime = self.from.is_none() && self.to.is_none() && self.revisit_from.is_none();
        let dated = anytime || self.takes_dates(&path_values(key));
        named && dated && self.shard.is_none_or(|(i, n)| shard_of(key, n) == i)
    }

    /// Firehose by its day, other layouts if the span that their path names intersects.
    fn takes_dates(&self, path: &PathValues) -> bool {
        let number = |text: &Option<String>, most: i64| text.as_deref()?.parse::<i64>().ok().filter(|value| (1..=most).contains(value));
        let Some(year) = number(&path.year, 9999) else { return true };
        let month = number(&path.month, 12);
        let (first, last) = match (month, number(&path.day, 31)) {
            (Some(month), Some(day)) => (days_from_civil(year, month, day), days_from_civil(year, month, day)),
            (Some(month), None) => (days_from_civil(year, month, 1), days_from_civil(year, month + 1, 1) - 1),
            _ => (days_from_civil(year, 1, 1), days_from_civil(year, 12, 31)),
        };
        let in_sight = month.is_none() || self.revisit_from.is_none_or(|from| last >= i64::from(from));
        in_sight && self.from.is_none_or(|from| last >= i64::from(from)) && self.to.is_none_or(|to| first <= i64::from(to))
    }
}

/// 1 to `n`, from the relative key alone.
pub fn shard_of(key: &str, n: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key.as_bytes()) % n.max(1) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_to_leave_alone() {
        let why = |inner: &str| foreign(inner, &path_values(inner), 1);
        assert_eq!(foreign("year=2024/month=01", &path_values("year=2024/month=01"), 0), Some("markers and hidden files"));
        assert_eq!(why("year=2024/month=01"), None);
        assert_eq!(why("year=2024/a.json"), None);
        assert_eq!(why("year=2024/no extension é"), None);
        assert_eq!(why("year=2025/month=01/day=01/processing-failed/x"), Some("Firehose error objects"));
        assert_eq!(why("year=2024/_SUCCESS"), Some("markers and hidden files"));
        assert_eq!(why("year=2024/_temporary/0/part"), Some("markers and hidden files"));
        assert_eq!(why("year=2024/a.parquet"), Some("files of other formats"));
        assert_eq!(why("a.json"), Some("objects outside of a year folder"));
        assert_eq!(why("year=__HIVE_DEFAULT_PARTITION__/a.json"), None);
    }

    #[test]
    fn dates_select_objects() {
        let select = |key: &str, from: i64, to: i64| {
            let selection = Selection { from: Some(from as i32), to: Some(to as i32), ..Selection::default() };
            selection.takes(key)
        };
        let day = days_from_civil(2024, 3, 5);
        assert!(select("year=2024/month=03/day=05/x", day, day));
        assert!(!select("year=2024/month=03/day=06/x", day, day));
        assert!(select("year=2024/x", day, day));
        assert!(!select("year=2023/x", day, day));
    }

    #[test]
    fn old_folders_are_left_out_and_years_are_not() {
        let selection = Selection { revisit_from: Some(days_from_civil(2024, 3, 5) as i32), ..Selection::default() };
        for (key, taken) in [
            ("year=2024/month=03/day=05/x", true),
            ("year=2024/month=03/day=04/x", false),
            ("year=2024/month=03/x", true),
            ("year=2024/month=02/x", false),
            ("year=2020/x", true),
            ("year=2020/month=?/day=01/x", true),
        ] {
            assert_eq!(selection.takes(key), taken, "{key}");
        }
    }

    #[test]
    fn shards_part_the_keys() {
        for n in [1, 3, 7] {
            assert!((0..1000).all(|key| (1..=n).contains(&shard_of(&format!("k{key}"), n))));
        }
    }
}
