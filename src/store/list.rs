//! Listing a bucket side by side: what one page does not hold is split by folders.
//!
//! The first page of a prefix is asked for flat: most prefixes are done with it. Where more is left, one listing with the delimiter
//! tells the folders behind the last key seen, and each is walked the same way at the same time as the others, the one that holds the
//! last key from there on. No page is asked for twice, and only pages in flight are held.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::{ListResult, ObjectMeta};
use tokio::sync::{Semaphore, mpsc};

use super::s3::Bucket;

/// Listings at the same time.
const SIDE_BY_SIDE: usize = 16;
/// Pages that wait for whoever reads the listing.
const PAGES_AHEAD: usize = 8;

type Page = object_store::Result<Vec<ObjectMeta>>;
pub type Keep = Arc<dyn Fn(&str) -> bool + Send + Sync>;

struct Walk {
    bucket: Arc<Bucket>,
    pages: mpsc::Sender<Page>,
    turns: Semaphore,
    /// Whether a folder is wanted.
    keep: Keep,
}

/// Every object below `prefix` (which ends in `/` or is empty), in no order; `levels` of folders are split.
pub fn list(bucket: Arc<Bucket>, prefix: String, levels: usize, keep: Keep) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
    let (pages, received) = mpsc::channel(PAGES_AHEAD);
    let walk = Arc::new(Walk { bucket, pages, turns: Semaphore::new(SIDE_BY_SIDE), keep });
    tokio::spawn(async move {
        if let Err(error) = walk.clone().folder(prefix, None, levels).await {
            let _ = walk.pages.send(Err(error)).await;
        }
    });
    futures::stream::unfold(received, |mut received| async move { received.recv().await.map(|page| (page, received)) })
        .flat_map(|page| match page {
            Ok(objects) => futures::stream::iter(objects.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => futures::stream::iter(vec![Err(error)]),
        })
        .boxed()
}

impl Walk {
    async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        folders: bool,
        token: Option<String>,
    ) -> object_store::Result<(ListResult, Option<String>)> {
        let _turn = self.turns.acquire().await;
        let options = PaginatedListOptions {
            offset: after.map(str::to_owned),
            delimiter: folders.then_some(Cow::Borrowed("/")),
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let page = self.bucket.client.list_paginated((!prefix.is_empty()).then_some(prefix), options).await?;
        // Some servers end with an empty token instead of none.
        Ok((page.result, page.page_token.filter(|token| !token.is_empty())))
    }

    /// `false` where nobody listens any more.
    async fn send(&self, objects: Vec<ObjectMeta>) -> bool {
        objects.is_empty() || self.pages.send(Ok(objects)).await.is_ok()
    }

    fn folder(self: Arc<Self>, prefix: String, after: Option<String>, levels: usize) -> BoxFuture<'static, object_store::Result<()>> {
        async move {
            let (mut first, mut token) = self.page(&prefix, after.as_deref(), false, None).await?;
            while first.objects.is_empty() && token.is_some() {
                (first, token) = self.page(&prefix, after.as_deref(), false, token).await?;
            }
            let last = first.objects.last().map(|object| object.location.to_string());
            if !self.send(first.objects).await {
                return Ok(());
            }
            if levels == 0 {
                while token.is_some() {
                    let (page, next) = self.page(&prefix, after.as_deref(), false, token).await?;
                    if !self.send(page.objects).await {
                        return Ok(());
                    }
                    token = next;
                }
                return Ok(());
            }
            match (token, last) {
                (Some(_), Some(last)) => self.split(prefix, last, levels).await,
                _ => Ok(()),
            }
        }
        .boxed()
    }

    /// What lies behind `last`, folder by folder.
    async fn split(self: Arc<Self>, prefix: String, last: String, levels: usize) -> object_store::Result<()> {
        // Whether a listing from within a folder names that folder again differs between servers.
        let mut folders: BTreeSet<String> = folder_of(&prefix, &last).into_iter().collect();
        let mut token = None;
        loop {
            let (page, next) = self.page(&prefix, Some(&last), true, token).await?;
            folders.extend(page.common_prefixes.iter().map(|folder| format!("{folder}/")));
            if !self.send(page.objects.into_iter().filter(|object| object.location.as_ref() > last.as_str()).collect()).await {
                return Ok(());
            }
            token = next;
            if token.is_none() {
                break;
            }
        }
        let wanted = folders.into_iter().filter(|folder| (self.keep)(folder));
        let walks = wanted.map(|folder| {
            let after = last.starts_with(&folder).then(|| last.clone());
            self.clone().folder(folder, after, levels - 1)
        });
        let mut walks: futures::stream::FuturesUnordered<_> = walks.collect();
        while let Some(done) = walks.next().await {
            done?;
        }
        Ok(())
    }
}

/// The folder right below `prefix` that holds `key`.
fn folder_of(prefix: &str, key: &str) -> Option<String> {
    let inner = key.strip_prefix(prefix)?;
    inner.split_once('/').map(|(folder, _)| format!("{prefix}{folder}/"))
}
