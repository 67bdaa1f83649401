//! One object that is written piece by piece: in one request if it is small, else in parts of equal size, some at a time.
//!
//! Nobody sees it before [`Upload::finish`]. One that is given up leaves no parts behind, as far as the store can still be asked; what
//! then stays is what a bucket's rule for unfinished uploads is for.

use bytes::{Bytes, BytesMut};
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use super::{Action, Store, StoreError};

/// Bytes of a part: the least that S3 takes.
const PART: usize = 5 << 20;
/// Parts on their way at the same time.
const PARTS_AT_ONCE: usize = 10;

#[derive(Debug)]
pub struct Upload {
    store: Store,
    path: String,
    waiting: BytesMut,
    parts: Option<Box<dyn MultipartUpload>>,
    sent: JoinSet<object_store::Result<()>>,
}

impl Store {
    /// Begins to write an object; nothing is sent yet.
    pub fn upload(&self, path: &str) -> Upload {
        Upload { store: self.clone(), path: path.to_owned(), waiting: BytesMut::new(), parts: None, sent: JoinSet::new() }
    }
}

impl Upload {
    pub async fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.waiting.extend_from_slice(bytes);
        while self.waiting.len() >= PART {
            let part = self.waiting.split_to(PART).freeze();
            self.send(part).await.map_err(|source| self.failed(source))?;
        }
        Ok(())
    }

    async fn send(&mut self, part: Bytes) -> object_store::Result<()> {
        if self.parts.is_none() {
            self.parts = Some(self.store.root.put_multipart(&self.store.locate(&self.path)).await?);
        }
        while self.sent.len() >= PARTS_AT_ONCE {
            self.arrived().await?;
        }
        if let Some(parts) = &mut self.parts {
            self.sent.spawn(parts.put_part(PutPayload::from(part)));
        }
        Ok(())
    }

    async fn arrived(&mut self) -> object_store::Result<()> {
        self.sent.join_next().await.unwrap_or(Ok(Ok(()))).unwrap_or_else(|error| Err(error.into()))
    }

    /// The object is there after it. Where this fails, it was given up.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        match self.complete().await {
            Ok(()) => Ok(()),
            Err(source) => {
                let failed = self.failed(source);
                self.abort().await;
                Err(failed)
            }
        }
    }

    async fn complete(&mut self) -> object_store::Result<()> {
        let rest = self.waiting.split().freeze();
        if self.parts.is_none() {
            self.store.root.put(&self.store.locate(&self.path), PutPayload::from(rest)).await?;
            return Ok(());
        }
        if !rest.is_empty() {
            self.send(rest).await?;
        }
        while !self.sent.is_empty() {
            self.arrived().await?;
        }
        match &mut self.parts {
            Some(parts) => parts.complete().await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Gives it up.
    pub async fn abort(mut self) {
        self.sent.shutdown().await;
        if let Some(mut parts) = self.parts.take()
            && let Err(error) = parts.abort().await
        {
            tracing::debug!(path = self.path, %error, "an upload could not be given up; its parts go when the bucket's rule says so");
        }
    }

    fn failed(&self, source: object_store::Error) -> StoreError {
        self.store.access(Action::Write, &self.path)(source)
    }
}
